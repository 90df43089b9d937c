from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from parti_data.caption_ids import CaptionTokenizer, TextReading, choose_captions, pad_lines, text_rows
from parti_data.text import END, PAD, TextTokenizer

IDS = [[[5, 6, 2], [7, 2]], [], [[8, 9, 10, 11, 12, 2]]]
CAPTIONS = [["a", "b"], [], ["c"]]


def rows(length: int):
    ids = pa.array(IDS, pa.list_(pa.list_(pa.uint16())))
    return text_rows(pa.array(CAPTIONS, pa.list_(pa.string())), ids, length)


def test_captions_stand_with_their_ids_and_a_row_without_one_has_an_empty_one():
    found = rows(8)
    assert found.starts.tolist() == [0, 2, 3, 4]
    assert found.captions.tolist() == ["a", "b", "", "c"]
    assert found.lines.tolist() == [
        [3, 5, 6, 2, 0, 0, 0], [2, 7, 2, 0, 0, 0, 0], [1, END, 0, 0, 0, 0, 0], [6, 8, 9, 10, 11, 12, 2]
    ]  # fmt: skip
    assert found.lines.dtype == np.uint16


def test_what_is_cut_ends_with_end_and_says_how_long_it_was():
    assert rows(4).lines.tolist() == [[3, 5, 6, 2, 0], [2, 7, 2, 0, 0], [1, END, 0, 0, 0], [6, 8, 9, 10, END]]


@pytest.mark.parametrize("length", [1, 3, 20])
def test_padding_is_what_a_plain_loop_gives(length):
    generator = np.random.default_rng(0)
    lists = [generator.integers(3, 99, size=generator.integers(0, 9)).tolist() for _ in range(40)]
    starts = np.concatenate([[0], np.cumsum([len(line) for line in lists])])
    found = pad_lines(starts, np.concatenate(lists).astype(np.uint32), length)
    for line, row in zip(lists, found.tolist(), strict=True):
        cut = line if len(line) <= length else [*line[: length - 1], END]
        assert row == [len(line), *cut, *[PAD] * (found.shape[1] - 1 - len(cut))]


@pytest.mark.parametrize(
    ("weights", "shares"),
    [((), [1 / 3] * 3), ((1, 1, 2), [0.25, 0.25, 0.5]), ((3, 1), [0.6, 0.2, 0.2]), ((0, 1), [0, 0.5, 0.5])],
)
def test_captions_come_by_their_weights(weights, shares):
    luck = np.random.default_rng(0).random(30_000)
    chosen = choose_captions(np.full(30_000, 3), luck, weights)
    np.testing.assert_allclose(np.bincount(chosen, minlength=3) / 30_000, shares, atol=0.01)


def test_each_row_chooses_among_its_own_captions():
    counts = np.array([1, 2, 5, 1] * 500)
    for weights in ((), (0.1, 2, 1), (1, 0)):
        chosen = choose_captions(counts, np.random.default_rng(0).random(2000), weights)
        assert (chosen < counts).all()
        assert (chosen >= 0).all()
    assert choose_captions(np.array([1]), np.array([0.7]), (0, 1)).tolist() == [0]


def test_captions_are_tokenized_again(text_file):
    tokenizer = TextTokenizer(text_file)
    again = CaptionTokenizer(TextReading(tokenizer=text_file, length=30))
    captions = ["a red circle", "two squares"]
    lines = again.lines(captions, np.zeros(2, np.uint64))
    assert [line[1 : 1 + line[0]].tolist() for line in lines] == [tokenizer.encode(caption) for caption in captions]
    assert (again.vocabulary_size, again.fingerprint) == (tokenizer.vocabulary_size, tokenizer.fingerprint)


def test_bpe_dropout_is_a_function_of_the_caption_and_its_number(text_file):
    again = CaptionTokenizer(TextReading(tokenizer=text_file, length=60, bpe_dropout=0.5))
    tokenizer = TextTokenizer(text_file)
    captions = ["a large red circle above a small blue square"] * 20
    numbers = np.arange(20, dtype=np.uint64) << np.uint64(40)
    lines = again.lines(captions, numbers)
    ids = [tuple(line[1 : 1 + line[0]].tolist()) for line in lines]
    assert len(set(ids)) > 10
    assert {tokenizer.decode(list(line)) for line in ids} == {captions[0]}
    backwards = again.lines(captions[::-1], numbers[::-1])
    np.testing.assert_array_equal(backwards[::-1], lines)


def test_bpe_dropout_draws_as_sentencepiece_does(text_file):
    """At a share of merges near all, words fall apart into characters; at none they are whole."""
    tokenizer = TextTokenizer(text_file)
    caption = "a red circle"
    apart = Counter(len(tokenizer.encode_with_dropout(caption, 0.999, number)) for number in range(10))
    assert max(apart) == len(caption) + 2  # a mark before the first word, and END
    assert tokenizer.encode_with_dropout(caption, 1e-9, 0) == tokenizer.encode(caption)
