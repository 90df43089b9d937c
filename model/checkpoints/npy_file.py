"""One array of numpy's, such as iGPT's colour clusters; an array of objects would be a pickle and is refused."""

from io import BufferedReader
from math import prod

import torch

from model.checkpoints.stored import Contents, Malformed, read_range, shown, stored_tensor
from parti_data.npy_header import MalformedNpy, read_npy_header

CONTAINER = "npy"
NAME = "array"
"""What its one tensor is called."""
_DTYPES = {
    "f8": torch.float64, "f4": torch.float32, "f2": torch.float16, "i8": torch.int64, "i4": torch.int32,
    "i2": torch.int16, "i1": torch.int8, "u8": torch.uint64, "u4": torch.uint32, "u2": torch.uint16,
    "u1": torch.uint8, "b1": torch.bool,
}  # fmt: skip


def read_npy(file: BufferedReader) -> Contents:
    """Return the array; raises Malformed."""
    try:
        header = read_npy_header(file)
    except MalformedNpy as error:
        raise _not_numbers(str(error)) from None
    if header.dtype[0] == ">" or header.dtype[1:] not in _DTYPES:
        raise _not_numbers(header.dtype)
    dtype, shape = _DTYPES[header.dtype[1:]], header.shape
    places = range(len(shape))
    strides = tuple(prod(shape[:place] if header.fortran_order else shape[place + 1 :]) for place in places)
    tensor = stored_tensor(NAME, prod(shape) * dtype.itemsize, dtype, shape, strides)
    return Contents(CONTAINER, {NAME: tensor}, lambda _, num_bytes: read_range(file, header.start, num_bytes))


def _not_numbers(found: str) -> Malformed:
    return Malformed(f"expected an array of little-endian numbers, found {shown(found)}; save it as float32")
