"""Merge images that look alike, after those that are the same: the one with most pixels survives.

Candidates keyed by image enter; what becomes of the merged rows leaves, keyed by split, and the marker of each split.
Images whose perceptual hashes share a band are compared; pairs within the distance are edges; what edges connect is one
image. Every step is a GroupByKey, and what is not its concern passes through it, so the pipeline stays one chain.
An image makes a small record for each of `max_distance + 1` bands: measured on the local engine with 16 bands, 0.5 ms
of one core (AMD Zen 5) and 9 KB of memory a kept image. The work in a band grows with the square of the different
hashes in it, which begins to tell at about a million images.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from parti_data.perceptual_hash import HASH_BITS, bands, hamming_distances, mirrored_hash, pack_hashes, rows_a_block
from pipelines.judge_pairs import Candidate
from pipelines.merge_duplicates import Duplicates, Merge, merge_group

BAND = "band "
EDGES = "edges"
_HASH_BYTES = HASH_BITS // 8


class Picture(NamedTuple):
    """An image and the rows that have it, the first of them first."""

    key: str
    num_pixels: int
    rows: list[Candidate]


class Components:
    """Which members belong together: a union-find whose root is the smallest member."""

    def __init__(self):
        self._parents: dict[Any, Any] = {}

    def root(self, member: Hashable) -> Any:
        """Return the smallest member of the component."""
        parents = self._parents
        parents.setdefault(member, member)
        while parents[member] != member:
            parents[member] = parents[parents[member]]
            member = parents[member]
        return member

    def join(self, one: Hashable, other: Hashable) -> bool:
        """Make one component of two; return whether they were two."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parents[high] = low
        return low != high

    def roots(self) -> dict[Any, Any]:
        """Return the root of every member."""
        return {member: self.root(member) for member in self._parents}


@dataclass(eq=False)
class MergeNearDuplicates(beam.PTransform):
    """(key, Candidate) to (split, Merge); a marker has row -1."""

    duplicates: Duplicates

    def expand(self, candidates):
        """Wire the steps."""
        return (
            candidates
            | "GroupByImage" >> beam.GroupByKey()
            | "SpreadOverBands" >> beam.FlatMap(spread_over_bands, duplicates=self.duplicates)
            | "GroupByBand" >> beam.GroupByKey()
            | "LinkBand" >> beam.FlatMap(link_band, duplicates=self.duplicates)
            | "GatherEdges" >> beam.GroupByKey()
            | "FindComponents" >> beam.FlatMap(find_components)
            | "GroupWithRoot" >> beam.GroupByKey()
            | "RekeyByRoot" >> beam.FlatMap(rekey_by_root)
            | "GroupByComponent" >> beam.GroupByKey()
            | "MergeComponent" >> beam.FlatMap(merge_component, duplicates=self.duplicates)
        )


def spread_over_bands(group: tuple[str, Iterable[Any]], duplicates: Duplicates) -> Iterator[tuple[str, Any]]:
    """Yield (key, Picture) of the rows that share an image, and (band, hash and key as bytes) for each of its bands.

    A placeholder looks like nothing, so it is dropped alone. A marker passes.
    """
    key, values = group
    rows = sorted(Candidate(*value) for value in values)
    yield key, Picture(key, rows[0].num_pixels, rows)
    is_placeholder = any(merge.dropped for _, merge in merge_group((key, rows), duplicates))
    if rows[0].row < 0 or is_placeholder:
        return
    hashes = {rows[0].perceptual_hash}
    if duplicates.mirrored:
        hashes.add(mirrored_hash(rows[0].perceptual_hash))
    for text in sorted(hashes):
        for band, value in enumerate(bands([text], duplicates.max_distance)[0]):
            yield f"{BAND}{band} {value:x}", bytes.fromhex(text) + key.encode()


def link_band(group: tuple[str, Iterable[Any]], duplicates: Duplicates) -> Iterator[tuple[str, Any]]:
    """Yield (EDGES, (key, key)) for images of a band within the distance, as few as connect them; all else passes.

    Equal hashes are chained in band 0. Others are linked by the lowest band that they share, and by no other.
    """
    name, values = group
    if not name.startswith(BAND):
        yield from ((name, value) for value in values)
        return
    band = int(name.split()[1])
    by_hash: defaultdict[str, set[str]] = defaultdict(set)
    for value in values:
        by_hash[value[:_HASH_BYTES].hex()].add(value[_HASH_BYTES:].decode())
    hashes = sorted(by_hash)
    keys = [sorted(by_hash[text]) for text in hashes]
    if band == 0:
        for chain in keys:
            yield from ((EDGES, edge) for edge in pairwise(chain))
    if len(hashes) == 1:
        return
    linked = Components()
    for row, column in near_pairs(hashes, band, duplicates.max_distance):
        one, other = keys[row][0], keys[column][0]
        if one != other and linked.join(one, other):
            yield EDGES, (one, other)


def near_pairs(hashes: list[str], band: int, max_distance: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of places of hashes within the distance of which this band is the lowest that they share."""
    packed, values = pack_hashes(hashes), bands(hashes, max_distance)
    step = rows_a_block(len(hashes))
    for start in range(0, len(hashes), step):
        rows, columns = np.nonzero(hamming_distances(packed[start : start + step], packed[start:]) <= max_distance)
        is_later = columns > rows
        rows, columns = rows[is_later] + start, columns[is_later] + start
        is_ours = values[rows, band] == values[columns, band]
        for lower in range(band):  # one by one: all at once would take memory for each band
            is_ours &= values[rows, lower] != values[columns, lower]
        yield from zip(rows[is_ours].tolist(), columns[is_ours].tolist(), strict=True)


def find_components(group: tuple[str, Iterable[Any]]) -> Iterator[tuple[str, Any]]:
    """Yield (key, root) for every image that an edge touches; all else passes."""
    name, values = group
    if name != EDGES:
        yield from ((name, value) for value in values)
        return
    components = Components()
    for one, other in values:
        components.join(one, other)
    yield from components.roots().items()


def rekey_by_root(group: tuple[str, Iterable[Any]]) -> Iterator[tuple[str, Any]]:
    """Yield (root, Picture) of an image; it is its own root where no edge touches it."""
    key, values = group
    values = list(values)
    roots = [value for value in values if isinstance(value, str)]
    pictures = [value for value in values if not isinstance(value, str)]
    assert (len(pictures), len(roots)) in ((1, 0), (1, 1)), (key, len(pictures), roots)
    yield (roots[0] if roots else key), pictures[0]


def merge_component(group: tuple[str, Iterable[Any]], duplicates: Duplicates) -> Iterator[tuple[int, Merge]]:
    """Yield what becomes of the rows of images that look alike.

    The image with most pixels survives, of several the one with the smallest key, and takes the captions of all. A row
    that is the same image as a loser stays merged into that loser.
    """
    pictures = [Picture(key, size, [Candidate(*row) for row in rows]) for key, size, rows in group[1]]
    survivor, *losers = sorted(pictures, key=lambda picture: (-picture.num_pixels, picture.key))
    if not losers:
        yield from merge_group((survivor.key, survivor.rows), duplicates)
        return
    captions = list(dict.fromkeys(text for each in (survivor, *losers) for row in each.rows for text in row.captions))
    for picture in (survivor, *losers):
        first, *others = picture.rows
        if picture is survivor:
            yield first.split, Merge(first.row, captions[: duplicates.max_captions], "")
        else:
            yield first.split, Merge(first.row, first.captions, survivor.key, is_near=True)
        for row in others:
            yield row.split, Merge(row.row, row.captions, picture.key)
