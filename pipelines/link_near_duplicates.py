"""Link images that look alike, and the rows that have them.

Packed candidates enter by bucket. Images whose perceptual hashes share a band are compared; pairs within the distance
are edges; what edges connect is one. Every step is a GroupByKey, and what is not its concern passes through it, so the
pipeline stays one chain. Each band sees all hashes: 40 bytes an image cross a shuffle in each of `max_distance` + 1
bands, of which the local engine makes 2.9 KB of memory at the default distance. The work in a band grows with the
square of the different hashes that share its value, which begins to tell at about half a million images.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import apache_beam as beam
import numpy as np

from parti_data.perceptual_hash import HASH_WORDS, band_values, count_differing_bits, mirrored_hashes
from pipelines.candidates import (
    Packing,
    by_split,
    find_same,
    first_of_each,
    home_splits,
    read_members,
    to_members,
    unpack,
)  # fmt: skip
from pipelines.duplicates import Duplicates

BAND, SPLIT, EDGES = "band ", "split ", "edges"
SAME, ROOTS = "same", "roots"
LOOK = np.dtype([("hash", "<u8", HASH_WORDS), ("id", "<u8")])
"""A perceptual hash, and the first row of the image that has it."""


class Components:
    """Which members belong together: a union-find whose root is the smallest member."""

    def __init__(self):
        self._parents: dict[int, int] = {}

    def root(self, member: int) -> int:
        """Return the smallest member of the component."""
        parents = self._parents
        parents.setdefault(member, member)
        while parents[member] != member:
            parents[member] = parents[parents[member]]
            member = parents[member]
        return member

    def join(self, one: int, other: int) -> bool:
        """Make one component of two; return whether they were two."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parents[high] = low
        return low != high

    def roots(self) -> dict[int, int]:
        """Return the root of every member."""
        return {member: self.root(member) for member in self._parents}


@dataclass(eq=False)
class LinkNearDuplicates(beam.PTransform):
    """(bucket, packed candidates) to (split, members as bytes), each split once at least."""

    duplicates: Duplicates
    packing: Packing

    def expand(self, buckets):
        """Wire the steps."""
        return (
            buckets
            | "SpreadOverBands" >> beam.FlatMap(spread_over_bands, duplicates=self.duplicates, packing=self.packing)
            | "GroupByBand" >> beam.GroupByKey()
            | "LinkBand" >> beam.FlatMap(link_band, duplicates=self.duplicates)
            | "GatherEdges" >> beam.GroupByKey()
            | "FindComponents" >> beam.FlatMap(find_components)
            | "GroupBySplitOfFirst" >> beam.GroupByKey()
            | "AssignRoots" >> beam.FlatMap(assign_roots)
        )


def spread_over_bands(
    bucket: tuple[int, Iterable[tuple[int, bytes]]], duplicates: Duplicates, packing: Packing
) -> Iterator[tuple[str, Any]]:
    """Yield (split of the first row, members as bytes) of rows that share an image, and (band, looks as bytes).

    A placeholder looks like nothing, so it is dropped alone. Each split comes once at least.
    """
    number, parts = bucket[0], list(bucket[1])
    ids, records = unpack(parts, packing)
    same = find_same(ids, records)
    for split, content in by_split(same.members, same.members["root"]):
        yield f"{SPLIT}{split}", (SAME, content)
    for split in home_splits(number, parts, packing):
        yield f"{SPLIT}{split}", (SAME, b"")
    first = same.first
    if duplicates.max_captions_per_image:
        first = first[same.num_captions <= duplicates.max_captions_per_image]
    looks = _to_looks(records["hash"][first], ids[first])
    if duplicates.mirrored:
        looks = np.concatenate([looks, _to_looks(mirrored_hashes(looks["hash"]), looks["id"])])
    if len(looks):
        yield from ((f"{BAND}{band}", looks.tobytes()) for band in range(duplicates.max_distance + 1))


def _to_looks(hashes: np.ndarray, ids: np.ndarray) -> np.ndarray:
    looks = np.empty(len(ids), LOOK)
    looks["hash"], looks["id"] = hashes, ids
    return looks


def link_band(group: tuple[str, Iterable[Any]], duplicates: Duplicates) -> Iterator[tuple[str, Any]]:
    """Yield (EDGES, edges as bytes): as few as connect the images of a band within the distance; all else passes.

    Images of equal hashes are linked in band 0 alone.
    """
    name, values = group
    if not name.startswith(BAND):
        yield from ((name, value) for value in values)
        return
    band = int(name.removeprefix(BAND))
    looks = np.frombuffer(b"".join(values), LOOK)
    looks = looks[np.lexsort((looks["id"], *looks["hash"].T))]
    is_new = first_of_each(looks["hash"])
    edges: list[tuple[int, int]] = []
    if band == 0:
        chained = np.flatnonzero(~is_new & (looks["id"] != np.roll(looks["id"], 1)))
        edges += zip(looks["id"][chained - 1].tolist(), looks["id"][chained].tolist(), strict=True)
    different = looks[is_new]
    components = Components()
    for places, others in near_pairs(different["hash"], band, duplicates.max_distance):
        ids = zip(different["id"][places].tolist(), different["id"][others].tolist(), strict=True)
        edges += [edge for edge in ids if edge[0] != edge[1] and components.join(*edge)]
    if edges:
        yield EDGES, np.array(edges, "<u8").tobytes()


def near_pairs(hashes: np.ndarray, band: int, max_distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places of pairs of hashes, uint64 (N, 4), that share the value of a band and are within the distance.

    Hashes in the order of their values are compared with the next, then with the one after it, as long as any shares
    its value: few steps on long arrays, and no pair that does not share it.
    """
    values = band_values(hashes, band, max_distance)
    order = np.argsort(values, kind="stable")
    hashes, values = hashes[order], values[order]
    places = np.arange(len(values))
    for step in count(1):
        places = places[places < len(values) - step]
        places = places[values[places + step] == values[places]]
        if len(places) == 0:
            return
        near = places[count_differing_bits(hashes[places], hashes[places + step]) <= max_distance]
        yield order[near], order[near + step]


def find_components(group: tuple[str, Iterable[Any]]) -> Iterator[tuple[str, Any]]:
    """Yield (split, members as bytes) of the images that an edge touches; all else passes."""
    name, values = group
    if name != EDGES:
        yield from ((name, value) for value in values)
        return
    components = Components()
    for one, other in np.frombuffer(b"".join(values), "<u8").reshape(-1, 2).tolist():
        components.join(one, other)
    roots = np.array(sorted(components.roots().items()), "<u8").reshape(-1, 2)
    for split, content in by_split(to_members(roots[:, 0], roots[:, 1]), roots[:, 0]):
        yield f"{SPLIT}{split}", (ROOTS, content)


def assign_roots(group: tuple[str, Iterable[tuple[str, bytes]]]) -> Iterator[tuple[int, bytes]]:
    """Yield (split, members as bytes) of the rows whose image lies first in a split, and the split itself."""
    name, values = group
    contents: defaultdict[str, list[bytes]] = defaultdict(list)
    for kind, content in values:
        contents[kind].append(content)
    roots = dict(read_members(contents[ROOTS]).tolist())
    rows = dict(read_members(contents[SAME]).tolist())
    rooted = roots | {row: roots.get(first, first) for row, first in rows.items()}
    table = np.array(sorted(rooted.items()), "<u8").reshape(-1, 2)
    yield from by_split(to_members(table[:, 0], table[:, 1]), table[:, 0])
    yield int(name.removeprefix(SPLIT)), b""
