"""How often the codes of a codebook occur in token shards, and the least bits that so many tokens need."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from parti_data.errors import ShardError
from parti_data.shard_footer import TOKENS
from parti_data.token_shard import read_metadata, read_row_group, token_matrix

MOST_CODES = 1 << 24
"""A larger codebook is not counted: its counts alone would take more than 128 MiB."""


class RowGroup(NamedTuple):
    """A row group of a shard."""

    path: str
    number: int


class CodeCounts:
    """Counts the codes of shards as they come."""

    def __init__(self, codebook_size: int):
        if not 0 < codebook_size <= MOST_CODES:
            raise ShardError(
                f"codebook_size: expected 1 to {MOST_CODES} codes to count, found {codebook_size}; check what made the "
                "shards"
            )
        self.counts = np.zeros(codebook_size, np.int64)  # (V,)
        self.rows = 0

    def add(self, path: str, tokens: np.ndarray) -> None:
        """Take rows of tokens (B, I) of a shard; raises ShardError where one is beyond the codebook."""
        highest = int(tokens.max(initial=0))
        if highest >= len(self.counts):
            raise ShardError(
                f"{path}: expected tokens below {len(self.counts)}, found {highest}; run tokenize into a new directory"
            )
        self.counts += np.bincount(tokens.ravel(), minlength=len(self.counts))
        self.rows += len(tokens)


def count_codes(groups: Iterable[RowGroup], codebook_size: int) -> CodeCounts:
    """Return how often each code occurs in some row groups; raises ShardError."""
    counted = CodeCounts(codebook_size)
    for path, number in groups:
        counted.add(path, token_matrix(read_row_group(path, number, [TOKENS])))
    return counted


def row_groups(paths: list[str]) -> Iterator[RowGroup]:
    """Yield the row groups of shards in order; a footer is read when its turn comes."""
    for path in paths:
        yield from (RowGroup(path, number) for number in range(len(read_metadata(path)[1])))


def entropy(counts: np.ndarray) -> float:
    """Return the entropy in bits of codes that occur so often."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0
