"""Merge rows with the same image: the first row survives and takes all captions.

Candidates grouped by key enter; what happens to rows that share their key leaves, keyed by split, and the marker of
each split. Order of arrival does not matter: the survivor is the row of the lowest split and place.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
from pydantic import Field, NonNegativeInt, PositiveInt

from parti_data.config import StrictModel
from pipelines.judge_pairs import Candidate

PLACEHOLDER = "image_placeholder"


class Duplicates(StrictModel):
    """What becomes of images that occur more than once."""

    max_captions: PositiveInt = 16
    """Captions that a survivor takes at most."""
    max_captions_per_image: NonNegativeInt = 0
    """An image under more captions than this is a placeholder ("image not available") and dropped; 0 drops none."""
    near: bool = False
    """Whether images that look alike are merged too, exact duplicates first."""
    max_distance: int = Field(default=15, ge=0, le=31)
    """Bits of the perceptual hash, of 256, in which images that look alike may differ. 15 finds copies of pictures like
    photographs, crops of 5% included; drawings and icons that differ in little need 4 or less, and lose crops."""
    mirrored: bool = False
    """Whether an image looks like its mirror image."""


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
    """(key, Candidate) to (split, Merge); a marker has row -1."""

    duplicates: Duplicates

    def expand(self, candidates):
        """Wire the step."""
        return (
            candidates
            | "GroupByImage" >> beam.GroupByKey()
            | "MergeGroup" >> beam.FlatMap(merge_group, duplicates=self.duplicates)
        )


def merge_group(group: tuple[str, Iterable[Candidate]], duplicates: Duplicates) -> Iterator[tuple[int, Merge]]:
    """Yield what becomes of the rows that share an image; nothing for a row that is alone."""
    key, candidates = group
    first, *others = sorted(Candidate(*candidate) for candidate in candidates)
    if first.row < 0:
        yield first.split, Merge(-1, [], "")
    elif others:
        captions = list(dict.fromkeys(text for row in (first, *others) for text in row.captions))
        if 0 < duplicates.max_captions_per_image < len(captions):
            for row in (first, *others):
                yield row.split, Merge(row.row, row.captions, "", PLACEHOLDER)
            return
        yield first.split, Merge(first.row, captions[: duplicates.max_captions], "")
        for row in others:
            yield row.split, Merge(row.row, row.captions, key)
