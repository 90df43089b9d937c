"""Image files as strangers send them, reduced to what decides the pixels of their first picture.

Bytes enter. The size, the orientation and the colour profile leave, read within bounds, and a file of the same format
without its comments, further frames and other metadata: it is all that a decoder gets to see. So whatever decoders do
with metadata (expand it, copy it for each entry of a directory, warn of it) cannot happen.
"""

from collections.abc import Callable

from PIL import UnidentifiedImageError

from parti_data.containers.bmp import read_bmp
from parti_data.containers.container import MAX_SIDE_PX, Container
from parti_data.containers.gif import read_gif
from parti_data.containers.jpeg import read_jpeg
from parti_data.containers.png import read_png
from parti_data.containers.tiff import read_tiff
from parti_data.containers.webp import read_webp

__all__ = ["MAX_SIDE_PX", "Container", "read_container"]

_SIGNATURES: tuple[tuple[bytes, Callable[[bytes], Container]], ...] = (
    (b"\xff\xd8\xff", read_jpeg),
    (b"\x89PNG\r\n\x1a\n", read_png),
    (b"GIF87a", read_gif),
    (b"GIF89a", read_gif),
    (b"BM", read_bmp),
    (b"II*\0", read_tiff),
    (b"MM\0*", read_tiff),
    (b"II+\0", read_tiff),
    (b"MM\0+", read_tiff),
)


def read_container(image: bytes) -> Container:
    """Return what a file says of its first picture; raises ValueError, OSError or struct.error where it is broken."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return read_webp(image)
    for signature, read in _SIGNATURES:
        if image.startswith(signature):
            return read(image)
    raise UnidentifiedImageError("cannot identify image file")
