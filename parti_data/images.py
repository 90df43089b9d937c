"""Image bytes from strangers to RGB pixels: header first, limits before decoding, upright, in sRGB, alpha over a
background.

Nothing here raises for bad bytes: what cannot be used comes back as a `Drop` with its reason. A decoder sees only what
`containers` leaves of a file.
"""

import ctypes
import hashlib
import io
import logging
import re
import struct
import warnings
import zlib
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageColor
from pydantic import Field, PositiveInt, field_validator

from parti_data.colour import over_white, to_rgb
from parti_data.config import StrictModel
from parti_data.containers import MAX_SIDE_PX, Container, read_container

KEY_BYTES = 16
"""Bytes of the SHA-256 that make a key."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The decoders that strangers' bytes may reach."""
_DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError, RuntimeError,
    AssertionError, AttributeError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's decoders raise on broken files."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation. Source: EXIF 2.32, section 4.6.4."""
_ON_ITS_SIDE = (5, 6, 7, 8)
_KEPT_BLOCKS = 8
"""Blocks of freed pixels, of at most 16 MiB each, that Pillow keeps for the next image."""
_PILLOW = r"PIL\."
_QUIET = ("ignore", None, Warning, re.compile(_PILLOW), 0)

Image.MAX_IMAGE_PIXELS = None  # the limit below comes before decoding and ends in the ledger, not in an exception
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # a broken file is told in the ledger, not on stderr


def _silence_libtiff() -> None:
    """Take the error handler from the libtiff that Pillow loaded: it writes to stderr, past Python."""
    try:
        set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError):  # linked in without a name
        return
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    set_handler(None)


_silence_libtiff()
Image.core.set_blocks_max(_KEPT_BLOCKS)  # freed memory given back to the system is the dearest part of a decode


class Drop(NamedTuple):
    """Why a row is not kept: a reason from a fixed list, and the particulars."""

    reason: str
    detail: str = ""


class ImageLimits(StrictModel):
    """What an image may be and cost, checked before it is decoded, and what stands behind what is transparent."""

    max_bytes: PositiveInt = 32 << 20
    max_pixels: PositiveInt = 64_000_000
    """Of the first frame, and of the tiles that cover it."""
    formats: list[Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]] = Field(default_factory=lambda: list(FORMATS))
    """The formats that are decoded; others are dropped as image_format_not_allowed."""
    animated: Literal["first_frame", "drop"] = "first_frame"
    """What becomes of animations (GIF, PNG, WebP)."""
    background: str = "white"
    """The colour behind what is transparent: a CSS name or #rrggbb."""
    rendering: Literal["as_seen", "as_stored", "as_stored_over_white"] = "as_seen"
    """As a viewer shows it; or, for tokens equal to those of existing data sets, what the projects of published
    tokenizers read, `Image.convert("RGB")`, which turns nothing upright, follows no profile and forgets transparency;
    or that over white, as Chameleon blends it."""

    @field_validator("background")
    @classmethod
    def _refuse_unknown_colours(cls, background: str) -> str:
        if len(background) > 64 or len(ImageColor.getrgb(background)) != 3:
            raise ValueError(f"{background!r} should be a colour without transparency, such as white or #ffffff")
        return background


class ImageHeader(NamedTuple):
    """What the header says; width and height as the picture comes."""

    width: int
    height: int
    format: str


NO_HEADER = ImageHeader(0, 0, "")


class Inspected(NamedTuple):
    """What an image is."""

    header: ImageHeader
    """`NO_HEADER` where it cannot be read or may not be decoded."""
    picture: Image.Image | Drop
    """In RGB."""


def image_key(image: bytes) -> str:
    """Return the content key of an image: 32 hex digits of the SHA-256 of its original bytes."""
    return hashlib.sha256(image).digest()[:KEY_BYTES].hex()


