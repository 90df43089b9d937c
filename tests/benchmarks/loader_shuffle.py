"""How well the loader shuffles: what is mixed in a batch, and chi-square tests against a uniform shuffle over epochs.

The order depends on the sizes of the row groups alone, so one directory serves for both questions: where a row lies
stands for its place in the source where shards are in source order, its number for that where `tokenize` wrote them.
"""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import chi2

from parti_data import TokenDataset

BATCH, EPOCHS, BLOCK_ROWS, PARTS = 256, 10, 1024, 10


class Written(NamedTuple):
    """The rows of a directory in the order in which they lie."""

    keys: list[str]
    numbers: np.ndarray
    """In the order of the source, int64 (N,)."""
    group_starts: np.ndarray
    """Where each row group begins, int64 (G,)."""


class Quality(NamedTuple):
    """What is found."""

    blocks_in_source_order: float
    """Distinct blocks of 1,024 rows in a batch, the mean of an epoch, were the shards in source order."""
    blocks: float
    """The same as the shards are."""
    p_batches: float
    """That source blocks are spread over batches as evenly as by chance."""
    p_places: float
    """That they are spread so over the tenths of each epoch."""
    p_epochs: float
    """That rows, one of each row group, come in any tenth of an epoch as often as by chance."""
    meeting_again: float
    """How many times as often as by chance two rows of a batch are in one batch of the next epoch too."""


def measure_shuffle(shards: Path) -> Quality:
    """Return how ten epochs are shuffled; asserts that each has every row once."""
    written = read_written(shards)
    epochs, batches = read_epochs(shards, written.keys)
    numbers = written.numbers[epochs]
    blocks = numbers // BLOCK_ROWS
    tenths = np.arange(epochs.shape[1]) * PARTS // epochs.shape[1]
    return Quality(
        distinct_blocks(epochs[0] // BLOCK_ROWS, batches[0]),
        distinct_blocks(blocks[0], batches[0]),
        p_of_tables([table(of, among) for of, among in zip(batches, blocks, strict=True)]),
        min(
            1.0, EPOCHS * min(p_of_tables([table(tenths, of)]) for of in blocks)
        ),  # Bonferroni: the epochs share shards
        p_of_places(epochs, written.group_starts),
        meeting_again(epochs, batches),
    )


def read_written(shards: Path) -> Written:
    keys, numbers, groups = [], [], []
    for path in sorted(shards.glob("*.parquet")):
        file = pq.ParquetFile(path)
        content = file.read(["key", "source_key"])
        keys += content["key"].to_pylist()
        numbers += map(int, content["source_key"].to_pylist())
        groups += [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return Written(keys, np.array(numbers), np.cumsum([0, *groups[:-1]]))


def read_epochs(shards: Path, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return where the rows of each epoch lie, and which batch of all each is in, int64 (E, N) both."""
    places = {key: place for place, key in enumerate(keys)}
    steps = -(-EPOCHS * len(keys) // BATCH)
    found = [places[key] for batch in islice(TokenDataset(str(shards), batch_size=BATCH), steps) for key in batch.keys]
    epochs = np.array(found[: EPOCHS * len(keys)]).reshape(EPOCHS, -1)
    assert (np.sort(epochs) == np.arange(len(keys))).all(), "a row is not once in an epoch"
    return epochs, (np.arange(epochs.size) // BATCH).reshape(epochs.shape)


def distinct_blocks(blocks: np.ndarray, batches: np.ndarray) -> float:
    """Return how many blocks a full batch has, the mean."""
    counts = table(batches, blocks)
    return float((counts[counts.sum(1) == BATCH] > 0).sum(1).mean())


def table(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return how often each pair of numbers is found, int64 (R, C)."""
    rows, columns = rows - rows.min(), columns - columns.min()
    shape = int(rows.max()) + 1, int(columns.max()) + 1
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def p_of_tables(tables: list[np.ndarray]) -> float:
    """Return the p of chance that rows and columns of these tables have nothing to do with each other."""
    statistic, freedom = 0.0, 0
    for counts in tables:
        expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
        statistic += ((counts - expected) ** 2 / expected).sum()
        freedom += (counts.shape[0] - 1) * (counts.shape[1] - 1)
    return float(chi2.sf(statistic, freedom))


def p_of_places(epochs: np.ndarray, group_starts: np.ndarray) -> float:
    """Return the p that rows have no place that they prefer: rows by tenths of an epoch, counted over the epochs.

    Rows of one row group come near each other, which is no fault, but no chance either; so one of each is taken.
    """
    places = np.argsort(epochs)[:, group_starts]
    tenths = places * PARTS // epochs.shape[1]
    return p_of_tables([table(np.tile(np.arange(len(group_starts)), len(epochs)), tenths.ravel())])


def meeting_again(epochs: np.ndarray, batches: np.ndarray) -> float:
    met = 0
    for now, then, of, among in zip(epochs, epochs[1:], batches, batches[1:], strict=False):
        pairs = np.empty(len(now), np.int64)
        pairs[now] = of - of[0]
        pairs[then] += (among - among[0]) << 32
        counts = np.unique(pairs, return_counts=True)[1]
        met += int((counts * (counts - 1)).sum())
    rows = epochs.shape[1]
    return met / ((len(epochs) - 1) * rows * (BATCH - 1) ** 2 / (rows - 1))
