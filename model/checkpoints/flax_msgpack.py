"""flax's files: msgpack, nested mappings whose leaves are arrays, as extension 1, or chunks of one.

Source: flax/serialization.py.
"""

import os
from io import BufferedReader
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.msgpack_reader import MsgpackReader, Stretch, unexpected
from model.checkpoints.stored import Contents, StoredTensor, read_range, stored_tensor

CONTAINER = "msgpack"
_ARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = {
    "float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16,
    "int64": torch.int64, "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint64": torch.uint64,
    "uint32": torch.uint32, "uint16": torch.uint16, "uint8": torch.uint8, "bool": torch.bool,
    "complex64": torch.complex64, "complex128": torch.complex128,
}  # fmt: skip


def read_flax(file: BufferedReader) -> Contents:
    """Return what the file holds; raises Malformed, ValueError."""
    end = os.fstat(file.fileno()).st_size
    reader = MsgpackReader(file, 0, end)
    tree = reader.read(0)
    if reader.place != end:
        raise unexpected("more behind its end")
    ranges: dict[str, list[Stretch]] = {}
    return Contents(CONTAINER, _described(tree, file, ranges), lambda key, _: _storage(file, ranges[key]))


def _described(value: Any, file: BufferedReader, ranges: dict[str, list[Stretch]]) -> Any:
    """Return a tree with its arrays described, and note where the bytes of each lie."""
    if isinstance(value, Stretch) and value.kind in (_ARRAY, _SCALAR):
        shape, dtype, place = _array(value, file)
        return _noted([place], shape, dtype, ranges)
    if isinstance(value, dict) and _CHUNKED in value:
        chunks = [_array(chunk, file) for chunk in _items(value.get("chunks"))]
        if not chunks or len({chunk[1] for chunk in chunks}) != 1:
            raise unexpected("chunks that make no array")
        return _noted([chunk[2] for chunk in chunks], tuple(_items(value.get("shape"))), chunks[0][1], ranges)
    if isinstance(value, dict):
        return {name: _described(inner, file, ranges) for name, inner in value.items()}
    return value


def _items(numbered: Any) -> list[Any]:
    """Return what flax numbers as {"0": ..., "1": ...}."""
    if not isinstance(numbered, dict) or any(str(number) not in numbered for number in range(len(numbered))):
        raise unexpected("chunks that are not numbered")
    return [numbered[str(number)] for number in range(len(numbered))]


def _array(value: Any, file: BufferedReader) -> tuple[tuple, torch.dtype, Stretch]:
    if not isinstance(value, Stretch) or value.kind not in (_ARRAY, _SCALAR):
        raise unexpected("chunks that are no arrays")
    match MsgpackReader(file, value.start, value.start + value.size).read(0):
        case [list(shape), str(name), Stretch(kind=None) as place] if name in _DTYPES:
            return tuple(shape), _DTYPES[name], place
    raise unexpected("an array that torch has not")


def _noted(places: list[Stretch], shape: tuple, dtype: torch.dtype, ranges: dict[str, list[Stretch]]) -> StoredTensor:
    key = str(len(ranges))
    ranges[key] = places
    size = sum(place.size for place in places)
    tensor = stored_tensor(key, size, dtype, shape)
    if tensor.num_bytes != size:
        raise unexpected(f"an array of {tensor.num_bytes} bytes in {size}")
    return tensor


def _storage(file: BufferedReader, places: list[Stretch]) -> Tensor:
    pieces = [read_range(file, place.start, place.size) for place in places]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
