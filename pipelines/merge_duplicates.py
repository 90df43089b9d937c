"""Merge rows whose image is the same, or looks alike: one row survives and takes all captions.

Packed candidates enter by bucket; what becomes of the rows that are merged leaves, keyed by split, and the marker of
each split. Only rows that have company are read again, for their captions. Order of arrival does not matter.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam

from parti_data.ledger import KEPT
from pipelines.candidates import (
    Packing,
    Same,
    by_split,
    find_same,
    home_splits,
    place_in_split,
    read_members,
    unpack,
)  # fmt: skip
from pipelines.duplicates import Duplicates
from pipelines.judge_pairs import Judging, judged_rows
from pipelines.link_near_duplicates import LinkNearDuplicates

PLACEHOLDER = "image_placeholder"


class Candidate(NamedTuple):
    """A row that has company: what merging needs of it. The marker of a split has row -1."""

    split: int
    row: int
    key: str
    captions: list[str]
    num_pixels: int


class Merge(NamedTuple):
    """What merging does to a row: it survives with these captions, goes into an image, or is dropped for a reason."""

    row: int
    captions: list[str]
    merged_into: str
    dropped: str = ""
    is_near: bool = False
    """Whether it only looks like the image that it goes into."""


@dataclass(eq=False)
class MergeDuplicates(beam.PTransform):
    """(bucket, (split, packed rows)) to (split, Merge); a marker has row -1."""

    duplicates: Duplicates
    judging: Judging
    packing: Packing

    def expand(self, candidates):
        """Wire the steps."""
        buckets = candidates | "GroupByBucket" >> beam.GroupByKey()
        if self.duplicates.near:
            members = buckets | LinkNearDuplicates(self.duplicates, self.packing)
        else:
            members = buckets | "LinkSame" >> beam.FlatMap(link_same, packing=self.packing)
        return (
            members
            | "GroupMembers" >> beam.GroupByKey()
            | "GatherRows" >> beam.FlatMap(gather_rows, judging=self.judging)
            | "GroupByRoot" >> beam.GroupByKey()
            | "MergeAlike" >> beam.FlatMap(merge_alike, duplicates=self.duplicates)
        )


def link_same(bucket: tuple[int, Iterable[tuple[int, bytes]]], packing: Packing) -> Iterator[tuple[int, bytes]]:
    """Yield (split, members as bytes) of the rows whose image another row has too; each split once at least."""
    number, parts = bucket[0], list(bucket[1])
    same: Same = find_same(*unpack(parts, packing))
    yield from by_split(same.members, same.members["id"])
    yield from ((split, b"") for split in home_splits(number, parts, packing))


def gather_rows(group: tuple[int, Iterable[bytes]], judging: Judging) -> Iterator[tuple[int, Candidate]]:
    """Yield the marker of a split, and (root, Candidate) for each of its rows that is a member of something."""
    split, contents = group
    yield -1 - split, Candidate(split, -1, "", [], 0)
    table = read_members(contents)
    if len(table) == 0:
        return
    roots = {place_in_split(row_id): root for row_id, root in table.tolist()}
    for number, row in enumerate(judged_rows(split, judging)):
        if number in roots:
            assert row.outcome == KEPT, (split, number, row.outcome)
            yield roots[number], Candidate(split, number, row.key, row.captions, row.width * row.height)


def merge_alike(group: tuple[int, Iterable[Candidate]], duplicates: Duplicates) -> Iterator[tuple[int, Merge]]:
    """Yield what becomes of rows whose images are the same or look alike, or the marker of a split.

    The image with most pixels survives, of several the one with the smallest key; of its rows the first. It takes the
    captions of all. A row that is the same image as a loser stays merged into that loser. One image under too many
    captions is a placeholder.
    """
    rows = sorted(Candidate(*candidate) for candidate in group[1])
    if rows[0].row < 0:
        yield rows[0].split, Merge(-1, [], "")
        return
    pictures: defaultdict[str, list[Candidate]] = defaultdict(list)
    for row in rows:
        pictures[row.key].append(row)
    survivor, *losers = sorted(pictures, key=lambda key: (-pictures[key][0].num_pixels, key))
    captions = list(dict.fromkeys(
        text for key in (survivor, *losers) for row in pictures[key] for text in row.captions
    ))  # fmt: skip
    if not losers and 0 < duplicates.max_captions_per_image < len(captions):
        yield from ((row.split, Merge(row.row, row.captions, "", PLACEHOLDER)) for row in rows)
        return
    for key, (first, *others) in pictures.items():
        if key == survivor:
            yield first.split, Merge(first.row, captions[: duplicates.max_captions], "")
        else:
            yield first.split, Merge(first.row, first.captions, survivor, is_near=True)
        yield from ((row.split, Merge(row.row, row.captions, key)) for row in others)
