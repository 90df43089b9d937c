import hashlib
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from parti_data import TokenBatch, TokenDataset, token_dataset
from parti_data.errors import ShardError
from parti_data.manifest import Beginning, begin, record_shard, shard_name
from parti_data.storage import join
from parti_data.text import PAD
from parti_data.token_shard import ShardMetadata, TokenRow, to_table, write_tables

METADATA = ShardMetadata(
    image_tokenizer="ab" * 32, image_tokenizer_name="vit_vqgan", codebook_size=256, grid_side=2, image_side=32,
    resize_recipe="resize_center", resize_library="pillow 1", precision="float32", text_tokenizer="cd" * 32,
    text_vocabulary_size=1000, config_digest="e", input_digest="f",
)  # fmt: skip
NUM_ROWS = 103
FIRST_ROWS = [64, 95, 13, 97, 66, 24, 46, 48]
GROUP_ROWS = 5


def make_row(number: int) -> TokenRow:
    """A row whose ids all follow from its number; one to three captions of one to five ids."""
    key = hashlib.sha256(str(number).encode()).hexdigest()[:32]
    text_ids = [[10 + number, *range(3, 3 + number % 4), 2 + caption] for caption in range(1 + number % 3)]
    captions = [f"{number} {caption}" for caption in range(len(text_ids))]
    tokens = np.array([number % 256, 1, 2, 3])
    return TokenRow(key, 0, [0, 0, 1, 1], False, captions, text_ids, tokens, "made up", str(number))


ROWS = {row.key: row for row in map(make_row, range(NUM_ROWS))}


def write_dataset(path: str, metadata: list[ShardMetadata], num_rows: int = NUM_ROWS) -> str:
    """A finished tokenize directory, a shard for each metadata, in row groups of GROUP_ROWS."""
    directory = begin(path, Beginning(stage="tokenize", config={"rows": num_rows}, inputs={}))
    rows = list(ROWS.values())[:num_rows]
    records = []
    for number, shard_metadata in enumerate(metadata):
        name = shard_name("tokens", number, len(metadata), "parquet")
        mine = rows[number :: len(metadata)]
        groups = [mine[start : start + GROUP_ROWS] for start in range(0, max(len(mine), 1), GROUP_ROWS)]
        write_tables(join(path, name), [to_table(group, metadata[0]) for group in groups], shard_metadata)
        records.append(record_shard(path, name, len(mine)))
    directory.finish(records, {"rows": num_rows}, {"metadata": metadata[0].model_dump(mode="json")})
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return write_dataset(str(tmp_path_factory.mktemp("tokens") / "d"), [METADATA, METADATA])


def take(dataset: TokenDataset, count: int) -> list[TokenBatch]:
    return list(islice(dataset, count))


