"""Which of the images that hashes connect are copies of one picture, as their thumbnails tell.

Images whose hashes are near are compared, each with the `MOST_COMPARED` nearest before it at most; copies, and copies
of copies, are a group. What enters has an order that does not depend on which image arrived first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from parti_data.copies import are_copies
from parti_data.perceptual_hash import hamming_distances, mirrored_hashes, pack_hashes, rows_a_block
from parti_data.thumbnails import read_thumbnails
from pipelines.duplicates import Duplicates
from pipelines.link_near_duplicates import Components

MOST_COMPARED = 64
"""So what is compared grows with the images that look alike and not with their square: 10,000 of which none are copies
take some four minutes of a core, 10,000 copies of one some ten seconds. Only their hashes are compared each with each,
which begins to tell at about 100,000 images that chains of near hashes connect."""


class Look(NamedTuple):
    """What an image looks like."""

    perceptual_hash: str
    thumbnail: bytes


def group_copies(looks: Sequence[Look], duplicates: Duplicates) -> list[list[int]]:
    """Return the places of the images of each group, in their order; an image without copies is a group of one."""
    candidates = nearest_before(pack_hashes([look.perceptual_hash for look in looks]), duplicates)
    pixels = read_thumbnails([look.thumbnail for look in looks])
    components = Components()
    for nearest in candidates.T:
        roots = np.array([components.root(place) for place in range(len(looks))])
        places = np.flatnonzero((nearest >= 0) & (roots != roots[nearest]))
        is_copy = _look_alike(pixels, places, nearest[places], duplicates.mirrored)
        for place, other in zip(places[is_copy].tolist(), nearest[places][is_copy].tolist(), strict=True):
            components.join(place, other)
    groups: dict[int, list[int]] = {}
    for place in range(len(looks)):
        groups.setdefault(components.root(place), []).append(place)
    return list(groups.values())


def _look_alike(pixels: np.ndarray, places: np.ndarray, others: np.ndarray, is_mirrored: bool) -> np.ndarray:
    is_copy = are_copies(pixels[places], pixels[others])
    if is_mirrored:
        left = ~is_copy
        is_copy[left] = are_copies(pixels[places[left], :, ::-1], pixels[others[left]])
    return is_copy


def nearest_before(hashes: np.ndarray, duplicates: Duplicates) -> np.ndarray:
    """Return for each of packed hashes (N, 4) the places of those before it within the distance, nearest first.

    `MOST_COMPARED` columns at most, -1 where there are no more.
    """
    count = len(hashes)
    most = min(MOST_COMPARED, count)
    found = np.empty((count, most), np.int64)
    step = rows_a_block(count)
    for start in range(0, count, step):
        block = hashes[start : start + step]
        distances = hamming_distances(block, hashes)
        if duplicates.mirrored:
            distances = np.minimum(distances, hamming_distances(mirrored_hashes(block), hashes))
        is_before = np.arange(count) < np.arange(start, start + len(block))[:, None]
        ranks = distances.astype(np.int64) * count + np.arange(count)
        ranks = np.where(is_before & (distances <= duplicates.max_distance), ranks, np.iinfo(np.int64).max)
        nearest = np.sort(np.partition(ranks, most - 1, axis=1)[:, :most], axis=1)
        found[start : start + step] = np.where(nearest < np.iinfo(np.int64).max, nearest % count, -1)
    return found
