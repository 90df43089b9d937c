"""The quality gate: each slice is measured while it is encoded, and stops the run where its tokens are no good.

Of its first rows a sample is decoded again and held against the pictures themselves, before the rest is encoded; codes
in use and equal rows are told when the slice is done. What was measured stands in the fragment, and beside it lies a
contact sheet.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from model.tokenizers import ImageTokenizer
from model.tokenizers.mixups import find_mixup
from model.tokenizers.precision import measure_precision
from parti_data.contact_sheet import Cell, draw_contact_sheet
from parti_data.errors import ShardError, TokenizerError
from parti_data.ledger import PairDirectory
from parti_data.quality import (
    PrecisionQuality,
    QualityFloors,
    SampledPicture,
    SliceQuality,
    TokenMeter,
    psnr_db,
    say_low_psnr,
    say_low_tokens,
)  # fmt: skip
from parti_data.reference_picture import reference_picture
from parti_data.step_times import timed
from parti_data.storage import publish_bytes
from parti_data.token_shard import TokenRow, order_hash
from parti_data.views import Cut, Views, load_views
from pipelines.token_fragments import read_note

COMPARED = 16
"""Pictures that are encoded as the record is, too."""


class Reconstructed(NamedTuple):
    """A sample: its rows, the pictures themselves, and what came back, uint8 (N, S, S, 3) both."""

    rows: list[TokenRow]
    originals: np.ndarray
    decoded: np.ndarray


@dataclass
class SliceGate:
    """Measures the rows of one slice as they pass, and judges them."""

    number: int
    first: int
    """The kept row that the slice begins with."""
    pairs: PairDirectory
    tokenizer: ImageTokenizer
    floors: QualityFloors
    sheet: str
    """The path of its contact sheet."""
    compared: Views | None = None
    """The views of which the first are encoded as the record is, too, to say what that changes; none where it is."""
    _sample: Reconstructed | None = None
    _mixup: str = ""
    _precision: PrecisionQuality | None = None
    _meter: TokenMeter = field(init=False)

    def __post_init__(self):
        """Measure nothing yet."""
        self._meter = TokenMeter(self.tokenizer.spec.codebook_size)

    def watch(self, rows: Iterator[TokenRow]) -> Iterator[TokenRow]:
        """Yield the rows as they come; raises TokenizerError after the first few where their pictures are lost."""
        first = list(islice(rows, self.floors.candidates))
        with timed("inspect"):
            self._sample = reconstruct(self._choose(first), self.first, self.pairs, self.tokenizer, self.floors)
            self._look(self._sample)
        for row in chain(first, rows):
            self._meter.add([row.key], row.image_tokens[None])
            yield row

    def _choose(self, rows: list[TokenRow]) -> list[TokenRow]:
        """Return the sample in the order of the rows: those with the lowest hashes of key and view."""
        by_hash = sorted(rows, key=lambda row: order_hash(row.key, row.view, 0))
        chosen = {id(row) for row in by_hash[: self.floors.sample]}
        return [row for row in rows if id(row) in chosen]

    def _look(self, sample: Reconstructed) -> None:
        found = sample_psnr_db(sample)
        is_tried = self.number == 0 or (found is not None and found < self.floors.min_psnr_db)
        if len(sample.rows):
            self._mixup = find_mixup(self.tokenizer, sample.originals, sample.decoded, is_tried)
        publish_bytes(self.sheet, draw_sample(sample, f"slice {self.number}, {say_psnr(found)}"))
        judge_slice(self.measured(), self.floors, self.sheet)
        if self.compared:
            self._precision = compare_precision(self.pairs, self.first, self.tokenizer, self.compared)

    def measured(self) -> SliceQuality:
        """Return what was measured of the rows so far."""
        assert self._sample is not None
        pictures = [
            SampledPicture(key=row.key, view=row.view, psnr_db=psnr_db(original, decoded))
            for row, original, decoded in zip(*self._sample, strict=True)
        ]
        tokens = self._meter.measured()
        return SliceQuality(
            **tokens.model_dump(), number=self.number, psnr_db=sample_psnr_db(self._sample), mixup=self._mixup,
            sample=pictures, precision=self._precision,
        )  # fmt: skip


def reconstruct(
    rows: list[TokenRow], first: int, pairs: PairDirectory, tokenizer: ImageTokenizer, floors: QualityFloors
) -> Reconstructed:
    """Return some of the first rows of the slice that begins with kept row `first`, decoded, beside their pictures.

    Rows whose pictures cannot be shown plainly are left out.
    """
    kept = {row.key: row for row in pairs.kept(first, first + floors.candidates)}
    side = tokenizer.spec.image_side
    images = pairs.fetch_each(kept[row.key] for row in rows)
    originals = [
        reference_picture(image, row.box, row.flipped, side, pairs.limits)
        for row, (_, image) in zip(rows, images, strict=True)
    ]
    shown = [(row, original) for row, original in zip(rows, originals, strict=True) if original is not None]
    nothing = np.empty((0, side, side, 3), np.uint8)
    if not shown:
        return Reconstructed([], nothing, nothing)
    decoded = tokenizer.decode(np.stack([row.image_tokens for row, _ in shown])).numpy()
    return Reconstructed([row for row, _ in shown], np.stack([original for _, original in shown]), decoded)


def sample_psnr_db(sample: Reconstructed) -> float | None:
    """Return the PSNR of a sample's pictures together, None where there are none."""
    return psnr_db(sample.originals, sample.decoded) if sample.rows else None


