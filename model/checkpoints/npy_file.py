"""One array of numpy's, such as iGPT's colour clusters; an array of objects would be a pickle and is refused.

Source: numpy/lib/format.py. Its own reader parses the header as Python, and maps as many bytes as that claims.
"""

import re
import struct
from io import BufferedReader
from math import prod

import torch

from model.checkpoints.stored import Contents, Malformed, read_range, shown, stored_tensor

CONTAINER = "npy"
NAME = "array"
"""What its one tensor is called."""
_DTYPES = {
    "f8": torch.float64, "f4": torch.float32, "f2": torch.float16, "i8": torch.int64, "i4": torch.int32,
    "i2": torch.int16, "i1": torch.int8, "u8": torch.uint64, "u4": torch.uint32, "u2": torch.uint16,
    "u1": torch.uint8, "b1": torch.bool,
}  # fmt: skip
_HEADER = re.compile(
    r"\{'descr': '[<|]([fiub]\d)', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,18}L?, ?){0,32}(?:\d{1,18}L?)?)\),? ?\}\s*"
)
"""Numbers with a comma between them, always: without, digits may be divided in more ways than can be tried."""
_MAX_HEADER_BYTES = 4096


def read_npy(file: BufferedReader) -> Contents:
    """Return the array; raises Malformed, struct.error."""
    file.seek(6)
    major = file.read(2)[:1]
    (size,) = struct.unpack("<H", file.read(2)) if major == b"\1" else struct.unpack("<I", file.read(4))
    header = file.read(min(size, _MAX_HEADER_BYTES)).decode("latin-1")
    found = _HEADER.fullmatch(header)
    if found is None or found[1] not in _DTYPES:
        raise Malformed(f"expected an array of little-endian numbers, found {shown(header)}; save it as float32")
    dtype, start = _DTYPES[found[1]], file.tell()
    shape = tuple(int(side) for side in re.findall(r"\d+", found[3]))
    places = range(len(shape))
    strides = tuple(prod(shape[:place] if found[2] == "True" else shape[place + 1 :]) for place in places)
    tensor = stored_tensor(NAME, prod(shape) * dtype.itemsize, dtype, shape, strides)
    return Contents(CONTAINER, {NAME: tensor}, lambda _, num_bytes: read_range(file, start, num_bytes))
