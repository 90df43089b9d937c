"""Clusters of colours by k-means, over distinct colours that weigh as much as pixels have them.

That gives the clusters of the pixels themselves, since equal pixels lie in one cluster, and is faster by as much as
colours recur. All of it is float64 in one order, so a seed decides every bit.
"""

from typing import NamedTuple

import numpy as np
from scipy.cluster.vq import vq

_LEVELS = 256


class Colours(NamedTuple):
    """Distinct colours, and how many pixels have each."""

    values: np.ndarray
    """float64 (N, 3), in [-1, 1], in the order of red, then green, then blue."""
    counts: np.ndarray
    """int64 (N,)"""


class Clusters(NamedTuple):
    """Centres, and how far pixels are from the nearest."""

    centres: np.ndarray
    """float64 (V, 3)"""
    mean_squared_distance: float
    """The sum over red, green and blue."""


def count_colours(pixels: np.ndarray) -> Colours:
    """Return the distinct colours of pixels uint8 (N, 3)."""
    red, green, blue = pixels.astype(np.int64).T
    numbers, counts = np.unique((red * _LEVELS + green) * _LEVELS + blue, return_counts=True)
    levels = np.stack([numbers // _LEVELS**2, numbers // _LEVELS % _LEVELS, numbers % _LEVELS], axis=1)
    return Colours(levels / 127.5 - 1, counts)


def choose_centres(colours: Colours, count: int, seed: int) -> np.ndarray:
    """Return so many of the colours, float64 (V, 3), each drawn by its squared distance from those before: k-means++.

    At most as many as there are. Source: Arthur and Vassilvitskii, k-means++ (2007), section 2.2.
    """
    assert count <= len(colours.values), (count, len(colours.values))
    generator = np.random.default_rng(seed)
    weights = colours.counts.astype(np.float64)
    nearest = np.full(len(weights), np.inf)
    centres = []
    for _ in range(count):
        chosen = generator.choice(len(weights), p=weights / weights.sum())
        centres.append(colours.values[chosen])
        nearest = np.minimum(nearest, np.square(colours.values - centres[-1]).sum(-1))
        weights = colours.counts * nearest
    return np.stack(centres)


def move_centres(colours: Colours, centres: np.ndarray) -> Clusters:
    """Return the mean of the pixels nearest to each centre, with the distance before they moved.

    A centre without pixels goes to the colour that costs most.
    """
    codes, distances = vq(colours.values, centres)
    sizes = _weigh(codes, colours.counts, len(centres))
    moved = np.stack([_weigh(codes, colours.counts * part, len(centres)) for part in colours.values.T], axis=1)
    moved /= np.maximum(sizes, 1)[:, None]
    empty = np.flatnonzero(sizes == 0)
    costs = colours.counts * np.square(distances)
    moved[empty] = colours.values[np.argsort(-costs, kind="stable")[: len(empty)]]
    return Clusters(moved, _mean(np.square(distances), colours.counts))


def most_used_first(colours: Colours, centres: np.ndarray) -> Clusters:
    """Return the centres in the order of how many pixels are nearest to each, with their own distance."""
    codes, distances = vq(colours.values, centres)
    order = np.argsort(-_weigh(codes, colours.counts, len(centres)), kind="stable")
    return Clusters(centres[order], _mean(np.square(distances), colours.counts))


def _mean(values: np.ndarray, counts: np.ndarray) -> float:
    return float((values * counts).sum() / counts.sum())


def _weigh(codes: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(codes, weights, minlength=count)
