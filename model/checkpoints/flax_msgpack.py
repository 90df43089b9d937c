"""flax's files: msgpack, nested mappings whose leaves are arrays, as extension 1, or chunks of one.

Read here and not by msgpack's library, which holds the whole file and reserves memory for as many items as an array
claims to have. Source: flax/serialization.py; msgpack/spec.md.
"""

import os
import struct
from io import BufferedReader
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.checkpoints.stored import Contents, Malformed, StoredTensor, read_range, shown, stored_tensor

CONTAINER = "msgpack"
_ARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"
_MAX_DEPTH = 64
_MAX_TEXT_BYTES = 64 << 10
_MAX_VALUES = 1_000_000
_DTYPES = {
    "float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16,
    "int64": torch.int64, "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint64": torch.uint64,
    "uint32": torch.uint32, "uint16": torch.uint16, "uint8": torch.uint8, "bool": torch.bool,
    "complex64": torch.complex64, "complex128": torch.complex128,
}  # fmt: skip


class _Bytes(NamedTuple):
    """Bytes that are left in the file."""

    start: int
    size: int
    kind: int | None = None
    """The extension's, None for plain bytes."""


def read_flax(file: BufferedReader) -> Contents:
    """Return what the file holds; raises Malformed, ValueError."""
    end = os.fstat(file.fileno()).st_size
    reader = _Reader(file, 0, end)
    tree = reader.read(0)
    if reader.place != end:
        raise _unexpected("more behind its end")
    ranges: dict[str, list[_Bytes]] = {}
    return Contents(CONTAINER, _described(tree, file, ranges), lambda key, _: _storage(file, ranges[key]))


class _Reader:
    """Reads msgpack values; what is text comes as str, what is bytes as where they are."""

    def __init__(self, file: BufferedReader, place: int, end: int):
        self._file = file
        self._end = end
        self._left = _MAX_VALUES
        self.place = place

    def read(self, depth: int) -> Any:
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise _unexpected(f"more than {_MAX_DEPTH} levels or {_MAX_VALUES} values")
        code = self._number("B")
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 0x100
        if code < 0xC0:
            size = code & (0x0F if code < 0xA0 else 0x1F)
            return (
                self._mapping(size, depth)
                if code < 0x90
                else self._list(size, depth)
                if code < 0xA0
                else self._text(size)
            )
        return self._long(code, depth)

    def _long(self, code: int, depth: int) -> Any:
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            return self._number(_NUMBERS[code])
        if code in _FIXED_EXTENSIONS:
            return self._bytes(_FIXED_EXTENSIONS[code], self._number("b"))
        if code not in _SIZED:
            raise _unexpected(f"the code {code:#x}")
        kind, form = _SIZED[code]
        size = self._number(form)
        if kind == "extension":
            return self._bytes(size, self._number("b"))
        if kind == "bytes":
            return self._bytes(size)
        return (
            self._text(size)
            if kind == "text"
            else self._list(size, depth)
            if kind == "list"
            else self._mapping(size, depth)
        )

    def _number(self, form: str) -> Any:
        return struct.unpack(f">{form}", self._take(struct.calcsize(form)))[0]

    def _take(self, size: int) -> bytes:
        self._file.seek(self._skip(size))
        return self._file.read(size)

    def _skip(self, size: int) -> int:
        start = self.place
        if size > self._end - start:
            raise _unexpected("its end in the middle")
        self.place += size
        return start

    def _bytes(self, size: int, kind: int | None = None) -> _Bytes:
        return _Bytes(self._skip(size), size, kind)

    def _text(self, size: int) -> str:
        if size > _MAX_TEXT_BYTES:
            raise _unexpected(f"a text of {size} bytes")
        return self._take(size).decode()

    def _list(self, size: int, depth: int) -> list[Any]:
        return [self.read(depth + 1) for _ in range(size)]

    def _mapping(self, size: int, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for _ in range(size):
            key, value = self.read(depth + 1), self.read(depth + 1)
            if not isinstance(key, str) or key in mapping:
                raise _unexpected(f"a key that is no text, or twice {shown(key)}")
            mapping[key] = value
        return mapping


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = dict(zip((0xCA, 0xCB, *range(0xCC, 0xD4)), "fdBHIQbhiq", strict=True))
_FIXED_EXTENSIONS = {0xD4 + power: 1 << power for power in range(5)}
_SIZED = {
    0xC4: ("bytes", "B"), 0xC5: ("bytes", "H"), 0xC6: ("bytes", "I"),
    0xC7: ("extension", "B"), 0xC8: ("extension", "H"), 0xC9: ("extension", "I"),
    0xD9: ("text", "B"), 0xDA: ("text", "H"), 0xDB: ("text", "I"),
    0xDC: ("list", "H"), 0xDD: ("list", "I"), 0xDE: ("mapping", "H"), 0xDF: ("mapping", "I"),
}  # fmt: skip


def _described(value: Any, file: BufferedReader, ranges: dict[str, list[_Bytes]]) -> Any:
    """Return a tree with its arrays described, and note where the bytes of each lie."""
    if isinstance(value, _Bytes) and value.kind in (_ARRAY, _SCALAR):
        shape, dtype, place = _array(value, file)
        return _noted([place], shape, dtype, ranges)
    if isinstance(value, dict) and _CHUNKED in value:
        chunks = [_array(chunk, file) for chunk in _items(value.get("chunks"))]
        if not chunks or len({chunk[1] for chunk in chunks}) != 1:
            raise _unexpected("chunks that make no array")
        return _noted([chunk[2] for chunk in chunks], tuple(_items(value.get("shape"))), chunks[0][1], ranges)
    if isinstance(value, dict):
        return {name: _described(inner, file, ranges) for name, inner in value.items()}
    return value


def _items(numbered: Any) -> list[Any]:
    """Return what flax numbers as {"0": ..., "1": ...}."""
    if not isinstance(numbered, dict) or any(str(number) not in numbered for number in range(len(numbered))):
        raise _unexpected("chunks that are not numbered")
    return [numbered[str(number)] for number in range(len(numbered))]


def _array(value: Any, file: BufferedReader) -> tuple[tuple, torch.dtype, _Bytes]:
    if not isinstance(value, _Bytes) or value.kind not in (_ARRAY, _SCALAR):
        raise _unexpected("chunks that are no arrays")
    match _Reader(file, value.start, value.start + value.size).read(0):
        case [list(shape), str(name), _Bytes(kind=None) as place] if name in _DTYPES:
            return tuple(shape), _DTYPES[name], place
    raise _unexpected("an array that torch has not")


def _noted(places: list[_Bytes], shape: tuple, dtype: torch.dtype, ranges: dict[str, list[_Bytes]]) -> StoredTensor:
    key = str(len(ranges))
    ranges[key] = places
    size = sum(place.size for place in places)
    tensor = stored_tensor(key, size, dtype, shape)
    if tensor.num_bytes != size:
        raise _unexpected(f"an array of {tensor.num_bytes} bytes in {size}")
    return tensor


def _storage(file: BufferedReader, places: list[_Bytes]) -> Tensor:
    pieces = [read_range(file, place.start, place.size) for place in places]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _unexpected(what: str) -> Malformed:
    return Malformed(f"expected msgpack as flax writes it, found {what}; download it again")