def inspect(image: bytes, limits: ImageLimits, least_side_px: int = 0) -> Inspected:
    """Return what an image's header says and its picture, or why there is none; the header comes first.

    Grey, palette and CMYK become RGB, ICC profiles sRGB, more bits 8, the first frame of several is taken, and
    `limits.background` shows through whatever is transparent; `limits.rendering` may ask for less. With
    `least_side_px` a JPEG may come at a half, a quarter or an eighth of its size, both sides still that long: the whole
    file is read, and so judged, as otherwise, but fewer pixels are computed.
    """
    container = _read_within(image, limits)
    if isinstance(container, Drop):
        return Inspected(NO_HEADER, container)
    try:
        opened = _open(container)
    except _DECODING_ERRORS as error:
        return Inspected(NO_HEADER, Drop("image_unreadable", _one_line(error)))
    with opened:
        return Inspected(_header(container, limits), _decode(opened, container, limits, least_side_px))


def decode(image: bytes, limits: ImageLimits) -> np.ndarray | Drop:
    """Return RGB pixels, uint8 (height, width, 3), or why there are none, as `inspect` does."""
    picture = inspect(image, limits).picture
    return picture if isinstance(picture, Drop) else np.asarray(picture)


def _decode(opened: Image.Image, container: Container, limits: ImageLimits, least_side_px: int) -> Image.Image | Drop:
    try:
        if least_side_px:
            opened.draft(None, (least_side_px, least_side_px))
        opened.load()
        if limits.rendering != "as_seen":
            return opened.convert("RGB") if limits.rendering == "as_stored" else over_white(opened)
        turn = _UPRIGHT.get(container.orientation)
        upright = opened.transpose(turn) if turn is not None else opened
        background = ImageColor.getrgb(limits.background)
        return to_rgb(upright, (background[0], background[1], background[2]), container.profile)
    except _DECODING_ERRORS as error:
        return Drop("image_undecodable", _one_line(error))


def _read_within(image: bytes, limits: ImageLimits) -> Container | Drop:
    """Return the container of an image within the limits, or why it may not be opened."""
    if len(image) > limits.max_bytes:
        return Drop("image_too_many_bytes", f"{len(image)} bytes, at most {limits.max_bytes}")
    try:
        container = read_container(image)
    except _DECODING_ERRORS as error:
        return Drop("image_unreadable", _one_line(error))
    if container.format not in limits.formats:
        return Drop("image_format_not_allowed", container.format)
    if container.width < 1 or container.height < 1:
        return Drop("image_unreadable", f"ValueError: {container.width}x{container.height} pixels")
    pixels = max(container.width * container.height, container.padded_pixels)
    if pixels > limits.max_pixels:
        width, height, _ = _header(container, limits)
        tiles = f" in tiles of {pixels} pixels" if container.padded_pixels > container.width * container.height else ""
        return Drop("image_too_many_pixels", f"{width}x{height}{tiles}, at most {limits.max_pixels} pixels")
    if max(container.width, container.height) > MAX_SIDE_PX:
        return Drop("image_too_many_pixels", f"{container.width}x{container.height}, at most {MAX_SIDE_PX} px a side")
    if container.is_animated and limits.animated == "drop":
        return Drop("image_animated", container.format)
    return container


def _header(container: Container, limits: ImageLimits) -> ImageHeader:
    sides = container.width, container.height
    is_turned = limits.rendering == "as_seen" and container.orientation in _ON_ITS_SIDE
    width, height = reversed(sides) if is_turned else sides
    return ImageHeader(width, height, container.format)


def _open(container: Container) -> Image.Image:
    """Return the image, not yet decoded; raises ValueError where the decoder reads another size than was checked."""
    if warnings.filters[:1] != [_QUIET]:
        warnings.filterwarnings("ignore", module=_PILLOW)  # told in the ledger; others may have reset it or come before
    opened = Image.open(io.BytesIO(container.content), formats=(container.format,))
    if opened.size != (container.width, container.height):
        opened.close()
        raise ValueError(f"{container.width}x{container.height} pixels and {opened.width}x{opened.height}")
    return opened


def to_png(pixels: np.ndarray) -> bytes:
    """Return uint8 (height, width, 3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _one_line(error: BaseException) -> str:
    """Say the error the same way in every run: Pillow names the address of the bytes that it cannot identify."""
    text = re.sub(r" *<[^<>]* at 0x[0-9a-f]+>", "", str(error))
    return f"{type(error).__name__}: {' '.join(text.split())}"[:200]
