"""Which source of a mixture each position of an endless sequence comes from: exact shares in every block of it."""

from typing import NamedTuple

import numpy as np

from parti_data.errors import ShardError
from parti_data.keyed_random import permutation, stream_key

BLOCK = 4096
"""Positions in which the shares are as near to the weights as whole numbers come."""


class Origins(NamedTuple):
    """Where positions come from, int64 (N,) both."""

    sources: np.ndarray
    positions: np.ndarray
    """In the source's own endless sequence; those of one source ascend where the positions do."""


class Mixture:
    """A mixture of sources by weight: a function of the weights, the seed and the position."""

    def __init__(self, weights: dict[str, float], seed: int):
        self.counts = _share_out(weights)
        self._seed = seed
        self._blocks: dict[int, Origins] = {}

    def origins(self, positions: np.ndarray) -> Origins:
        """Return where these ascending positions come from, int64 (N,)."""
        if len(self.counts) == 1:
            return Origins(np.zeros_like(positions), positions)
        sources, own = np.empty_like(positions), np.empty_like(positions)
        blocks = positions // BLOCK
        for number in np.unique(blocks).tolist():
            here = np.flatnonzero(blocks == number)
            block, within = self._block(number), positions[here] % BLOCK
            sources[here], own[here] = block.sources[within], block.positions[within]
        return Origins(sources, own)

    def first_beyond(self, source: int, count: int) -> int:
        """Return the position with which a source gives its row number `count`, from 0."""
        number, within = divmod(count, int(self.counts[source]))
        return number * BLOCK + int(np.flatnonzero(self._block(number).sources == source)[within])

    def _block(self, number: int) -> Origins:
        if number not in self._blocks:
            while len(self._blocks) > 1:
                del self._blocks[next(iter(self._blocks))]
            sources = np.repeat(np.arange(len(self.counts)), self.counts)
            sources = sources[permutation(BLOCK, stream_key(self._seed, number))]
            own = np.empty(BLOCK, np.int64)
            for source, count in enumerate(self.counts.tolist()):
                own[sources == source] = number * count + np.arange(count)
            self._blocks[number] = Origins(sources, own)
        return self._blocks[number]


def _share_out(weights: dict[str, float]) -> np.ndarray:
    """Return how many positions of a block each source gets, int64: by largest remainder, at least one."""
    given = np.array(list(weights.values()), np.float64)
    if not len(given) or not np.isfinite(given).all() or (given <= 0).any():
        raise ShardError(f"mixture: expected sources with weights above 0, found {weights}; leave out what has none")
    exact = given / given.sum() * BLOCK
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]] += 1
    if not counts.all():
        least = list(weights)[int(np.argmin(counts))]
        raise ShardError(
            f"mixture: expected weights of which each is at least 1 in {BLOCK}, found {weights[least]} for {least}; "
            "raise it or leave it out"
        )
    return counts
