"""In which order an epoch goes through rows that lie in row groups: a function of their sizes, the seed and the epoch.

The row groups are permuted; a window slides over them. The rows of each are permuted too and cut into as many pieces
as the window is wide. A round draws one piece of each row group in the window, permutes what it draws, and the window
moves on by one row group. So a batch comes from the whole window, each row group is read once, and where any position
lies follows from arithmetic on the sizes, without a step before it. The first round takes what a window that slides in
would have drawn before, the last one what remains.

Many row groups are dealt to lanes, equal shares of all rows, each with a window of its own: position p of an epoch is
in lane p mod `lanes`. A rank that takes every w-th position then reads the row groups of its lanes alone.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from parti_data.keyed_random import permutation, stream_key

WINDOW_ROWS = 16 * 4096
"""About so many rows are mixed at a time."""
WINDOW_BYTES = 160 << 20
"""Fewer where the row groups' image tokens would take more than this, each as much as the largest."""
LANES = 8
_GROUPS_A_LANE = 32
"""Lanes pay from so many row groups in each: one that two lanes share is read twice."""
_GROUPS, _ROWS, _ROUNDS = 0, 1, 2
"""What a stream of random numbers is for."""


class Window(NamedTuple):
    """How rows are mixed."""

    lanes: int
    groups: int
    """Row groups that the window of a lane holds."""


class Places(NamedTuple):
    """Where rows lie, int64 (N,) both."""

    groups: np.ndarray
    rows: np.ndarray
    """Of the row group, from 0."""


class Draws(NamedTuple):
    """The rows of a round."""

    ranks: list[tuple[int, range]]
    """By part of the lane, from 0, which of its rows, in each part's own order, from 0."""
    order: np.ndarray
    """In which order they are drawn: the places of the first, second, … in the above, int64 (N,)."""


def choose_window(group_rows: np.ndarray, row_bytes: int, share: float = 1.0) -> Window:
    """Return the window for row groups of these sizes whose rows take so many bytes in memory.

    `share` is the part that a mixture leaves to one of its sources.
    """
    by_rows = WINDOW_ROWS * share / max(float(group_rows.mean()), 1.0)
    by_bytes = WINDOW_BYTES * share / max(float(group_rows.max()) * row_bytes, 1.0)
    groups = int(min(by_rows, by_bytes))
    in_a_lane = max(groups // LANES, 2)
    if len(group_rows) >= LANES * _GROUPS_A_LANE and _fewest_in_a_lane(group_rows) >= in_a_lane:
        return Window(LANES, in_a_lane)
    return Window(1, min(max(groups, 2), len(group_rows)))


def _fewest_in_a_lane(group_rows: np.ndarray) -> int:
    """Return of how few row groups a lane's share of all rows may be made, whatever their order."""
    largest_first = np.cumsum(np.sort(group_rows)[::-1])
    return int(np.searchsorted(largest_first, group_rows.sum() // LANES)) + 1


class EpochOrder:
    """The order of one epoch: position p is the draw number p // L of lane p mod L, of L lanes."""

    def __init__(self, group_rows: np.ndarray, seed: int, epoch: int, window: Window):
        permuted = permutation(len(group_rows), stream_key(seed, epoch, _GROUPS))
        ends = np.cumsum(group_rows[permuted])
        sizes = [len(range(lane, int(ends[-1]), window.lanes)) for lane in range(window.lanes)]
        shares = [0, *np.cumsum(sizes).tolist()]
        self.lanes = [
            Lane.cut(permuted, ends, share, window.groups, (seed, epoch, number))
            for number, share in enumerate(pairwise(shares))
        ]

    def places(self, positions: np.ndarray) -> Places:
        """Return where the rows at these positions of the epoch lie, int64 (N,)."""
        groups, rows = np.empty_like(positions), np.empty_like(positions)
        for place, position in enumerate(positions.tolist()):
            lane, draw = self.lanes[position % len(self.lanes)], position // len(self.lanes)
            number = lane.round_of(draw)
            draws = lane.draws(number)
            rows_drawn = [(part, rank) for part, ranks in draws.ranks for rank in ranks]
            part, rank = rows_drawn[draws.order[draw - lane.starts[number]]]
            groups[place], rows[place] = lane.groups[part], lane.rows(part)[rank]
        return Places(groups, rows)


class Lane:
    """A stream of whole or cut row groups, here called parts, and the window that slides over it."""

    def __init__(self, groups: np.ndarray, firsts: np.ndarray, counts: np.ndarray, window: int, name: tuple[int, ...]):
        self.groups, self._firsts, self._counts, self._name = groups, firsts, counts, name
        """The row group of each part, int64 (K,)."""
        self.window = min(window, len(groups))
        self.starts = self._round_starts()
        """The draw with which each round starts, and the one behind the last, int64 (R + 1,)."""

    @classmethod
    def cut(
        cls, groups: np.ndarray, ends: np.ndarray, share: tuple[int, int], window: int, name: tuple[int, ...]
    ) -> "Lane":
        """Return the lane of a share of the rows of all permuted groups, which end at `ends`."""
        first, last = share
        inside = slice(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, last, "left")) + 1)
        begins = np.concatenate([[0], ends[:-1]])[inside]
        firsts = np.maximum(first - begins, 0)
        return cls(groups[inside], firsts, np.minimum(ends[inside], last) - begins - firsts, window, name)

    def round_of(self, draw: int) -> int:
        """Return the round in which a draw is; the last one for what is behind all draws."""
        return int(np.searchsorted(self.starts[1:-1], draw, "right"))

    def parts_of(self, number: int) -> range:
        """Return the parts that a round draws from."""
        return range(number, number + self.window)

    def piece_ends(self, part: int) -> np.ndarray:
        """Return the rank with which each piece of a part begins, and the one behind the last, int64 (window + 1,)."""
        return self._counts[part] * np.arange(self.window + 1) // self.window

    def first_piece(self, part: int, number: int) -> int:
        """Return the first piece of a part that a round, or one behind it, draws."""
        return 0 if number == 0 else max(number + self.window - 1 - part, 0)

    def rows(self, part: int) -> np.ndarray:
        """Return the rows of a part, numbered in its row group, in the order in which they are drawn, int64 (N,)."""
        count = int(self._counts[part])
        return self._firsts[part] + permutation(count, stream_key(*self._name, _ROWS, part))

    def draws(self, number: int) -> Draws:
        """Return what a round draws."""
        parts, is_last = self.parts_of(number), number == len(self.starts) - 2
        ranks = []
        for part in parts:
            ends, behind = self.piece_ends(part), self.window if is_last else self.first_piece(part, number + 1)
            ranks.append(range(int(ends[self.first_piece(part, number)]), int(ends[behind])))
        order = permutation(sum(map(len, ranks)), stream_key(*self._name, _ROUNDS, number))
        return Draws(list(zip(parts, ranks, strict=True)), order)

    def _round_starts(self) -> np.ndarray:
        parts = np.arange(len(self.groups))
        sizes = np.zeros(len(parts) - self.window + 1, np.int64)
        for piece in range(self.window):
            rounds = np.clip(parts + piece, self.window - 1, len(parts) - 1) - (self.window - 1)
            begins, ends = (self._counts * number // self.window for number in (piece, piece + 1))
            np.add.at(sizes, rounds, ends - begins)
        return np.concatenate([[0], np.cumsum(sizes)])
