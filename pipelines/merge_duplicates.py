"""Merge rows with the same image: the first row survives and takes all captions.

Candidates grouped by key enter; what happens to rows that share their key leaves, keyed by split, and the marker of
each split. Order of arrival does not matter: the survivor is the row of the lowest split and place.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam

from pipelines.measure_pairs import Candidate


class Merge(NamedTuple):
    """What merging does to a row: it survives with these captions, or goes into the image `merged_into`."""

    row: int
    captions: list[str]
    merged_into: str


@dataclass(eq=False)
class MergeDuplicates(beam.PTransform):
    """(key, Candidate) to (split, Merge); a marker has row -1."""

    def expand(self, candidates):
        """Wire the step."""
        return candidates | "GroupByImage" >> beam.GroupByKey() | "MergeGroup" >> beam.FlatMapTuple(merge_group)


def merge_group(key: str, candidates: Iterable[Candidate]) -> Iterator[tuple[int, Merge]]:
    """Yield what becomes of the rows that share an image; nothing for a row that is alone."""
    first, *others = sorted(Candidate(*candidate) for candidate in candidates)
    if first.row < 0:
        yield first.split, Merge(-1, [], "")
    elif others:
        captions = list(dict.fromkeys(text for row in (first, *others) for text in row.captions))
        yield first.split, Merge(first.row, captions, "")
        for row in others:
            yield row.split, Merge(row.row, row.captions, key)
