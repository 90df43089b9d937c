"""Pictures inside the page: read within limits, and made data URIs, shrunk where they are large."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from parti_data.errors import ShardError
from parti_data.images import Drop, ImageLimits, decode, to_png
from parti_data.storage import join
from pipelines.report.stages import FinishedStage, read_stage_file

_ENLARGED_PX = 128
"""Pictures up to this side are shown with their pixels as squares, not smoothed."""


class Picture(NamedTuple):
    """A picture as the page embeds it."""

    uri: str
    is_small: bool


def try_picture(stage: FinishedStage, name: str) -> np.ndarray | Drop:
    """Return the pixels uint8 (height, width, 3) of a finished stage's picture, or why there are none; raises
    ShardError where the file is gone.
    """
    limits = ImageLimits()
    return decode(read_stage_file(stage, name, limits.max_bytes + 1), limits)


def read_picture(stage: FinishedStage, name: str) -> np.ndarray:
    """Return what `try_picture` does; raises ShardError where there are no pixels too."""
    pixels = try_picture(stage, name)
    if isinstance(pixels, Drop):
        raise ShardError(
            f"{join(stage.path, name)}: expected a picture, found {pixels.reason} ({pixels.detail}); run "
            f"{stage.manifest.stage} into a new directory"
        )
    return pixels


def embed(pixels: np.ndarray, max_side_px: int) -> Picture:
    """Return uint8 pixels (height, width, 3) for the page: exact as PNG, or shrunk as JPEG where a side is too long."""
    if max(pixels.shape[:2]) <= max_side_px:
        return Picture(_data_uri(to_png(pixels), "png"), max(pixels.shape[:2]) <= _ENLARGED_PX)
    image = Image.fromarray(pixels)
    image.thumbnail((max_side_px, max_side_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return Picture(_data_uri(buffer.getvalue(), "jpeg"), False)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