def assert_equal(found: list[TokenBatch], expected: list[TokenBatch]) -> None:
    assert [batch.step for batch in found] == [batch.step for batch in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys == theirs.keys
        np.testing.assert_array_equal(mine.text_ids, theirs.text_ids)
        np.testing.assert_array_equal(mine.image_tokens, theirs.image_tokens)


def join_ranks(slices: list[TokenBatch]) -> TokenBatch:
    """The global batch of all ranks' slices, padded as one."""
    longest = max(part.text_ids.shape[1] for part in slices)
    padded = [np.pad(part.text_ids, ((0, 0), (0, longest - part.text_ids.shape[1]))) for part in slices]
    tokens = np.concatenate([part.image_tokens for part in slices])
    return TokenBatch(slices[0].step, [key for part in slices for key in part.keys], np.concatenate(padded), tokens)


def unpadded(ids: np.ndarray) -> list[int]:
    return [int(i) for i in ids if i != PAD]


@pytest.mark.parametrize("batch_size", [1, 8, NUM_ROWS, 250])
def test_every_row_comes_once_an_epoch(path, batch_size):
    dataset = TokenDataset(path, batch_size)
    keys = [key for batch in take(dataset, -(-3 * NUM_ROWS // batch_size)) for key in batch.keys]
    for epoch in range(3):
        assert Counter(keys[epoch * NUM_ROWS : (epoch + 1) * NUM_ROWS]) == Counter(ROWS.keys())


def test_a_row_comes_with_its_own_ids(path):
    for batch in take(TokenDataset(path, 16), 10):
        assert batch.text_ids.dtype == batch.image_tokens.dtype == np.int64
        for key, text_ids, image_tokens in zip(batch.keys, batch.text_ids, batch.image_tokens, strict=True):
            assert image_tokens.tolist() == ROWS[key].image_tokens.tolist()
            assert unpadded(text_ids) in ROWS[key].text_ids


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


def test_a_batch_does_not_depend_on_what_was_asked_before(path):
    dataset = TokenDataset(path, 16)
    backwards = [dataset.batch(step) for step in reversed(range(12))]
    assert_equal(backwards[::-1], take(TokenDataset(path, 16), 12))


def test_the_first_keys_never_change(path):
    numbers = [int(ROWS[key].source_key) for key in TokenDataset(path, 8).batch(0).keys]
    assert numbers == FIRST_ROWS


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_slices_joined_are_the_global_batch(path, world_size):
    whole = take(TokenDataset(path, 16), 15)
    ranks = [take(TokenDataset(path, 16, rank=rank, world_size=world_size), 15) for rank in range(world_size)]
    assert_equal([join_ranks(list(slices)) for slices in zip(*ranks, strict=True)], whole)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 4), (4, 2)])
def test_resuming_gives_what_an_uninterrupted_run_gives_for_any_number_of_ranks(path, before, after):
    whole = take(TokenDataset(path, 16), 20)
    first = TokenDataset(path, 16, rank=before - 1, world_size=before)
    take(first, 9)
    state = first.state_dict()
    resumed = [TokenDataset(path, 16, rank=rank, world_size=after) for rank in range(after)]
    for dataset in resumed:
        dataset.load_state_dict(state)
    slices = zip(*(take(dataset, 11) for dataset in resumed), strict=True)
    assert_equal([join_ranks(list(parts)) for parts in slices], whole[9:])


def test_the_state_is_plain_and_says_the_step(path):
    dataset = TokenDataset(path, 16, seed=3)
    take(dataset, 4)
    assert dataset.state_dict() == {"step": 4, "seed": 3, "batch_size": 16, "digest": dataset.digest}


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


@pytest.mark.parametrize(("batch_size", "rank", "world_size"), [(10, 0, 4), (8, 4, 4), (8, -1, 4)])
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


def test_text_is_cut_at_the_length_and_padded_behind(path):
    batch = TokenDataset(path, NUM_ROWS, text_length=3).batch(0)
    assert batch.text_ids.shape == (NUM_ROWS, 3)
    for key, text_ids in zip(batch.keys, batch.text_ids, strict=True):
        ids = unpadded(text_ids)
        assert text_ids.tolist() == ids + [PAD] * (3 - len(ids))
        assert ids in [full[:3] for full in ROWS[key].text_ids]


def test_a_batch_is_no_wider_than_its_longest_text(path):
    for batch in take(TokenDataset(path, 4), 30):
        assert batch.text_ids.shape[1] == (batch.text_ids != PAD).sum(1).max()


def test_two_windows_are_held_at_most(path):
    dataset = TokenDataset(path, 16)
    for batch in islice(dataset, 30):
        assert batch.keys
        assert len(dataset._windows) <= 2


def test_a_batch_may_span_many_windows_and_epochs(path, monkeypatch):
    whole = [key for epoch in range(2) for key in TokenDataset(path, NUM_ROWS).batch(epoch).keys]
    assert TokenDataset(path, 2 * NUM_ROWS).batch(0).keys == whole
    monkeypatch.setattr(token_dataset, "WINDOW_ROW_GROUPS", 1)
    assert Counter(TokenDataset(path, 2 * NUM_ROWS).batch(0).keys) == Counter(2 * list(ROWS))


@pytest.mark.parametrize("field", ["image_tokenizer", "text_tokenizer"])
def test_shards_of_different_tokenizers_are_refused(tmp_path, field):
    other = METADATA.model_copy(update={field: "ef" * 32})
    path = write_dataset(f"{tmp_path}/mixed", [METADATA, other])
    mine = getattr(METADATA, field)[:12]
    with pytest.raises(
        ShardError, match=f"tokens-00001-of-00002.parquet: expected {field} {mine} like .*, found efefefefefef"
    ):
        TokenDataset(path, 4)


def test_empty_shards_are_refused(tmp_path):
    path = write_dataset(f"{tmp_path}/empty", [METADATA], 0)
    with pytest.raises(ShardError, match="expected rows, found empty shards; check what filter kept"):
        TokenDataset(path, 4)


def test_pairs_are_no_tokens(filtered):
    with pytest.raises(ShardError, match="expected the output of tokenize, found that of filter"):
        TokenDataset(filtered, 4)


def test_the_output_of_tokenize_is_read_whole(tokens, filtered):
    from parti_data.ledger import PairDirectory

    kept = [row.key for row in PairDirectory(filtered).kept()]
    dataset = TokenDataset(tokens, len(kept))
    assert dataset.num_rows == len(kept)
    assert sorted(dataset.batch(0).keys) == sorted(kept)
    assert dataset.metadata.codebook_size == 64
