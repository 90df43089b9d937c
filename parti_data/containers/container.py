"""What every container reader returns."""

from typing import NamedTuple

MAX_SIDE_PX = 65_535
"""The longest side that JPEG and GIF can state; longer ones make decoders reserve rows of gigabytes."""
MAX_PROFILE_BYTES = 1 << 20
"""A larger colour profile is ignored."""


class Container(NamedTuple):
    """A file's first picture: what is said of it, and the bytes that decide its pixels."""

    format: str
    width: int
    height: int
    """As stored; `orientation` tells how to turn it."""
    content: bytes
    """A file of the same format, for the decoder."""
    orientation: int = 1
    """EXIF's, 1 to 8."""
    profile: bytes = b""
    """The ICC profile; empty where there is none or it is too large."""
    is_animated: bool = False
    """Whether frames follow that are shown after it; further pages of a TIFF are none."""
    padded_pixels: int = 0
    """Pixels of the tiles that cover the picture, where a format lets them be larger than it."""
