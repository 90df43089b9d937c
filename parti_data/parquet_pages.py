"""The pages of a Parquet column, from their headers: what of a file's physical form pyarrow does not tell.

A header is a struct in Thrift's compact protocol. Source: the Parquet format's parquet.thrift (PageHeader) and
Thrift's compact protocol, both as published by Apache.
"""

from collections.abc import Iterator
from operator import index
from typing import Any, BinaryIO, Literal, NamedTuple

import pyarrow.parquet as pq

from parti_data.errors import ShardError
from parti_data.storage import open_file

_ENCODINGS = {0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 5: "DELTA_BINARY_PACKED", 8: "RLE_DICTIONARY"}
Kind = Literal["data", "dictionary", "other"]
_KINDS: dict[int, Kind] = {0: "data", 2: "dictionary", 3: "data"}
_HEADER_BYTES = 1 << 12
"""A header is some twenty bytes, more where it holds statistics."""
_DEEPEST = 8
_KIND, _COMPRESSED_SIZE, _CRC, _DATA, _DICTIONARY, _DATA_V2 = 1, 3, 4, 5, 7, 8
_PAGE_ENCODING = {_DATA: 2, _DICTIONARY: 2, _DATA_V2: 4}
"""Where each kind's own header says the encoding of its values."""


class Page(NamedTuple):
    """What a page's header says."""

    kind: Kind
    encoding: str
    """Of the values, by its name in the format, or its number."""
    has_checksum: bool


def read_pages(path: str, column: pq.ColumnChunkMetaData) -> Iterator[Page]:
    """Yield the pages of a column of a row group, in order; raises ShardError where one is no page."""
    start = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        start = min(start, column.dictionary_page_offset)
    end = start + column.total_compressed_size
    with open_file(path) as file:
        while start < end:
            page, start = _read_page(path, file, start, end)
            yield page


def _read_page(path: str, file: BinaryIO, start: int, end: int) -> tuple[Page, int]:
    """Return a page, and where the next one begins."""
    file.seek(start)
    header = _Struct(file.read(min(_HEADER_BYTES, end - start)))
    try:
        fields = header.read()
        size = index(fields[_COMPRESSED_SIZE])
        kind: Kind = _KINDS.get(index(fields[_KIND]), "other")
        own = next((fields[name], place) for name, place in _PAGE_ENCODING.items() if name in fields)
        encoding = index(own[0][own[1]])
    except (IndexError, KeyError, StopIteration, TypeError):
        raise ShardError(f"{path}: expected a page at byte {start}, found other bytes; run tokenize again") from None
    if size < 0:
        raise ShardError(f"{path}: expected a page at byte {start}, found one of {size} bytes; run tokenize again")
    return Page(kind, _ENCODINGS.get(encoding, str(encoding)), _CRC in fields), start + header.place + size


class _Struct:
    """Reads structs of Thrift's compact protocol from bytes; what is cut short raises IndexError."""

    def __init__(self, content: bytes):
        self._content, self.place = content, 0

    def read(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields of the struct at the place, by their ids, and stand behind it."""
        if depth > _DEEPEST:
            raise IndexError(depth)
        fields: dict[int, Any] = {}
        name = 0
        while head := self._byte():
            name = name + (head >> 4) if head >> 4 else self._integer()
            fields[name] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2:
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._integer()
            case 8:
                return self._skip(self._varint())
            case 12:
                return self.read(depth + 1)
        raise IndexError(kind)  # of doubles and lists, no page header has any

    def _byte(self) -> int:
        self.place += 1
        return self._content[self.place - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) >= 128:
            value, shift = value | (byte & 127) << shift, shift + 7
        return value | byte << shift

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, size: int) -> None:
        self.place += size
