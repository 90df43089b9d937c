"""safetensors: a header of JSON, then the tensors one after another. The library reads and checks both."""

from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from model.checkpoints.stored import Contents, Malformed, StoredTensor, shown, stored_tensor

CONTAINER = "safetensors"
_MAX_HEADER_BYTES = 16 << 20
"""Some hundred thousand tensors; the library takes six times as much."""
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32,
    "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def read_safetensors(place: str) -> Contents:
    """Return what the file at a local path holds; raises Malformed, SafetensorError."""
    with open(place, "rb") as head:
        header_bytes = int.from_bytes(head.read(8), "little")
    if header_bytes > _MAX_HEADER_BYTES:
        raise Malformed(
            f"expected a header of at most {_MAX_HEADER_BYTES} bytes, found {header_bytes}; give the weights alone"
        )
    file = safe_open(place, "pt")
    tree = {name: _described(file, name) for name in file.keys()}  # noqa: SIM118
    return Contents(CONTAINER, tree, lambda key, _: _read(file, key))


def _described(file: Any, name: str) -> StoredTensor:
    piece = file.get_slice(name)
    dtype = _DTYPES.get(piece.get_dtype())
    if dtype is None:
        raise Malformed(
            f"expected numbers that torch has, found {shown(piece.get_dtype())} in {shown(name)}; convert it"
        )
    shape = tuple(piece.get_shape())
    num_bytes = torch.Size(shape).numel() * dtype.itemsize
    return stored_tensor(name, num_bytes, dtype, shape)


def _read(file: Any, name: str) -> Tensor:
    """Return a copy: the library's tensors are the file itself, and change with it."""
    return file.get_tensor(name).reshape(-1).view(torch.uint8).clone()
