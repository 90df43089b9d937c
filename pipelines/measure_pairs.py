"""Measure every pair of a split and judge it by the rules.

A source split enters; a fragment with a ledger row for each input row is written; a small record for each row that the
rules keep leaves, and one for the split itself. Pixels live only inside one call of `measure_pair`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam

from parti_data.images import Drop, ImageHeader, ImageLimits, decode, image_key, read_header
from parti_data.ledger import DROPPED, KEPT, LedgerRow, read_ledger, write_ledger
from parti_data.rules import Rules, judge_caption, judge_image
from parti_data.sources import Source
from parti_data.sources.pairs import RawPair, SourceSplit
from parti_data.storage import is_file, join

FRAGMENTS = "measured"
"""The subdirectory of fragments; it goes when the stage is finished."""


class Candidate(NamedTuple):
    """A row that the rules keep: where it stands, and what merging needs of it."""

    split: int
    row: int
    captions: list[str]


@dataclass(eq=False)
class MeasurePairs(beam.PTransform):
    """SourceSplit to (key, Candidate), and (split marker, Candidate) once for each split."""

    source: Source
    rules: Rules
    limits: ImageLimits
    output: str

    def expand(self, splits):
        """Wire the step."""
        return splits | "MeasureSplit" >> beam.FlatMap(
            measure_split, source=self.source, rules=self.rules, limits=self.limits, output=self.output
        )


def measure_split(
    split: SourceSplit, source: Source, rules: Rules, limits: ImageLimits, output: str
) -> Iterator[tuple[str, Candidate]]:
    """Write the split's fragment unless it is there, and yield its candidates."""
    path = fragment_path(output, split.number)
    if not is_file(path):
        pairs = source.read(split, limits.max_bytes)
        write_ledger(path, (measure_pair(pair, split.path, rules, limits) for pair in pairs))
    yield f"split {split.number}", Candidate(split.number, -1, [])
    for number, row in enumerate(read_ledger(path)):
        if row.outcome == KEPT:
            yield row.key, Candidate(split.number, number, row.captions)


def fragment_path(output: str, split: int) -> str:
    """Return the path of a split's fragment."""
    return join(join(output, FRAGMENTS), f"split-{split:05d}.parquet")


def measure_pair(pair: RawPair, source: str, rules: Rules, limits: ImageLimits) -> LedgerRow:
    """Return the ledger row of one pair: kept or dropped, with the reason and the measures."""
    caption = " ".join((pair.caption or "").split())
    header = Drop("image_missing") if pair.image is None else read_header(pair.image, limits)
    measured = header if isinstance(header, ImageHeader) else ImageHeader(0, 0, "")
    drop = _judge(pair.image, header, caption, rules, limits)
    return LedgerRow(
        key=image_key(pair.image) if pair.image and len(pair.image) == pair.location.size else "",
        source=source,
        source_key=pair.source_key,
        outcome=DROPPED if drop else KEPT,
        reason=drop.reason if drop else "",
        detail=drop.detail if drop else "",
        merged_into="",
        captions=[caption] if caption else [],
        width=measured.width,
        height=measured.height,
        num_bytes=pair.location.size,
        format=measured.format,
        path=pair.location.path,
        offset=pair.location.offset,
        size=pair.location.size,
    )


def _judge(
    image: bytes | None, header: ImageHeader | Drop, caption: str, rules: Rules, limits: ImageLimits
) -> Drop | None:
    """Return the first reason against a pair; decoding, the dearest check, comes last."""
    if isinstance(header, Drop) or image is None:
        return header if isinstance(header, Drop) else Drop("image_missing")
    if drop := judge_image(header, rules) or judge_caption(caption, rules):
        return drop
    pixels = decode(image, limits)
    return pixels if isinstance(pixels, Drop) else None
