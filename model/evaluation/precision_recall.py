"""Precision and recall of samples: which share of them looks real, and which share of what is real they reach.

Source: "Improved Precision and Recall Metric for Assessing Generative Models", arXiv 1904.06991, section 2: a set's
manifold is the union of balls about its features, each as large as the distance to the k-th nearest other one.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from parti_data.errors import ConfigError

NEIGHBOURS = 3
"""k. Source: section 4."""
_BLOCK_BYTES = 64 << 20
_ROUNDING = 1e-12
"""Squared distances below this share of the squared lengths are none: the difference of equal sums is not quite 0."""


class PrecisionRecall(NamedTuple):
    """Shares of one."""

    precision: float
    """Of the generated features, those within the real ones' manifold."""
    recall: float
    """Of the real features, those within the generated ones' manifold."""


def precision_recall(
    real: np.ndarray, generated: np.ndarray, neighbours: int = NEIGHBOURS, block_bytes: int = _BLOCK_BYTES
) -> PrecisionRecall:
    """Return both for features (N, D) and (M, D); they depend on how many there are, so compare equally many.

    Distances are Euclidean, in float64; `block_bytes` of them are held at a time, five times over. Raises ConfigError
    where a set has not more than k features.
    """
    least = min(len(real), len(generated))
    if least <= neighbours:
        raise ConfigError(f"precision and recall: expected more than {neighbours} images, found {least}; give more")
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    real_radii, generated_radii = (_radii(points, neighbours, block_bytes) for points in (real, generated))
    is_precise, num_recalled = np.zeros(len(generated), bool), 0
    for start, block in _squared_distances(real, generated, block_bytes):
        is_precise |= (block <= real_radii[start : start + len(block), None]).any(axis=0)
        num_recalled += int((block <= generated_radii).any(axis=1).sum())
    return PrecisionRecall(float(is_precise.mean()), num_recalled / len(real))


def _radii(manifold: np.ndarray, neighbours: int, block_bytes: int) -> np.ndarray:
    """Return the squared distance (N,) of each point from its k-th nearest other one."""
    radii = []
    for start, block in _squared_distances(manifold, manifold, block_bytes):
        rows = np.arange(len(block))
        block[rows, start + rows] = np.inf
        radii.append(np.partition(block, neighbours - 1, axis=1)[:, neighbours - 1])
    return np.concatenate(radii)


def _squared_distances(points: np.ndarray, others: np.ndarray, block_bytes: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the squared distances (rows, N) of some points at a time from all others, and the first one's number."""
    rows = max(block_bytes // (8 * len(others)), 1)
    lengths = np.square(others).sum(axis=1)
    for start in range(0, len(points), rows):
        some = points[start : start + rows]
        sums = np.square(some).sum(axis=1)[:, None] + lengths
        distances = sums - 2 * some @ others.T
        yield start, np.where(distances > _ROUNDING * sums, distances, 0.0)
