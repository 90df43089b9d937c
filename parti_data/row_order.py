"""In which order an epoch goes through rows that lie in row groups: a function of their sizes, the seed and the epoch.

The row groups are permuted; a window slides over them. A round draws from the row groups in the window, of each one
part of its rows, and permutes what it draws; then the window moves on by one row group. So a batch comes from the whole
window, each row group is read once and is needed for as many rounds as the window is wide, and where any position lies
follows from arithmetic on the sizes, without a step before it. The first round takes what a window that slides in would
have drawn before, the last one what remains.

Many row groups are dealt to lanes, equal shares of all rows, each with a window of its own: position p of an epoch is
in lane p mod `lanes`. A rank that takes every w-th position then reads the row groups of its lanes alone.
"""

from itertools import pairwise
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from parti_data.keyed_random import permutation, stream_key

WINDOW_ROWS = 18 * 4096
"""About so many rows are mixed at a time."""
WINDOW_BYTES = 160 << 20
"""Fewer where the row groups' image tokens would take more than this, each as much as the largest."""
LANES = 8
_GROUPS_A_LANE = 32
"""Lanes pay from so many row groups in each: one that two lanes share is read twice."""
_ROUNDS_KEPT = 3
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


class Needs(NamedTuple):
    """When an epoch needs row groups, int64 (N,), in the order of first need."""

    groups: np.ndarray
    first: np.ndarray
    """The position from which on rows of it are drawn."""
    last: np.ndarray
    """The position before which the last one is drawn."""


