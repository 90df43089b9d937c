"""msgpack, value by value: what is text comes as str, what is bytes as where they lie.

Read here and not by msgpack's library, which holds the whole file and reserves memory for as many items as a list
claims to have. Source: msgpack/spec.md.
"""

import struct
from io import BufferedReader
from typing import Any, NamedTuple

from model.checkpoints.stored import Malformed, shown

_MAX_DEPTH = 64
_MAX_TEXT_BYTES = 64 << 10
_MAX_VALUES = 1_000_000


class Stretch(NamedTuple):
    """Bytes that are left in the file."""

    start: int
    size: int
    kind: int | None = None
    """The extension's, None for plain bytes."""


class MsgpackReader:
    """Reads the values between two places of a file, within bounds."""

    def __init__(self, file: BufferedReader, place: int, end: int):
        self._file = file
        self._end = end
        self._left = _MAX_VALUES
        self.place = place

    def read(self, depth: int = 0) -> Any:
        """Return the value at `place`, and go behind it; raises Malformed or ValueError."""
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise unexpected(f"more than {_MAX_DEPTH} levels or {_MAX_VALUES} values")
        code = self._number("B")
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            return self._number(_NUMBERS[code])
        if code in _FIXED_EXTENSIONS:
            return self._extension(_FIXED_EXTENSIONS[code], depth)
        if code not in _SIZED:
            raise unexpected(f"the code {code:#x}")
        read, size = _SIZED[code]
        return read(self, self._number(size) if isinstance(size, str) else size, depth)

    def _number(self, form: str) -> Any:
        return struct.unpack(f">{form}", self._take(struct.calcsize(form)))[0]

    def _take(self, size: int) -> bytes:
        self._file.seek(self._skip(size))
        return self._file.read(size)

    def _skip(self, size: int) -> int:
        start = self.place
        if size > self._end - start:
            raise unexpected("its end in the middle")
        self.place += size
        return start

    def _bytes(self, size: int, _depth: int) -> Stretch:
        return Stretch(self._skip(size), size)

    def _extension(self, size: int, _depth: int) -> Stretch:
        kind = self._number("b")
        return Stretch(self._skip(size), size, kind)

    def _text(self, size: int, _depth: int) -> str:
        if size > _MAX_TEXT_BYTES:
            raise unexpected(f"a text of {size} bytes")
        return self._take(size).decode()

    def _list(self, size: int, depth: int) -> list[Any]:
        return [self.read(depth + 1) for _ in range(size)]

    def _mapping(self, size: int, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for _ in range(size):
            key, value = self.read(depth + 1), self.read(depth + 1)
            if not isinstance(key, str) or key in mapping:
                raise unexpected(f"a key that is no text, or twice {shown(key)}")
            mapping[key] = value
        return mapping


def unexpected(what: str) -> Malformed:
    """Return the error of a file that is not what flax writes."""
    return Malformed(f"expected msgpack as flax writes it, found {what}; download it again")


_CONSTANTS = {code: code if code < 0x80 else code - 0x100 for code in (*range(0x80), *range(0xE0, 0x100))}
_CONSTANTS |= {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = dict(zip((0xCA, 0xCB, *range(0xCC, 0xD4)), "fdBHIQbhiq", strict=True))
_FIXED_EXTENSIONS = {0xD4 + power: 1 << power for power in range(5)}
_SIZED = {
    **{0x80 + size: (MsgpackReader._mapping, size) for size in range(16)},
    **{0x90 + size: (MsgpackReader._list, size) for size in range(16)},
    **{0xA0 + size: (MsgpackReader._text, size) for size in range(32)},
    0xC4: (MsgpackReader._bytes, "B"), 0xC5: (MsgpackReader._bytes, "H"), 0xC6: (MsgpackReader._bytes, "I"),
    0xC7: (MsgpackReader._extension, "B"), 0xC8: (MsgpackReader._extension, "H"), 0xC9: (MsgpackReader._extension, "I"),
    0xD9: (MsgpackReader._text, "B"), 0xDA: (MsgpackReader._text, "H"), 0xDB: (MsgpackReader._text, "I"),
    0xDC: (MsgpackReader._list, "H"), 0xDD: (MsgpackReader._list, "I"),
    0xDE: (MsgpackReader._mapping, "H"), 0xDF: (MsgpackReader._mapping, "I"),
}  # fmt: skip
"""By code what follows, and how long it is: a number, or the form of one that comes next."""
