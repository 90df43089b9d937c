"""Whether the tokens still show their pictures: the contact sheet, and what was measured of slices and shards."""

from typing import NamedTuple

import numpy as np

from parti_data.contact_sheet import CELL_PX, cut_pairs
from parti_data.figures import say_count, say_share
from parti_data.quality import RunQuality, TokenQuality, read_run_quality
from pipelines.report.pictures import Picture, embed, read_picture
from pipelines.report.stages import FinishedStage

_ROWS = 12
"""Slices shown, those that came back worst; and shards, the first ones."""


class Reconstruction(NamedTuple):
    """A picture above what its tokens show."""

    picture: Picture
    psnr_db: float


class Part(NamedTuple):
    """A slice or a shard, in words."""

    name: str
    rows: str
    psnr: str
    code_usage: str
    equal_rows: str


class QualityView(NamedTuple):
    """The part of a section on token shards that shows what is left of the pictures."""

    figures: list[tuple[str, str]]
    mixup: str
    reconstructions: list[Reconstruction]
    parts: list[Part]
    note: str


def read_quality(stage: FinishedStage) -> QualityView | None:
    """Return what a finished tokenize stage tells of its quality, None where it tells nothing; raises ShardError."""
    if (run := read_run_quality(stage.path, stage.manifest)) is None:
        return None
    slices = sorted(run.slices, key=lambda one: (one.psnr_db is None, one.psnr_db, one.number))
    shards = list(run.shards.values())
    parts = [_say(f"slice {one.number}", one, one.psnr_db) for one in slices[:_ROWS]]
    parts += [_say(f"shard {number}", one, None) for number, one in enumerate(shards[:_ROWS])]
    return QualityView(
        run.figures(), next((one.mixup for one in run.slices if one.mixup), ""), _cut_sheet(stage, run), parts,
        _say_left_out(len(slices), len(shards)),
    )  # fmt: skip


def _say(name: str, part: TokenQuality, psnr_db: float | None) -> Part:
    psnr = f"{psnr_db:.1f} dB" if psnr_db is not None else "–"
    return Part(name, say_count(part.rows), psnr, say_share(part.code_usage), say_share(part.equal_rows))


def _say_left_out(num_slices: int, num_shards: int) -> str:
    """Return which slices and shards the table has, nothing where it has all."""
    if max(num_slices, num_shards) <= _ROWS:
        return ""
    slices, shards = min(num_slices, _ROWS), min(num_shards, _ROWS)
    return f"the {slices} worst of {say_count(num_slices)} slices, the first {shards} of {say_count(num_shards)} shards"


def _cut_sheet(stage: FinishedStage, run: RunQuality) -> list[Reconstruction]:
    pixels = read_picture(stage, run.sheet.name)
    cut = [np.ascontiguousarray(pair) for pair in cut_pairs(pixels, len(run.sample))]
    pictures = [embed(pair, 2 * CELL_PX)._replace(is_small=False) for pair in cut]
    return [Reconstruction(picture, one.psnr_db) for picture, one in zip(pictures, run.sample, strict=True)]
