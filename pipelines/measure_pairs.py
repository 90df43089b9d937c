"""Measure every pair of a split, once: what is measured does not depend on the rules.

A source split enters; a fragment with a ledger row for each input row is written, dropped where the image cannot be
used; the hashes of the split's captions leave, where repeated captions are counted. Pixels live only inside one call
of `measure_pair`.
"""

import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from PIL import Image

from parti_data.captions import MAX_CAPTION_CHARS, clean_caption
from parti_data.errors import SourceError
from parti_data.images import NO_HEADER, Drop, ImageLimits, image_key, inspect
from parti_data.ledger import DROPPED, KEPT, LedgerRow, read_ledger, write_measures
from parti_data.metrics import IMAGE_BYTES, ROWS, WRITTEN_BYTES
from parti_data.perceptual_hash import LEAST_SIDE_PX, hash_and_squeeze
from parti_data.rules import caption_hash
from parti_data.sources import Source
from parti_data.sources.pairs import RawPair, SourceSplit
from parti_data.sources.text_rows import number_or_text
from parti_data.step_times import count, timed, timed_each
from parti_data.storage import file_marker, file_size, is_file
from parti_data.thumbnails import make_thumbnail
from pipelines.fragments import Parts, fragment_path
from pipelines.run_metrics import reported_steps

SOURCE_UNREADABLE = "source_unreadable"
"""Why the one row is dropped that stands for a split whose file is broken."""
MEASURED_REASONS = (
    "image_missing", "image_unreadable", "image_undecodable", "image_too_many_bytes", "image_too_many_pixels",
    "image_format_not_allowed", "image_animated", SOURCE_UNREADABLE,
)  # fmt: skip
"""Why a row is dropped before the rules judge it."""
MAX_ATTRIBUTE_CHARS = 2048
MAX_DETAIL_CHARS = 400
MAX_CAPTIONS = 256
"""Captions of one image that are looked at."""
MAX_CAPTION_CHARS_A_ROW = 8 * MAX_CAPTION_CHARS
"""Of all captions of one image together; those beyond are not looked at."""


@dataclass(frozen=True)
class Measuring:
    """What measuring depends on."""

    source: Source
    limits: ImageLimits
    fields: tuple[str, ...]
    """Fields of the source that the ledger keeps as scores (numbers) and attributes (texts)."""
    output: str
    skips_bad_splits: bool = False
    """Whether a split whose file is broken ends as one row, instead of ending the run."""


class BadSplitError(Exception):
    """The file of a split is broken, and may be skipped."""


@dataclass(eq=False)
class MeasurePairs(beam.PTransform):
    """SourceSplit to the hash of each caption of each of its usable rows, once a row."""

    measuring: Measuring
    counts_captions: bool

    def expand(self, splits):
        """Wire the step."""
        return splits | "MeasureSplit" >> beam.FlatMap(
            measure_split, measuring=self.measuring, counts_captions=self.counts_captions
        )


def measure_split(split: SourceSplit, measuring: Measuring, counts_captions: bool) -> Iterator[str]:
    """Write the split's fragment unless it is there, and yield the hashes of its captions if they are counted."""
    path = fragment_path(measuring.output, split.number)
    if not is_file(path):
        with reported_steps(), timed("write"):
            write_fragment(split, measuring)
            count(WRITTEN_BYTES, file_size(path))
    if counts_captions:
        for row in read_ledger(path):
            if row.outcome == KEPT:
                yield from {caption_hash(caption) for caption in row.captions}


def write_fragment(split: SourceSplit, measuring: Measuring) -> None:
    """Measure all pairs of a split; where its file is broken and may be skipped, none: one row then says so.

    So what is written does not depend on how far a broken file could be read.
    """
    path, parts = fragment_path(measuring.output, split.number), Parts(measuring.output, split)
    try:
        write_measures(path, measured_rows(split, measuring, parts))
    except BadSplitError as error:
        write_measures(path, [unreadable_split(split, str(error))])
    parts.remove()


def measured_rows(split: SourceSplit, measuring: Measuring, parts: Parts) -> Iterator[LedgerRow]:
    """Yield the rows of a split; what an earlier run measured is not measured again."""
    yield from parts.read()
    first = parts.num_rows
    pairs = timed_each("read", read_pairs(split, measuring, range(first, sys.maxsize) if first else None))
    yield from parts.keep(measure_pair(pair, split.path, measuring) for pair in pairs)


