import errno
import hashlib
import pickle
import subprocess
import sys
from collections import Counter
from concurrent.futures import wait
from contextlib import suppress
from itertools import islice
from pathlib import Path
from random import Random
from traceback import walk_tb

import numpy as np
import pyarrow as pa
import pytest

from parti_data import ShardReading, TextReading, TokenBatch, TokenDataset, row_order
from parti_data.errors import ShardError, StorageError
from parti_data.manifest import Beginning, begin, record_shard, shard_name
from parti_data.row_groups import RowGroupReader
from parti_data.shard_files import ShardFiles
from parti_data.storage import join
from parti_data.text import END, PAD
from parti_data.token_directory import METADATA as STATED
from parti_data.token_directory import ROW_GROUP
from parti_data.token_shard import ShardMetadata, TokenRow, to_table, write_tables

METADATA = ShardMetadata(
    image_tokenizer="ab" * 32, image_tokenizer_name="vit_vqgan", codebook_size=256, grid_side=2, image_side=32,
    resize_recipe="resize_center", resize_library="pillow 1", precision="float32", text_tokenizer="cd" * 32,
    text_vocabulary_size=1000, config_digest="e", input_digest="f",
)  # fmt: skip
NUM_ROWS = 103
FIRST_ROWS = [14, 48, 36, 22, 9, 63, 31, 12]
GROUP_ROWS = 5
SHARED_BY_8 = 840
"""A batch size that one to eight ranks share evenly."""


def make_row(number: int) -> TokenRow:
    """A row whose ids all follow from its number; one to three captions of one to five ids."""
    key = hashlib.sha256(str(number).encode()).hexdigest()[:32]
    text_ids = [[10 + number % 900, *range(3, 3 + number % 4), 2 + caption] for caption in range(1 + number % 3)]
    captions = [f"{number} {caption}" for caption in range(len(text_ids))]
    tokens = np.array([number % 256, 1, 2, 3])
    box = [number, 1, 2, 3]
    return TokenRow(key, number % 3, box, number % 2 == 1, captions, text_ids, tokens, "made up", str(number))


ROWS = {row.key: row for row in map(make_row, range(NUM_ROWS))}


def write_dataset(
    path: str, metadata: list[ShardMetadata], num_rows: int = NUM_ROWS, group_rows: int = GROUP_ROWS
) -> str:
    """A finished tokenize directory, a shard for each metadata, in row groups of `group_rows`."""
    directory = begin(path, Beginning(stage="tokenize", config={"rows": num_rows}, inputs={}))
    rows = [make_row(number) for number in range(num_rows)]
    records = []
    for number, shard_metadata in enumerate(metadata):
        name = shard_name("tokens", number, len(metadata), "parquet")
        mine = rows[number :: len(metadata)]
        groups = [mine[start : start + group_rows] for start in range(0, max(len(mine), 1), group_rows)]
        write_tables(join(path, name), [to_table(group, metadata[0]) for group in groups], shard_metadata)
        records.append(record_shard(path, name, len(mine)))
    details = {STATED: metadata[0].model_dump(mode="json"), ROW_GROUP: group_rows}
    directory.finish(records, {"rows": num_rows}, details)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return write_dataset(str(tmp_path_factory.mktemp("tokens") / "d"), [METADATA, METADATA])


@pytest.fixture(params=["whole", "window", "lanes"])
def mixing(request, monkeypatch) -> str:
    """Few rows are mixed all together; a small window mixes as many are; and so do lanes, each with its own."""
    if request.param != "whole":
        monkeypatch.setattr(row_order, "WINDOW_ROWS", 4 * GROUP_ROWS)
    if request.param == "lanes":
        monkeypatch.setattr(row_order, "LANES", 4)
        monkeypatch.setattr(row_order, "_GROUPS_A_LANE", 1)
    return request.param


def ask_again(dataset: TokenDataset, step: int, passing: type[BaseException]) -> TokenBatch:
    """The batch of a step, however often, within reason, such an error comes first: each row group says its own."""
    for _ in range(1000):
        with suppress(passing):
            return dataset.batch(step)
    raise AssertionError(f"{passing.__name__} does not pass")


def take(dataset: TokenDataset, count: int) -> list[TokenBatch]:
    return list(islice(dataset, count))


