"""Slices of kept pairs that lie evenly over a finished directory, and what reading its ledger takes."""

import time
from typing import NamedTuple

import numpy as np

from parti_data.ledger import ROW_GROUP_ROWS, LedgerRow, PairDirectory


class Slices(NamedTuple):
    """Some slices of kept rows, and the seconds that it takes to read a kept row in a long slice."""

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
    rows = [list(pairs.kept(start, start + min(slice_rows, num_pairs))) for start in starts]
    started = time.perf_counter()
    num_read = sum(1 for _ in pairs.kept(0, ROW_GROUP_ROWS))
    return Slices(rows, (time.perf_counter() - started) / max(num_read, 1))
