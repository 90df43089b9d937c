"""Slices of kept pairs that lie evenly over a finished directory, and what reading its ledger costs."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from parti_data.ledger import LedgerRow, PairDirectory


class Slices(NamedTuple):
    """Some slices of kept rows, and the seconds that one row of the ledger takes to read."""

    rows: list[list[LedgerRow]]
    ledger_row_s: float

    def all(self) -> list[LedgerRow]:
        """Return the rows of all slices."""
        return [row for rows in self.rows for row in rows]


def read_slices(pairs: PairDirectory, num_pairs: int, slice_rows: int) -> Slices:
    """Return slices of `slice_rows` rows, of `num_pairs` together as far as there are so many."""
    num_slices = max(min(num_pairs, len(pairs)) // slice_rows, 1)
    last = max(len(pairs) - slice_rows, 0)
    starts = sorted({round(start) for start in np.linspace(0, last, num_slices)})
    started = time.perf_counter()
    rows = [list(pairs.kept(start, start + min(slice_rows, num_pairs))) for start in starts]
    seconds = time.perf_counter() - started
    return Slices(rows, seconds / max(rows_read(pairs, [(start, start + slice_rows) for start in starts]), 1))


def rows_read(pairs: PairDirectory, slices: Sequence[tuple[int, int]]) -> int:
    """Return how many rows of the ledger are read for slices of kept rows: all of each file that a slice touches."""
    files = [shard.rows for shard in pairs.manifest.shards if shard.name.startswith("ledger-")]
    ends = np.cumsum(pairs.manifest.details["kept"])
    read = 0
    for first, last in slices:
        touched = range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, last, "left")) + 1)
        read += sum(files[number] for number in touched if number < len(files))
    return read