def assert_equal(found: list[TokenBatch], expected: list[TokenBatch]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        for name, one, other in zip(TokenBatch._fields, mine, theirs, strict=True):
            np.testing.assert_array_equal(one, other, name)
            assert getattr(one, "dtype", None) == getattr(other, "dtype", None)


def join_ranks(slices: list[TokenBatch]) -> TokenBatch:
    """The global batch of all ranks' slices, which take turns in it, padded as one."""

    def join(parts: list) -> object:
        if isinstance(parts[0], np.ndarray):
            return np.stack(parts, 1).reshape(-1, *parts[0].shape[1:])
        return [value for values in zip(*parts, strict=True) for value in values]

    longest = max(part.text_ids.shape[1] for part in slices)
    slices = [
        part._replace(text_ids=np.pad(part.text_ids, ((0, 0), (0, longest - part.text_ids.shape[1]))))
        for part in slices
    ]
    whole = {
        name: join([getattr(part, name) for part in slices]) for name in TokenBatch._fields[1:] if name != "num_cut"
    }
    return TokenBatch(step=slices[0].step, num_cut=sum(part.num_cut for part in slices), **whole)


def unpadded(ids: np.ndarray) -> list[int]:
    return [int(i) for i in ids if i != PAD]


@pytest.mark.parametrize("batch_size", [1, 8, NUM_ROWS, 250])
def test_every_row_comes_once_an_epoch(path, mixing, batch_size):
    dataset = TokenDataset(path, batch_size)
    keys = [key for batch in take(dataset, -(-3 * NUM_ROWS // batch_size)) for key in batch.keys]
    for epoch in range(3):
        assert Counter(keys[epoch * NUM_ROWS : (epoch + 1) * NUM_ROWS]) == Counter(ROWS.keys())


def test_a_row_comes_with_all_that_is_its_own(path, mixing):
    for batch in take(TokenDataset(path, 16), 10):
        assert batch.text_ids.dtype == batch.image_tokens.dtype == np.uint16
        for number, key in enumerate(batch.keys):
            row = ROWS[key]
            assert batch.image_tokens[number].tolist() == row.image_tokens.tolist()
            ids = batch.text_ids[number][: batch.text_lengths[number]].tolist()
            assert ids == row.text_ids[row.captions.index(batch.captions[number])]
            assert not batch.text_ids[number][batch.text_lengths[number] :].any()
            assert batch.boxes[number].tolist() == row.box
            assert (batch.views[number], batch.flipped[number]) == (row.view, row.flipped)
            assert (batch.sources[number], batch.source_keys[number]) == (row.source, row.source_key)


def test_epochs_have_different_orders_and_so_have_seeds(path):
    epochs = [TokenDataset(path, NUM_ROWS).batch(epoch).keys for epoch in range(3)]
    assert len({tuple(keys) for keys in [*epochs, TokenDataset(path, NUM_ROWS, seed=1).batch(0).keys]}) == 4
    assert epochs[0] != list(ROWS)


def test_rows_of_many_row_groups_are_mixed(path):
    order = {key: number for number, key in enumerate(ROWS)}
    first = [order[key] for key in TokenDataset(path, 20).batch(0).keys]
    assert len({number // (2 * GROUP_ROWS) for number in first}) > 4


def test_the_same_arguments_give_the_same_batches(path):
    assert_equal(take(TokenDataset(path, 16), 15), take(TokenDataset(path, 16), 15))


def test_a_batch_does_not_depend_on_what_was_asked_before(path, mixing):
    dataset = TokenDataset(path, 16)
    backwards = [dataset.batch(step) for step in reversed(range(30))]
    assert_equal(backwards[::-1], take(TokenDataset(path, 16), 30))


def test_a_batch_does_not_depend_on_the_threads(path, mixing):
    one, many = (TokenDataset(path, 16, reading=ShardReading(decode_threads=threads)) for threads in (1, 5))
    assert_equal(take(one, 20), take(many, 20))


def test_the_first_keys_never_change(path):
    numbers = [int(ROWS[key].source_key) for key in TokenDataset(path, 8).batch(0).keys]
    assert numbers == FIRST_ROWS


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8])
def test_the_ranks_slices_joined_are_the_global_batch(path, mixing, world_size):
    whole = take(TokenDataset(path, 24), 12)
    ranks = [take(TokenDataset(path, 24, rank=rank, world_size=world_size), 12) for rank in range(world_size)]
    assert_equal([join_ranks(list(slices)) for slices in zip(*ranks, strict=True)], whole)


def test_a_state_is_the_same_of_any_rank_of_any_number(large):
    states = []
    for world_size in range(1, 9):
        dataset = TokenDataset(large, SHARED_BY_8, rank=world_size - 1, world_size=world_size)
        take(dataset, 2)
        states.append(pickle.dumps(dataset.state_dict()))
    assert len(set(states)) == 1


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> str:
    """Ten batches of SHARED_BY_8 and some rows, in 21 row groups."""
    path = str(tmp_path_factory.mktemp("tokens") / "large")
    return write_dataset(path, [METADATA] * 3, 10 * SHARED_BY_8 + 7, 420)


@pytest.fixture(scope="module")
def fifty(large) -> list[TokenBatch]:
    dataset = TokenDataset(large, SHARED_BY_8)
    return [dataset.batch(step) for step in range(17, 67)]


@pytest.mark.parametrize("world_size", range(1, 9))
def test_any_number_of_ranks_goes_on_exactly_from_a_state(large, fifty, world_size):
    state = TokenDataset(large, SHARED_BY_8).state_dict() | {"step": 17}
    ranks = [TokenDataset(large, SHARED_BY_8, rank=rank, world_size=world_size) for rank in range(world_size)]
    for dataset in ranks:
        dataset.load_state_dict(state)
    for expected, *slices in zip(fifty, *ranks, strict=False):
        assert_equal([join_ranks(slices)], [expected])


def test_resuming_at_any_step_gives_what_comes_after_it(path, mixing):
    whole = take(TokenDataset(path, 16), 60)
    for step in range(0, 30, 7):
        resumed = TokenDataset(path, 16)
        resumed.load_state_dict(whole_state(path, step))
        assert_equal(take(resumed, 30), whole[step : step + 30])


def whole_state(path: str, step: int) -> dict:
    return TokenDataset(path, 16).state_dict() | {"step": step}


def test_the_state_is_plain_and_says_the_step(path):
    dataset = TokenDataset(path, 16, seed=3)
    take(dataset, 4)
    assert dataset.state_dict() == {"step": 4, "seed": 3, "batch_size": 16, "digest": dataset.digest, "order": 3}


def test_the_state_of_another_dataset_is_refused(path, tmp_path):
    other = write_dataset(f"{tmp_path}/other", [METADATA], 20)
    with pytest.raises(ShardError, match=r"expected a state with digest \w+, found \w+; resume with what the run was"):
        TokenDataset(path, 16).load_state_dict(TokenDataset(other, 16).state_dict())


@pytest.mark.parametrize(("name", "mine", "theirs"), [("seed", 0, 1), ("batch_size", 16, 8)])
def test_the_state_of_another_run_is_refused(path, name, mine, theirs):
    arguments = {"batch_size": 16, "seed": 0}
    other = TokenDataset(path, **(arguments | {name: theirs}))
    with pytest.raises(ShardError, match=f"expected a state with {name} {mine}, found {theirs}; resume with what"):
        TokenDataset(path, **arguments).load_state_dict(other.state_dict())


def test_the_state_of_another_order_is_refused(path):
    dataset = TokenDataset(path, 16)
    state = dataset.state_dict()
    del state["order"]
    with pytest.raises(ShardError, match="expected a state with order 3, found None; resume with what the run was"):
        dataset.load_state_dict(state)


@pytest.mark.parametrize("step", [-1, None, "3"])
def test_a_state_without_a_step_is_refused(path, step):
    dataset = TokenDataset(path, 16)
    with pytest.raises(ShardError, match=f"expected a state with a step from 0 on, found {step!r}"):
        dataset.load_state_dict(dataset.state_dict() | {"step": step})


def test_steps_before_the_first_and_other_ends_are_refused(path):
    with pytest.raises(ShardError, match="expected a step from 0 on, found -1"):
        TokenDataset(path, 16).batch(-1)
    with pytest.raises(ShardError, match=r"expected for exhausted one of \('repeat', .*\), found 'never'"):
        TokenDataset(path, 16, exhausted="never")  # type: ignore[arg-type]


@pytest.mark.parametrize(("batch_size", "rank", "world_size"), [(10, 0, 4), (8, 4, 4), (8, -1, 4), (0, 0, 4)])
def test_ranks_that_do_not_share_a_batch_are_refused(path, batch_size, rank, world_size):
    with pytest.raises(
        ShardError, match=f"expected a batch size that 4 ranks share evenly .*found {batch_size} and {rank}"
    ):
        TokenDataset(path, batch_size, rank=rank, world_size=world_size)


def test_captions_vary_over_epochs_and_all_come_up(path):
    seen: dict[str, set[tuple[int, ...]]] = {key: set() for key in ROWS}
    dataset = TokenDataset(path, NUM_ROWS)
    for epoch in range(20):
        batch = dataset.batch(epoch)
        for key, text_ids in zip(batch.keys, batch.text_ids, strict=True):
            seen[key].add(tuple(unpadded(text_ids)))
    assert all(len(seen[key]) == len(row.text_ids) for key, row in ROWS.items())


def test_captions_come_by_weight(path):
    dataset = TokenDataset(path, NUM_ROWS, text=TextReading(caption_weights=(1, 0)))
    for epoch in range(3):
        batch = dataset.batch(epoch)
        assert [ROWS[key].captions[0] for key in batch.keys] == batch.captions


@pytest.mark.parametrize("pad_to", ["longest", "length"])
def test_text_is_cut_at_the_length_and_padded_behind_and_both_are_counted(path, pad_to):
    batch = TokenDataset(path, NUM_ROWS, text=TextReading(length=3, pad_to=pad_to)).batch(0)
    assert batch.text_ids.shape == (NUM_ROWS, 3)
    cut = 0
    for number, key in enumerate(batch.keys):
        ids = ROWS[key].text_ids[ROWS[key].captions.index(batch.captions[number])]
        expected = ids if len(ids) <= 3 else [*ids[:2], END]
        cut += len(ids) > 3
        assert batch.text_ids[number].tolist() == expected + [PAD] * (3 - len(expected))
        assert batch.text_lengths[number] == len(expected)
    assert batch.num_cut == cut > 0


def test_a_batch_is_as_wide_as_its_longest_text_or_as_was_told(path):
    for batch in take(TokenDataset(path, 4), 30):
        assert batch.text_ids.shape[1] == batch.text_lengths.max()
    for batch in take(TokenDataset(path, 4, text=TextReading(length=20, pad_to="length")), 5):
        assert batch.text_ids.shape[1] == 20


def test_captions_are_tokenized_again_with_dropout(path, text_file):
    text = TextReading(tokenizer=text_file, bpe_dropout=0.3, length=30)
    dataset = TokenDataset(path, 8, text=text)
    whole = take(dataset, 30)
    assert dataset.text_vocabulary_size == 128 != dataset.metadata.text_vocabulary_size
    assert_equal(take(TokenDataset(path, 8, text=text), 30), whole)
    ranks = [TokenDataset(path, 8, rank=rank, world_size=2, text=text).batch(20) for rank in range(2)]
    assert_equal([join_ranks(ranks)], [whole[20]])
    plain = take(TokenDataset(path, 8), 30)
    assert [batch.captions for batch in plain] == [batch.captions for batch in whole]


def test_a_batch_and_its_texts_need_no_pandas(tmp_path, monkeypatch):
    """Whose import takes longer than the first batch does; pyarrow does so by itself where it is installed."""
    bare = make_row(0)._replace(captions=[], text_ids=[])
    rows = [bare, *(make_row(number) for number in range(1, 16))]
    monkeypatch.setattr(f"{__name__}.make_row", rows.__getitem__)
    path = write_dataset(f"{tmp_path}/d", [METADATA], len(rows))
    code = (
        "import sys; from parti_data import TokenDataset; batch = TokenDataset(sys.argv[1], 16).batch(0); "
        "assert '' in list(batch.captions) and all(batch.keys); print('pandas' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    assert answer.stdout == "False\n"


def test_no_more_is_held_than_there_is_memory_for_and_what_was_drawn_makes_room(path, monkeypatch):
    monkeypatch.setattr(row_order, "WINDOW_ROWS", 4 * GROUP_ROWS)
    dataset = TokenDataset(path, 8)
    (rows,) = dataset._opened.rows
    num_slots = (4 + 1 + 2) * 4  # four row groups in the window and one a thread beside it, in four pieces each
    assert len(rows.slots.numbers) == num_slots * -(-GROUP_ROWS // 4) + 1
    most_held = 0
    for batch in islice(dataset, 40):
        assert batch.keys
        held = rows._reader._held.values()
        assert sum(len(one.slots) for one in held) + len(rows._reader._free) == num_slots
        most_held = max(most_held, len(held))
    assert most_held == 8  # four of which little more than half lies in memory, and four ahead


def test_steps_far_apart_are_what_they_are_in_order(path, mixing):
    """Row groups that are being decoded for what is skipped must not write where others lie."""
    whole = take(TokenDataset(path, 8), 120)
    dataset = TokenDataset(path, 8, reading=ShardReading(decode_threads=4))
    for step in np.random.default_rng(0).integers(120, size=40).tolist():
        assert_equal([dataset.batch(step)], [whole[step]])


def test_a_batch_may_span_many_windows_and_epochs(path, mixing):
    whole = [key for epoch in range(2) for key in TokenDataset(path, NUM_ROWS).batch(epoch).keys]
    assert TokenDataset(path, 2 * NUM_ROWS).batch(0).keys == whole


def test_an_epoch_alone_has_every_row_once_and_a_short_last_batch(path, mixing):
    ranks = [TokenDataset(path, 16, rank=rank, world_size=2) for rank in range(2)]
    for epoch in range(2):
        batches = [list(dataset.epoch(epoch)) for dataset in ranks]
        assert Counter(key for rank in batches for batch in rank for key in batch.keys) == Counter(ROWS.keys())
        assert [len(batch.keys) for batch in batches[0]][:-1] == [8] * 6


def test_iteration_may_end_before_or_after_the_last_row(path):
    for exhausted, num_steps in (("stop_at_first", 6), ("stop_at_last", 7)):
        dataset = TokenDataset(path, 16, exhausted=exhausted)
        assert len(dataset) == dataset.num_steps == len(list(dataset)) == num_steps
        assert list(dataset) == []
    assert TokenDataset(path, 16).num_steps is None
    assert len(TokenDataset(path, 16)) == 7


def test_another_process_goes_on_from_a_pickle(path):
    dataset = TokenDataset(path, 16)
    take(dataset, 3)
    assert_equal(take(pickle.loads(pickle.dumps(dataset)), 3), take(dataset, 3))


def test_a_closed_dataset_opens_again(path):
    dataset = TokenDataset(path, 16)
    first = dataset.batch(0)
    dataset.close()
    dataset.close()
    assert_equal([dataset.batch(0)], [first])


def spoil(path: str, shard: int) -> str:
    """Flip a bit in the middle of a shard; return its name."""
    place = sorted(Path(path).glob("tokens-*.parquet"))[shard]
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 4
    place.write_bytes(content)
    return place.name


def test_a_bad_shard_is_named(tmp_path):
    path = write_dataset(f"{tmp_path}/d", [METADATA, METADATA])
    name = spoil(path, 1)
    with pytest.raises(ShardError, match=f"{name}: expected SHA-256"):
        take(TokenDataset(path, 16), 10)


def test_other_rows_take_the_places_of_a_bad_shard_s_and_are_counted(tmp_path, mixing):
    path = write_dataset(f"{tmp_path}/d", [METADATA, METADATA])
    whole = take(TokenDataset(path, 16), 20)
    good = {key for number, key in enumerate(ROWS) if number % 2 == 0}
    name = spoil(path, 1)
    dataset = TokenDataset(path, 16, reading=ShardReading(on_bad_shard="skip"))
    found = take(dataset, 20)
    for batch, expected in zip(found, whole, strict=True):
        assert len(batch.keys) == 16
        assert set(batch.keys) == set(expected.keys) & good
        for key, was, tokens in zip(batch.keys, expected.keys, batch.image_tokens, strict=True):
            assert tokens.tolist() == ROWS[key].image_tokens.tolist()
            assert key == was or was not in good
    assert dataset.skipped_rows == sum(key not in good for batch in whole for key in batch.keys) > 0
    assert list(dataset.skipped) == [join(path, name)]
    assert "expected SHA-256" in dataset.skipped[join(path, name)]


def test_the_traceback_of_a_bad_shard_does_not_grow(tmp_path, monkeypatch):
    path = write_dataset(f"{tmp_path}/d", [METADATA, METADATA])
    spoil(path, 1)
    get, lengths = RowGroupReader.get, []

    def watched(*args):
        try:
            return get(*args)
        except ShardError as error:
            lengths.append(len(list(walk_tb(error.__traceback__))))
            raise

    monkeypatch.setattr(RowGroupReader, "get", watched)
    take(TokenDataset(path, 16, reading=ShardReading(on_bad_shard="skip")), 50)
    assert len(lengths) > 50
    assert set(lengths) == {lengths[0]}


def as_written_by_others(table: pa.Table, column: str) -> pa.Table:
    """A table whose last text of a column holds a byte that is no UTF-8."""
    place, found = table.schema.get_field_index(column), table.column(column).combine_chunks()
    is_list = pa.types.is_list(found.type)
    texts = [text.encode() for text in (found.values if is_list else found).to_pylist()]
    spoiled = pa.array([*texts[:-1], b"\xff"], pa.binary()).view(pa.string())
    if is_list:
        spoiled = pa.ListArray.from_arrays(found.offsets, spoiled, found.type)
    return table.set_column(place, table.schema.field(place), spoiled)


@pytest.mark.parametrize("column", ["key", "captions", "source", "source_key"])
def test_a_shard_with_a_text_that_is_no_utf8_is_bad_before_anybody_looks_at_the_text(tmp_path, monkeypatch, column):
    """All checksums agree: it was written so."""
    to_good_table = to_table

    def to_bad_table(rows: list[TokenRow], metadata: ShardMetadata) -> pa.Table:
        table = to_good_table(rows, metadata)
        return as_written_by_others(table, column) if rows[-1].source_key == "101" else table

    monkeypatch.setattr(f"{__name__}.to_table", to_bad_table)
    path = write_dataset(f"{tmp_path}/d", [METADATA, METADATA])
    bad = f"{path}/tokens-00001-of-00002.parquet"
    with pytest.raises(ShardError, match=rf"^{bad}: expected row group 10, found .*UTF.?8.*; run its stage again$"):
        take(TokenDataset(path, 16), 10)
    dataset = TokenDataset(path, 16, reading=ShardReading(on_bad_shard="skip"))
    for batch in take(dataset, 10):
        assert list(batch.source_keys) == [ROWS[key].source_key for key in batch.keys]
        assert list(batch.sources) == ["made up"] * 16
        assert set(batch.captions) <= {caption for key in batch.keys for caption in ROWS[key].captions}
    assert list(dataset.skipped) == [bad]


def damage(place: Path, generator: np.random.Generator) -> None:
    """Truncate a file, flip a bit of it, or remove it."""
    content = bytearray(place.read_bytes())
    kind, where = generator.integers(3), generator.integers(len(content))
    if kind == 0:
        place.unlink()
    elif kind == 1:
        place.write_bytes(content[:where])
    else:
        content[where] ^= 1 << generator.integers(8)
        place.write_bytes(content)


def test_no_damaged_shard_is_read_as_good(tmp_path):
    path = write_dataset(f"{tmp_path}/d", [METADATA, METADATA])
    places = sorted(Path(path).glob("tokens-*.parquet"))
    whole = [place.read_bytes() for place in places]
    generator = np.random.default_rng(0)
    for fault in range(200):
        spoiled = places[fault % 2]
        damage(spoiled, generator)
        with pytest.raises(ShardError, match=f"{spoiled.name}: expected "):
            TokenDataset(path, NUM_ROWS).batch(0)
        spoiled.write_bytes(whole[fault % 2])
    assert len(TokenDataset(path, NUM_ROWS).batch(0).keys) == NUM_ROWS


def test_a_page_that_is_damaged_after_it_was_hashed_is_found(tmp_path, monkeypatch):
    path = write_dataset(f"{tmp_path}/d", [METADATA])
    name = spoil(path, 0)
    monkeypatch.setattr("parti_data.checked_files.CheckedFiles._check", lambda *_: None)
    with pytest.raises(ShardError, match=f"{name}: expected row group \\d+, found .*; run its stage again"):
        take(TokenDataset(path, 16), 10)


def test_a_store_that_cannot_be_reached_is_no_bad_shard_and_is_asked_again(tmp_path, monkeypatch):
    path = write_dataset(f"{tmp_path}/d", [METADATA])

    def fail(*_: object) -> None:
        raise StorageError("s3://bucket: expected to read it, found none")

    dataset = TokenDataset(path, 16, reading=ShardReading(on_bad_shard="skip"))
    with monkeypatch.context() as patch:
        patch.setattr("parti_data.shard_files.ShardFiles.open", fail)
        with pytest.raises(StorageError):
            dataset.batch(0)
    assert_equal([ask_again(dataset, 0, StorageError)], [TokenDataset(path, 16).batch(0)])


def test_batches_are_right_whatever_fails_between_them(path, mixing, monkeypatch):
    """A turn of the window that raised gives away what the round before was drawn from."""
    luck, open_shard, failures = Random(0), ShardFiles.open, 0

    def open_sometimes(self, *arguments, **named):
        nonlocal failures
        if luck.random() < 0.05:
            failures += 1
            raise StorageError("s3://bucket: expected to read it, found none")
        return open_shard(self, *arguments, **named)

    expected, dataset = take(TokenDataset(path, 16), 40), TokenDataset(path, 16)
    monkeypatch.setattr(ShardFiles, "open", open_sometimes)
    for batch in expected:
        assert_equal([ask_again(dataset, batch.step, StorageError)], [batch])
    assert failures > 5


def test_batches_are_right_after_an_interrupted_wait(path, mixing, monkeypatch):
    steps, waits = [0, 30, 2, 25, 1, 40], []
    expected, dataset = [TokenDataset(path, 16).batch(step) for step in steps], TokenDataset(path, 16)

    def interrupt_some(futures):
        waits.append(futures)
        if len(waits) in (1, 3, 8, 20):
            raise KeyboardInterrupt
        return wait(futures)

    monkeypatch.setattr("parti_data.row_groups.wait", interrupt_some)
    for batch in expected:
        assert_equal([ask_again(dataset, batch.step, KeyboardInterrupt)], [batch])
    assert len(waits) > 3


def test_too_many_open_files_are_no_bad_shard(path, monkeypatch):
    dataset, open_native, calls = TokenDataset(path, 16, reading=ShardReading(on_bad_shard="skip")), pa.OSFile, []

    def refuse_at_first(name):
        calls.append(name)
        if len(calls) <= 8:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_native(name)

    monkeypatch.setattr(pa, "OSFile", refuse_at_first)
    found = ask_again(dataset, 0, OSError)
    assert len(calls) > 8
    assert not dataset.skipped
    monkeypatch.undo()
    assert_equal([found], [TokenDataset(path, 16).batch(0)])


def test_rows_are_right_where_lanes_would_have_fewer_row_groups_than_a_window(tmp_path, monkeypatch):
    monkeypatch.setattr(row_order, "LANES", 2)
    monkeypatch.setattr(row_order, "_GROUPS_A_LANE", 1)
    path = write_dataset(f"{tmp_path}/d", [METADATA], group_rows=20)
    (epoch,) = TokenDataset(path, NUM_ROWS).epoch(0)
    assert sorted(epoch.keys) == sorted(ROWS)
    for key, tokens in zip(epoch.keys, epoch.image_tokens, strict=True):
        np.testing.assert_array_equal(tokens, ROWS[key].image_tokens)


def test_a_shard_with_other_numbers_of_captions_and_text_ids_is_refused(tmp_path, monkeypatch):
    broken = make_row(0)._replace(captions=["one", "two"], text_ids=[[5, 2]])
    monkeypatch.setattr(f"{__name__}.make_row", lambda number: broken)
    path = write_dataset(f"{tmp_path}/d", [METADATA], 1)
    with pytest.raises(ShardError, match="expected text ids for each caption, found others in row group 0; run its st"):
        TokenDataset(path, 1).batch(0)


def test_a_dataset_is_read_from_an_object_store(path, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("PARTI_CACHE", f"{tmp_path}/cache")
    url = f"{s3.new_bucket()}/tokens"
    s3.upload(path, url)
    assert_equal(take(TokenDataset(url, 16), 10), take(TokenDataset(path, 16), 10))


def test_a_batch_without_a_row_that_can_be_read_is_refused(tmp_path):
    path = write_dataset(f"{tmp_path}/d", [METADATA])
    spoil(path, 0)
    with pytest.raises(
        ShardError, match="expected some rows of a batch that can be read, found none; run parti verify"
    ):
        TokenDataset(path, 16, reading=ShardReading(on_bad_shard="skip")).batch(0)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> str:
    """A smaller directory of the same tokenizers."""
    return write_dataset(str(tmp_path_factory.mktemp("tokens") / "other"), [METADATA], 40)


def test_a_mixture_has_its_shares_and_each_source_every_row_once_an_epoch(path, other):
    dataset = TokenDataset({path: 1, other: 3}, 1024)
    batches = take(dataset, 4)
    sources = dataset._mixture.origins(np.arange(4096)).sources
    keys = [key for batch in batches for key in batch.keys]
    assert (sources == 1).sum() == 3072
    for number, size in ((0, NUM_ROWS), (1, 40)):
        mine = [key for key, source in zip(keys, sources, strict=True) if source == number]
        for start in range(0, len(mine) - size, size):
            assert Counter(mine[start : start + size]) == Counter(list(ROWS)[:size])


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_mixture_resumes_and_is_the_same_on_any_ranks(path, other, world_size):
    whole = take(TokenDataset({path: 1, other: 2}, 24), 30)
    state = TokenDataset({path: 1, other: 2}, 24).state_dict() | {"step": 17}
    ranks = [TokenDataset({path: 1, other: 2}, 24, rank=rank, world_size=world_size) for rank in range(world_size)]
    for dataset in ranks:
        dataset.load_state_dict(state)
    slices = zip(*(take(dataset, 13) for dataset in ranks), strict=True)
    assert_equal([join_ranks(list(parts)) for parts in slices], whole[17:])


def test_the_state_of_a_mixture_with_other_weights_is_refused(path, other):
    with pytest.raises(ShardError, match=r"expected a state with digest \w+, found \w+; resume with what the run was"):
        TokenDataset({path: 1, other: 2}, 24).load_state_dict(TokenDataset({path: 1, other: 3}, 24).state_dict())


def test_a_mixture_ends_with_its_first_or_its_last_source(path, other):
    sources = TokenDataset({path: 1, other: 1}, 8)._mixture.origins(np.arange(4096)).sources
    first_anew = int(np.flatnonzero(sources == 1)[40])
    last_whole = int(np.flatnonzero(sources == 0)[NUM_ROWS - 1])
    ends = {"stop_at_first": first_anew // 8, "stop_at_last": -(-(last_whole + 1) // 8)}
    for exhausted, num_steps in ends.items():
        dataset = TokenDataset({path: 1, other: 1}, 8, exhausted=exhausted)
        batches = list(dataset)
        assert len(batches) == len(dataset) == num_steps
    assert {key for batch in batches for key in batch.keys} == set(ROWS)


def test_an_epoch_of_a_mixture_is_refused(path, other):
    with pytest.raises(ShardError, match=r"expected one source to go through once, found 2; take each alone"):
        next(TokenDataset({path: 1, other: 1}, 8).epoch(0))


@pytest.mark.parametrize(
    ("field", "value"), [("image_tokenizer", "ef" * 32), ("codebook_size", 512), ("text_tokenizer", "ef" * 32)]
)
def test_a_mixture_of_different_tokenizers_is_refused(path, tmp_path, field, value):
    unlike = write_dataset(f"{tmp_path}/unlike", [METADATA.model_copy(update={field: value})])
    mine = str(getattr(METADATA, field))[:12]
    with pytest.raises(ShardError, match=f"unlike: expected {field} {mine} like .*, found {str(value)[:12]}; tokenize"):
        TokenDataset({path: 1, unlike: 1}, 8)


def test_a_mixture_of_different_text_tokenizers_is_tokenized_again(path, tmp_path, text_file):
    unlike = write_dataset(f"{tmp_path}/unlike", [METADATA.model_copy(update={"text_tokenizer": "ef" * 32})])
    dataset = TokenDataset({path: 1, unlike: 1}, 8, text=TextReading(tokenizer=text_file))
    assert dataset.batch(0).text_ids.max() < 128


@pytest.mark.parametrize("field", ["image_tokenizer", "text_tokenizer"])
def test_a_shard_of_another_tokenizer_is_refused(tmp_path, field):
    other = METADATA.model_copy(update={field: "ef" * 32})
    path = write_dataset(f"{tmp_path}/mixed", [METADATA, other])
    found = (
        f"tokens-00001-of-00002.parquet: expected {field} {getattr(METADATA, field)} as the manifest states, found ef"
    )
    with pytest.raises(ShardError, match=found):
        take(TokenDataset(path, 4), 30)


def test_other_row_groups_than_the_manifest_tells_are_refused(tmp_path, monkeypatch):
    path = write_dataset(f"{tmp_path}/d", [METADATA], 20)
    monkeypatch.setattr("parti_data.token_directory.ROW_GROUP", "unknown")
    with pytest.raises(ShardError, match=r"expected row groups of 20 rows as the manifest states, found 5, 5, 5, 5;"):
        TokenDataset(path, 4).batch(0)


def test_empty_shards_are_refused(tmp_path):
    path = write_dataset(f"{tmp_path}/empty", [METADATA], 0)
    with pytest.raises(ShardError, match="expected rows, found empty shards; check what filter kept"):
        TokenDataset(path, 4)


def test_pairs_are_no_tokens(filtered):
    with pytest.raises(ShardError, match="expected the output of tokenize or import_tokens, found that of filter"):
        TokenDataset(filtered, 4)


def test_the_output_of_tokenize_is_read_whole(tokens, filtered):
    from parti_data.ledger import PairDirectory

    kept = [row.key for row in PairDirectory(filtered).kept()]
    dataset = TokenDataset(tokens, len(kept))
    assert dataset.num_rows == len(kept)
    assert sorted(dataset.batch(0).keys) == sorted(kept)
    assert dataset.metadata.codebook_size == 64
