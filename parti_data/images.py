"""Image bytes from strangers to RGB pixels: header first, limits before decoding, upright, alpha over white.

Nothing here raises for bad bytes: what cannot be used comes back as a `Drop` with its reason.
"""

import hashlib
import io
import re
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from parti_data.config import StrictModel

KEY_BYTES = 16
"""Bytes of the SHA-256 that make a key."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The decoders that strangers' bytes may reach."""
RESIZE_RECIPE = "resize_center"
_DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, MemoryError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's decoders raise on broken files."""

Image.MAX_IMAGE_PIXELS = None  # the limit below comes before decoding and ends in the ledger, not in an exception


class Drop(NamedTuple):
    """Why a row is not kept: a reason from a fixed list, and the particulars."""

    reason: str
    detail: str = ""


class ImageLimits(StrictModel):
    """What an image may cost before it is decoded."""

    max_bytes: int = 32 << 20
    max_pixels: int = 64_000_000


class ImageHeader(NamedTuple):
    """What the header says; width and height as seen upright."""

    width: int
    height: int
    format: str


def image_key(image: bytes) -> str:
    """Return the content key of an image: 32 hex digits of the SHA-256 of its original bytes."""
    return hashlib.sha256(image).digest()[:KEY_BYTES].hex()


def read_header(image: bytes, limits: ImageLimits) -> ImageHeader | Drop:
    """Return the header of an image without decoding it, or why it may not be decoded."""
    if len(image) > limits.max_bytes:
        return Drop("image_too_many_bytes", f"{len(image)} bytes, at most {limits.max_bytes}")
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > limits.max_pixels:
                return Drop("image_too_many_pixels", f"{width}x{height}, at most {limits.max_pixels} pixels")
            if _orientation(opened) in (5, 6, 7, 8):  # those that lie on their side
                width, height = height, width
            kind = "JPEG" if opened.format == "MPO" else str(opened.format)  # a JPEG with more pictures behind it
            return ImageHeader(width, height, kind)
    except _DECODING_ERRORS as error:
        return Drop("image_unreadable", _one_line(error))


def _orientation(opened: Image.Image) -> int:
    """Return EXIF's orientation; of a PNG what stands before the pixels, which Pillow decodes to look behind them."""
    if opened.format == "PNG" and "exif" not in opened.info:
        return 1
    return opened.getexif().get(0x0112, 1)


def decode(image: bytes, limits: ImageLimits) -> np.ndarray | Drop:
    """Return upright RGB pixels, uint8 (height, width, 3), or why there are none.

    Grey, palette and CMYK become RGB, 16 bits become 8, the first frame of several is taken, and whatever is
    transparent shows white.
    """
    header = read_header(image, limits)
    if isinstance(header, Drop):
        return header
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            opened.load()
            return np.asarray(to_rgb(ImageOps.exif_transpose(opened)))
    except _DECODING_ERRORS as error:
        return Drop("image_undecodable", _one_line(error))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in RGB, transparency over white."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def resize_center(pixels: np.ndarray, side: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Return a centre square resized to uint8 (S, S, 3), and its box x, y, width, height in the given pixels.

    The short side becomes `side`, bilinear with antialiasing, and the middle is cut out: what torchvision's Resize and
    CenterCrop do to a Pillow image.
    """
    height, width = pixels.shape[:2]
    if height == width == side:
        return pixels, (0, 0, side, side)
    scale = side / min(height, width)
    short = min(height, width)
    new_width, new_height = int(side * width / short), int(side * height / short)
    resized = np.asarray(Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BILINEAR))
    left, top = round((new_width - side) / 2), round((new_height - side) / 2)
    box = (round(left / scale), round(top / scale), min(width, height), min(width, height))
    return resized[top : top + side, left : left + side], box


def to_png(pixels: np.ndarray) -> bytes:
    """Return uint8 (height, width, 3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _one_line(error: BaseException) -> str:
    """Say the error the same way in every run: Pillow names the address of the bytes that it cannot identify."""
    text = re.sub(r" *<[^<>]* at 0x[0-9a-f]+>", "", str(error))
    return f"{type(error).__name__}: {' '.join(text.split())}"[:200]
