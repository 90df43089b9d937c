"""Tokens in a .npy file of strangers: its bytes and its header are bounded, and nothing is unpickled."""

import io

import numpy as np

from parti_data.npy_header import MalformedNpy, read_npy_header
from parti_data.token_sources.tokenized import MAX_IMAGE_BYTES, NOT_INTEGERS, UNREADABLE, Fault

_SHOWN_CHARS = 60


def read_npy_tokens(content: bytes) -> np.ndarray | Fault:
    """Return the array of a file's content, which is read up to one byte more than may be."""
    if len(content) > MAX_IMAGE_BYTES:
        return Fault(UNREADABLE, f"more than {MAX_IMAGE_BYTES} bytes")
    file = io.BytesIO(content)
    try:
        header = read_npy_header(file)
    except MalformedNpy as error:
        return Fault(UNREADABLE, f"no array of numbers but {str(error)[:_SHOWN_CHARS]!a}")
    if header.dtype[1] not in "iu":
        return Fault(NOT_INTEGERS, f"tokens of type {header.dtype}")
    rest = memoryview(content)[header.start :]
    if header.num_bytes != len(rest):
        return Fault(UNREADABLE, f"an array of {header.num_bytes} bytes in {len(rest)}")
    order = "F" if header.fortran_order else "C"
    try:
        return np.frombuffer(rest, header.dtype).reshape(header.shape, order=order)
    except ValueError:  # one side is 0, so that no size refuses the others
        return Fault(UNREADABLE, f"an array of shape {str(header.shape)[:_SHOWN_CHARS]}")