def choose_window(group_rows: np.ndarray, row_bytes: int, share: float = 1.0) -> Window:
    """Return the window for row groups of these sizes whose rows take so many bytes in memory.

    `share` is the part that a mixture leaves to one of its sources.
    """
    by_rows = WINDOW_ROWS * share / max(float(group_rows.mean()), 1.0)
    by_bytes = WINDOW_BYTES * share / max(float(group_rows.max()) * row_bytes, 1.0)
    groups = int(min(by_rows, by_bytes))
    lanes = LANES if len(group_rows) >= LANES * _GROUPS_A_LANE else 1
    return Window(lanes, max(groups // lanes, 2))


class EpochOrder:
    """The order of one epoch."""

    def __init__(self, group_rows: np.ndarray, seed: int, epoch: int, window: Window):
        self.num_rows = int(group_rows.sum())
        permuted = permutation(len(group_rows), stream_key(seed, epoch, _GROUPS))
        ends = np.cumsum(group_rows[permuted])
        sizes = [len(range(lane, self.num_rows, window.lanes)) for lane in range(window.lanes)]
        shares = [0, *np.cumsum(sizes).tolist()]
        self._lanes = [
            _Lane.cut(permuted, ends, (first, last), window.groups, (seed, epoch, lane))
            for lane, (first, last) in enumerate(pairwise(shares))
        ]

    def places(self, positions: np.ndarray) -> Places:
        """Return where the rows at these positions of the epoch lie, int64 (N,)."""
        groups, rows = np.empty_like(positions), np.empty_like(positions)
        lanes, within = positions % len(self._lanes), positions // len(self._lanes)
        for number in np.unique(lanes):
            here = np.flatnonzero(lanes == number)
            groups[here], rows[here] = self._lanes[number].places(within[here])
        return Places(groups, rows)

    def needs(self, residue: int, modulus: int) -> Needs:
        """Return what those need who take the positions that leave this residue."""
        count = len(self._lanes)
        step = gcd(modulus, count)
        each = []
        for number in range(residue % step, count, step):
            groups, first, last = self._lanes[number].needs()
            each.append((groups, first * count + number, last * count + number))
        groups, first, last = (np.concatenate(part) for part in zip(*each, strict=True))
        order = np.argsort(first, kind="stable")
        return Needs(groups[order], first[order], last[order])


class _Lane:
    """A stream of whole or cut row groups, here called parts, and the window that slides over it."""

    def __init__(self, groups: np.ndarray, firsts: np.ndarray, counts: np.ndarray, window: int, name: tuple[int, ...]):
        self._groups, self._firsts, self._counts, self._name = groups, firsts, counts, name
        self._window = min(window, len(groups))
        self._starts = self._round_starts()
        self._rounds: dict[int, Places] = {}
        self._permuted: dict[int, np.ndarray] = {}

    @classmethod
    def cut(
        cls, groups: np.ndarray, ends: np.ndarray, share: tuple[int, int], window: int, name: tuple[int, ...]
    ) -> "_Lane":
        """Return the lane of a share of the rows of all permuted groups, which end at `ends`."""
        first, last = share
        inside = slice(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, last, "left")) + 1)
        begins = np.concatenate([[0], ends[:-1]])[inside]
        firsts = np.maximum(first - begins, 0)
        return cls(groups[inside], firsts, np.minimum(ends[inside], last) - begins - firsts, window, name)

    def places(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        groups, rows = np.empty_like(positions), np.empty_like(positions)
        rounds = np.searchsorted(self._starts, positions, "right") - 1
        for number in np.unique(rounds).tolist():
            here = np.flatnonzero(rounds == number)
            drawn = self._round(number)
            within = positions[here] - self._starts[number]
            groups[here], rows[here] = drawn.groups[within], drawn.rows[within]
        return groups, rows

    def needs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts = np.arange(len(self._groups))
        first, last = self._merge(parts), self._merge(parts + self._window - 1)
        return self._groups, self._starts[first], self._starts[last + 1]

    def _merge(self, rounds: np.ndarray) -> np.ndarray:
        """Return the round that takes the rows of each round of a window that slides in from and out to nothing."""
        return np.clip(rounds, self._window - 1, len(self._groups) - 1) - (self._window - 1)

    def _round_starts(self) -> np.ndarray:
        """Return the position with which each round starts, and the one behind the last."""
        sizes = np.zeros(len(self._groups) - self._window + 1, np.int64)
        parts = np.arange(len(self._groups))
        for piece in range(self._window):
            begin, end = self._piece(self._counts, piece), self._piece(self._counts, piece + 1)
            np.add.at(sizes, self._merge(parts + piece), end - begin)
        return np.concatenate([[0], np.cumsum(sizes)])

    def _piece(self, counts: Any, piece: int) -> Any:
        """Return with which row of a part, or of each, a piece begins; there are as many as the window is wide."""
        return counts * piece // self._window

    def _round(self, number: int) -> Places:
        """Return where the rows of a round lie, in the order in which it draws them; the newest rounds are kept."""
        if number not in self._rounds:
            while len(self._rounds) >= _ROUNDS_KEPT:
                del self._rounds[next(iter(self._rounds))]
            self._rounds[number] = self._draw_round(number)
        return self._rounds[number]

    def _draw_round(self, number: int) -> Places:
        low = 0 if number == 0 else number + self._window - 1
        is_last = number == len(self._starts) - 2
        high = len(self._groups) + self._window - 2 if is_last else number + self._window - 1
        parts = range(max(low - self._window + 1, 0), min(high, len(self._groups) - 1) + 1)
        rows = []
        for part in parts:
            count = int(self._counts[part])
            drawn = slice(
                self._piece(count, max(low - part, 0)), self._piece(count, min(high - part, self._window - 1) + 1)
            )
            rows.append(self._firsts[part] + self._permuted_rows(part)[drawn])
        groups = np.repeat(self._groups[parts.start : parts.stop], [len(drawn) for drawn in rows])
        order = permutation(len(groups), stream_key(*self._name, _ROUNDS, number))
        return Places(groups[order], np.concatenate(rows)[order])

    def _permuted_rows(self, part: int) -> np.ndarray:
        """Return the rows of a part in the order in which rounds draw them; those of the window's parts are kept."""
        if part not in self._permuted:
            for other in [other for other in self._permuted if abs(other - part) > self._window]:
                del self._permuted[other]
            self._permuted[part] = permutation(int(self._counts[part]), stream_key(*self._name, _ROWS, part))
        return self._permuted[part]
