"""The header of one array of numpy's, read within bounds.

Source: numpy/lib/format.py. Its own reader parses the header as Python, and maps as many bytes as that claims.
"""

import re
import struct
from math import prod
from typing import BinaryIO, NamedTuple

MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '([<>|](?:[iu][1248]|f[248]|b1))', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,18}L?, ?){0,32}(?:\d{1,18}L?)?)\),? ?\}\s*"
)
"""Numbers with a comma between them, always: without, digits may be divided in more ways than can be tried."""
_MAX_HEADER_BYTES = 4096


class MalformedNpy(ValueError):  # noqa: N818, who knows the path makes its text an error's
    """What is there instead of the header of an array of numbers."""


class NpyHeader(NamedTuple):
    """What the header says, and where the array begins."""

    dtype: str
    """As numpy writes it: <i8, |u1, >f4."""
    fortran_order: bool
    shape: tuple[int, ...]
    start: int

    @property
    def num_bytes(self) -> int:
        """What the array takes, if the header is right."""
        return prod(self.shape) * int(self.dtype[2:])


def read_npy_header(file: BinaryIO) -> NpyHeader:
    """Return the header of a file that is read from its beginning.

    Raises MalformedNpy with what is there where it is not that of numbers: an array of objects would be a pickle.
    """
    magic, version = file.read(len(MAGIC)), file.read(2)
    if magic != MAGIC:
        raise MalformedNpy(repr(magic)[2:-1])
    try:
        (size,) = struct.unpack("<H", file.read(2)) if version[:1] == b"\1" else struct.unpack("<I", file.read(4))
    except struct.error:
        raise MalformedNpy("the end of the file") from None
    header = file.read(min(size, _MAX_HEADER_BYTES)).decode("latin-1")
    found = _HEADER.fullmatch(header)
    if found is None:
        raise MalformedNpy(header)
    shape = tuple(int(side) for side in re.findall(r"\d+", found[3]))
    return NpyHeader(found[1], found[2] == "True", shape, file.tell())