def read_pairs(split: SourceSplit, measuring: Measuring, rows: Container[int] | None = None) -> Iterator[RawPair]:
    """Yield a split's pairs, with `rows` those of these numbers.

    Raises SourceError where the file cannot be read, and BadSplitError where it is broken and may be skipped.
    """
    try:
        yield from measuring.source.read(split, measuring.limits.max_bytes, rows)
    except OSError as error:  # of the machine or the network, so never skipped: the same run might read it tomorrow
        raise SourceError(
            f"{split.path}: expected to read it to its end, found {error.strerror or error}; mend that and run the "
            "same command again, what is finished is kept"
        ) from None
    except SourceError as error:
        if not measuring.skips_bad_splits:
            raise SourceError(
                f"{error}; then add --retry-reason {SOURCE_UNREADABLE}, or set on_bad_split=skip to leave it for later"
            ) from None
        raise BadSplitError(str(error)) from None
    refuse_changed(split)


def refuse_changed(split: SourceSplit) -> None:
    """Raise SourceError where a split that is a whole file is not what it was when the run began."""
    if split.marker and not split.count and tuple(file_marker(split.path)) != split.marker:
        raise SourceError(
            f"{split.path}: expected the file as it was when the run began, found it changed since; let it come to "
            "rest and filter into a new output"
        )


def unreadable_split(split: SourceSplit, error: str) -> LedgerRow:
    """Return the row that stands for a split whose file is broken."""
    detail = error.removeprefix(f"{split.path}: ")[:MAX_DETAIL_CHARS]
    empty = LedgerRow("", split.path, "", DROPPED, SOURCE_UNREADABLE, detail, "", [], 0, 0, 0, "", "", {}, {}, "", 0, 0)
    return empty._replace(path=split.path)


def measure_pair(pair: RawPair, source: str, measuring: Measuring) -> LedgerRow:
    """Return the ledger row of one pair: its measures, dropped where there is no image to use."""
    with timed("caption"):
        captions = clean_captions(pair.captions)
    header, picture = NO_HEADER, Drop("image_missing")
    if pair.image is not None:
        with timed("decode"):
            header, picture = inspect(pair.image, measuring.limits, LEAST_SIDE_PX)
    with timed("hash"):
        key = image_key(pair.image) if pair.image and len(pair.image) == pair.location.size else ""
        if not key and isinstance(picture, Image.Image):
            picture = Drop("image_unreadable", f"{len(pair.image or b'')} of {pair.location.size} bytes")
        likeness, thumbnail = _look_at(picture) if isinstance(picture, Image.Image) else ("", b"")
    count(ROWS)
    count(IMAGE_BYTES, pair.location.size)
    drop = picture if isinstance(picture, Drop) else None
    return LedgerRow(
        key=key,
        source=source,
        source_key=pair.source_key,
        outcome=DROPPED if drop else KEPT,
        reason=drop.reason if drop else "",
        detail=drop.detail if drop else "",
        merged_into="",
        captions=captions,
        width=header.width,
        height=header.height,
        num_bytes=pair.location.size,
        format=header.format,
        perceptual_hash=likeness,
        scores=_scores(pair.fields, measuring.fields),
        attributes=_attributes(pair.fields, measuring.fields),
        path=pair.location.path,
        offset=pair.location.offset,
        size=pair.location.size,
        thumbnail=thumbnail,
    )


def clean_captions(captions: list[str]) -> list[str]:
    """Return the captions of an image as they are kept, in bounds: so many, and of so many characters together."""
    kept: list[str] = []
    room = MAX_CAPTION_CHARS_A_ROW
    for caption in captions[:MAX_CAPTIONS]:
        cleaned = clean_caption(caption)
        room -= len(cleaned)
        if room < 0:
            break
        kept += [cleaned] if cleaned else []
    return kept


def _look_at(picture: Image.Image) -> tuple[str, bytes]:
    text, squeezed = hash_and_squeeze(picture)
    return text, make_thumbnail(squeezed)


def _scores(fields: dict[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    """Return the named fields that are numbers, or texts of one; booleans count as 0 and 1.

    An integer beyond every float is none.
    """
    values = {name: fields[name] for name in names if name in fields}
    read = {name: number_or_text(value) if isinstance(value, str) else value for name, value in values.items()}
    numbers = {name: value for name, value in read.items() if isinstance(value, int | float)}
    return {name: float(number) for name, number in numbers.items() if not _is_too_long(number)}


def _is_too_long(number: float) -> bool:
    return isinstance(number, int) and abs(number) > sys.float_info.max


def _attributes(fields: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """Return the named fields that are texts, cut at `MAX_ATTRIBUTE_CHARS`."""
    texts = {name: fields[name] for name in names if isinstance(fields.get(name), str)}
    return {name: text.encode("utf-8", "replace").decode()[:MAX_ATTRIBUTE_CHARS] for name, text in texts.items()}
