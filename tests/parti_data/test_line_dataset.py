from itertools import pairwise

import numpy as np
import pytest

from parti_data import text_lines
from parti_data.caption_ids import TextReading
from parti_data.line_dataset import LineDataset
from parti_data.scenes import COLOURS, SHAPES
from parti_data.text import END, PAD, TextTokenizer
from parti_data.text_lines import TextLines, find_line_files, index_lines
from parti_data.token_rows import Share

COUNT = 700
ALONE = Share()


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Many short lines in two files, in more chunks than are mixed at a time."""
    folder = tmp_path_factory.mktemp("lines")
    texts = [f"a ring number {number}" for number in range(COUNT)]
    (folder / "a.txt").write_text("\n".join(texts[:400]) + "\n")
    (folder / "b.txt").write_text("\n".join(texts[400:]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(text_lines, "CHUNK_BYTES", 512)
        files = find_line_files(f"{folder}/*.txt", "source")
        index_lines(files, f"{folder}/lines.parquet")
    found = TextLines(files, f"{folder}/lines.parquet")
    assert len(found.chunk_lines) > 20
    return found


@pytest.fixture
def make(lines, text_file):
    def make(batch_size=32, length=16, seed=3, share=ALONE, **reading):
        return LineDataset(lines, TextReading(length=length, tokenizer=text_file, **reading), batch_size, seed, share)

    return make


def test_each_epoch_has_every_line_once_in_an_order_of_its_own(make):
    dataset = make(batch_size=50)
    epochs = [[key for batch in dataset.epoch(number) for key in batch.keys] for number in (0, 1)]
    assert dataset.num_rows == COUNT
    for keys in epochs:
        assert len(keys) == len(set(keys)) == COUNT
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    steps = [key for step in range(28) for key in dataset.batch(step).keys]
    assert steps == epochs[0] + epochs[1]


def test_a_batch_is_a_function_of_its_step_and_ranks_take_turns(make):
    whole = [make().batch(step) for step in (40, 3, 21)]
    dataset, ranks = make(), [make(share=Share(rank, 2)) for rank in (0, 1)]
    for step, batch in zip((40, 3, 21), whole, strict=True):
        assert dataset.batch(step).keys == batch.keys
        for rank, one in enumerate(ranks):
            assert one.batch(step).keys == batch.keys[rank::2]
            assert np.array_equal(one.batch(step).text_ids, batch.text_ids[rank::2])


def test_lines_of_one_chunk_are_not_neighbours(make):
    places = [key.rpartition(":")[0] for key in make(batch_size=COUNT).batch(0).keys]
    assert np.mean([a == b for a, b in pairwise(places)]) < 0.15


def test_ids_are_the_tokenizers_cut_and_padded(make, lines, text_file):
    chunks = [lines.read(number) for number in range(len(lines.chunk_lines))]
    by_place = {line.place: line.text for chunk in chunks for line in map(chunk.line, range(len(chunk)))}
    tokenizer = TextTokenizer(text_file)
    for length in (8, 64):
        batch = make(length=length).batch(7)
        for key, ids in zip(batch.keys, batch.text_ids.tolist(), strict=True):
            wanted = tokenizer.encode(by_place[key])
            wanted = wanted if len(wanted) <= length else [*wanted[: length - 1], END]
            assert ids == wanted + [PAD] * (len(ids) - len(wanted))
        assert (batch.text_ids[:, -1] != PAD).any()
    assert make(length=64, pad_to="length").batch(0).text_ids.shape == (32, 64)


def test_all_of_a_long_line_is_read_in_the_end_from_words_on(tmp_path, text_file):
    words = [*COLOURS, *SHAPES]
    (tmp_path / "long.txt").write_text(" ".join(words) + "\n" + "x" * 500 + "\n")
    files = find_line_files(f"{tmp_path}/long.txt", "source")
    index_lines(files, f"{tmp_path}/lines.parquet")
    dataset = LineDataset(TextLines(files, f"{tmp_path}/lines.parquet"), TextReading(length=8, tokenizer=text_file), 2)
    tokenizer, seen, starts = TextTokenizer(text_file), "", set()
    for step in range(100):
        batch = dataset.batch(step)
        text = tokenizer.decode(batch.text_ids[[key.endswith(":0") for key in batch.keys].index(True)].tolist())
        starts.add(text.split()[0])
        seen += f" {text}"
    assert starts <= set(words)
    assert len(starts) > len(words) // 2
    assert set(words) <= set(seen.split())