def compare_precision(pairs: PairDirectory, first: int, tokenizer: ImageTokenizer, views: Views) -> PrecisionQuality:
    """Return how many tokens the record has otherwise, of the first views of the pairs from kept row `first` on."""
    spec = tokenizer.spec
    rows = pairs.kept(first, first + -(-COMPARED // views.num_views))
    loaded = load_views(pairs, rows, Cut(spec.image_side, spec.resize_recipe, views))
    pictures = [view.pixels for made in loaded for view in made][:COMPARED]
    measure = measure_precision(tokenizer, np.stack(pictures))
    return PrecisionQuality(
        differing_tokens=round(measure.differing_tokens, 6), differing_rows=round(measure.differing_rows, 4)
    )


def draw_sample(sample: Reconstructed, title: str) -> bytes:
    """Return a contact sheet of a sample, as a PNG."""
    cells = [
        Cell([original, decoded], f"{row.key[:8]}  {psnr_db(original, decoded):.1f} dB")
        for row, original, decoded in zip(*sample, strict=True)
    ]
    return draw_contact_sheet(cells, f"{title}: above the picture, below what its tokens show")


def say_psnr(found_db: float | None) -> str:
    """Return a PSNR in words."""
    return "no picture to compare" if found_db is None else f"PSNR {found_db:.2f} dB"


def judge_slice(found: SliceQuality, floors: QualityFloors, sheet: str) -> None:
    """Raise TokenizerError where a slice's pictures, codes or rows are below their floor."""
    fault = "" if found.psnr_db is None else say_low_psnr(found.psnr_db, floors, found.mixup)
    if found.rows and not fault:
        fault = say_low_tokens(found, floors)
    if fault:
        raise TokenizerError(
            f"slice {found.number}: {fault}; look at {sheet}, then use another tokenizer or set another floor"
        )


def to_note(quality: SliceQuality) -> str:
    """Return what a fragment keeps of its quality."""
    return json.dumps(quality.model_dump(mode="json"), sort_keys=True)


def read_quality(path: str) -> SliceQuality:
    """Return what a fragment keeps of its quality; raises ShardError where it keeps nothing."""
    try:
        return SliceQuality.model_validate_json(read_note(path))
    except ValidationError as error:
        raise ShardError(
            f"{path}: expected what was measured of it, found {error.errors()[0]['msg']}; remove it to make it again"
        ) from None
