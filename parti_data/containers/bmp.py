"""BMP: a header of fixed fields, no metadata."""

import struct

from parti_data.containers.container import Container

_RUN_LENGTHS = (1, 2)
"""Compressions whose decoder is a loop of Python, slower by far than all others."""
_MAX_RUN_LENGTH_BYTES = 4 << 20


def read_bmp(image: bytes) -> Container:
    """Return what a BMP says of its picture."""
    (header_bytes,) = struct.unpack_from("<I", image, 14)
    if header_bytes == 12:
        width, height = struct.unpack_from("<HH", image, 18)
        return Container("BMP", width, height, image)
    width, height = struct.unpack_from("<ii", image, 18)
    (compression,) = struct.unpack_from("<I", image, 30)
    if compression in _RUN_LENGTHS and len(image) > _MAX_RUN_LENGTH_BYTES:
        raise ValueError(f"{len(image)} bytes of run lengths, at most {_MAX_RUN_LENGTH_BYTES}")
    return Container("BMP", width, abs(height), image)
