"""How attention under a sparse causal mask is done in blocks of queries: which keys each of them reads.

It follows from the mask's boolean array, how long a prefix is that all see, and in which order positions are taken.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Block(NamedTuple):
    """Queries that are done together: which pieces of the keys they read, and what of these each sees, bool (N, K)."""

    pieces: list[int]
    allowed: Tensor


class Blocks(NamedTuple):
    """Attention in blocks under a mask."""

    order: Tensor | None  # int64 (I,), in which positions are taken; None where it is their own
    query_sizes: list[int]  # of the blocks
    key_sizes: list[int]  # of the pieces that keys are cut into
    blocks: list[Block]


def plan_blocks(allowed: np.ndarray, num_prefix: int, order: np.ndarray | None, size: int) -> Blocks:
    """Return how attention under a mask (I, I) is done in blocks of so many queries at most.

    Keys are cut where a block begins or its span of them does, so that a span is some whole pieces side by side: the
    gradient of what was cut is put together once, that of slices once a slice, which took as long as the products did.
    """
    length = len(allowed)
    if order is not None:
        order = np.concatenate([np.arange(num_prefix), num_prefix + order[order < length - num_prefix]])
        allowed = allowed[order][:, order]
    starts = [*range(0, num_prefix, size), *range(num_prefix, length, size)]
    ends = [*starts[1:], length]
    assert not any(allowed[start:end, end:].any() for start, end in zip(starts, ends, strict=True))
    firsts = [_first_seen(allowed[start:end], num_prefix, end) for start, end in zip(starts, ends, strict=True)]
    cuts = sorted({*starts, *firsts, length})
    blocks = []
    for start, end, first in zip(starts, ends, firsts, strict=True):
        is_read = [low < min(num_prefix, end) or first <= low < end for low in cuts[:-1]]
        read = np.repeat(is_read, np.diff(cuts))
        blocks.append(Block(np.flatnonzero(is_read).tolist(), torch.from_numpy(allowed[start:end, read])))
    sizes = [high - low for low, high in pairwise(cuts)]
    queries = [end - start for start, end in zip(starts, ends, strict=True)]
    return Blocks(None if order is None else torch.from_numpy(order), queries, sizes, blocks)


def _first_seen(allowed: np.ndarray, num_prefix: int, end: int) -> int:
    """Return the first position behind the prefix that any of some queries sees, `end` where they see none."""
    is_seen = allowed[:, num_prefix:].any(0)
    return num_prefix + int(is_seen.argmax()) if is_seen.any() else end
