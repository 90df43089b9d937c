"""Merge rows whose image is the same, or looks alike: one row survives and takes all captions.

Packed candidates enter by bucket; what becomes of the rows that are merged leaves, keyed by split, and the marker of
each split. Only rows that have company are read again, for their captions and thumbnails: some 2 KB an image that
looks like another. Order of arrival does not matter.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
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
from pipelines.group_copies import Look, group_copies
from pipelines.judge_pairs import Judging, judged_rows
from pipelines.link_near_duplicates import LinkNearDuplicates
from pipelines.run_metrics import report_steps

PLACEHOLDER = "image_placeholder"


class Candidate(NamedTuple):
    """A row that has company: what merging needs of it. The marker of a split has row -1."""

    split: int
    row: int
    key: str
    captions: list[str]
    num_pixels: int
    look: tuple[str, bytes] = ("", b"")
    """Its `Look`, in the first row of an image in a split, where looks are compared."""


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
        with_looks = self.duplicates.compares_looks()
        buckets = candidates | "GroupByBucket" >> beam.GroupByKey()
        if self.duplicates.near:
            members = buckets | LinkNearDuplicates(self.duplicates, self.packing)
        else:
            members = buckets | "LinkSame" >> beam.FlatMap(link_same, packing=self.packing)
        return (
            members
            | "GroupMembers" >> beam.GroupByKey()
            | "GatherRows" >> beam.FlatMap(gather_rows, judging=self.judging, with_looks=with_looks)
            | "GroupByRoot" >> beam.GroupByKey()
            | "MergeAlike" >> beam.FlatMap(merge_alike, duplicates=self.duplicates)
        )


def link_same(bucket: tuple[int, Iterable[tuple[int, bytes]]], packing: Packing) -> Iterator[tuple[int, bytes]]:
    """Yield (split, members as bytes) of the rows whose image another row has too; each split once at least."""
    number, parts = bucket[0], list(bucket[1])
    same: Same = find_same(*unpack(parts, packing))
    yield from by_split(same.members, same.members["id"])
    yield from ((split, b"") for split in home_splits(number, parts, packing))


def gather_rows(
    group: tuple[int, Iterable[bytes]], judging: Judging, with_looks: bool = False
) -> Iterator[tuple[int, Candidate]]:
    """Yield the marker of a split, and (root, Candidate) for each of its rows that is a member of something."""
    split, contents = group
    yield -1 - split, Candidate(split, -1, "", [], 0)
    table = read_members(contents)
    if len(table) == 0:
        return
    roots = {place_in_split(row_id): root for row_id, root in table.tolist()}
    seen: set[str] = set()
    for number, row in enumerate(judged_rows(split, judging, with_looks)):
        if number in roots:
            assert row.outcome == KEPT, (split, number, row.outcome)
            look = (row.perceptual_hash, row.thumbnail) if with_looks and row.key not in seen else ("", b"")
            seen.add(row.key)
            yield roots[number], Candidate(split, number, row.key, row.captions, row.width * row.height, look)
    report_steps()


def merge_alike(group: tuple[int, Iterable[Candidate]], duplicates: Duplicates) -> Iterator[tuple[int, Merge]]:
    """Yield what becomes of rows whose images are the same or look alike, or the marker of a split.

    Where variants are kept, only copies are merged.
    """
    rows = sorted(Candidate(*candidate) for candidate in group[1])
    if rows[0].row < 0:
        yield rows[0].split, Merge(-1, [], "")
        return
    pictures: defaultdict[str, list[Candidate]] = defaultdict(list)
    for row in rows:
        pictures[row.key].append(row)
    keys = sorted(pictures, key=lambda key: (-pictures[key][0].num_pixels, key))
    groups = [keys]
    if duplicates.compares_looks() and len(keys) > 1:
        looks = [Look(*pictures[key][0].look) for key in keys]
        groups = [[keys[place] for place in places] for places in group_copies(looks, duplicates)]
    for copies in groups:
        yield from _merge({key: pictures[key] for key in copies}, duplicates)


def _merge(pictures: dict[str, list[Candidate]], duplicates: Duplicates) -> Iterator[tuple[int, Merge]]:
    """Yield what becomes of the rows of pictures that are one, in the order in which they survive; nothing of one row.

    The image with most pixels survives, of several the one with the smallest key; of its rows the first. It takes the
    captions of all. A row that is the same image as a loser stays merged into that loser. One image under too many
    captions is a placeholder.
    """
    survivor, *losers = pictures
    rows = list(chain.from_iterable(pictures.values()))
    if len(rows) == 1:
        return
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
