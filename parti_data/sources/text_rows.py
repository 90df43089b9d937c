"""Rows of a jsonl, csv or tsv file from strangers: bounded lines, and a broken line is a row without values.

Lines end in a newline and are UTF-8, a byte order mark may come first; what is no UTF-8 is replaced. Empty lines are no
rows. A row's number is that of its first line, from 1 on.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from parti_data.errors import SourceError

MAX_LINE_BYTES = 4 << 20
"""A longer line is a broken one; a record of csv may not be longer either."""
_MAX_RECORD_LINES = 1000
"""A quote that is open for more lines was never meant to be one; csv itself ends fields at 131,072 characters."""
_BLOCK_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d{1,30})?([eE][-+]?\d{1,2})?", re.ASCII)


class TableRow(NamedTuple):
    """One row, with its number; values None where its line is broken."""

    number: int
    values: dict[str, Any] | None


class Line(NamedTuple):
    """One line with its number; text None where it is too long."""

    number: int
    text: str | None


def read_jsonl(file: BinaryIO, path: str) -> Iterator[TableRow]:
    """Yield the rows of a file with a JSON object on each line."""
    for line in read_lines(file, path):
        yield TableRow(line.number, _parse_object(line.text))


def _parse_object(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_separated(file: BinaryIO, path: str, separator: str, names: list[str]) -> Iterator[TableRow]:
    """Yield the rows of a csv or tsv file; `names` are those of its columns where it has no line that says them.

    A line whose quotes do not fit is split at each separator. Whatever then has not a value for each column is broken.
    """
    records = _records(read_lines(file, path), separator)
    names = names or _header(records, path)
    for number, values in records:
        fits = values is not None and len(values) == len(names)
        yield TableRow(number, dict(zip(names, values, strict=True)) if values and fits else None)


def header_names(file: BinaryIO, path: str, separator: str) -> list[str]:
    """Return the names that the first line says, repeated ones too; raises SourceError where there is none."""
    return _header(_records(read_lines(file, path), separator), path)


def _header(records: Iterator[tuple[int, list[str] | None]], path: str) -> list[str]:
    _, names = next(records, (0, None))
    if names is None:
        raise SourceError(
            f"{path}: expected a first line with the names of the columns, found none; add it, or set "
            "source.column_names"
        )
    return [name.strip() for name in names]


def number_or_text(text: str) -> str | int | float:
    """Return the number that a text is, or the text."""
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if any(character in text for character in ".eE") else int(text)


def read_lines(file: BinaryIO, path: str) -> Iterator[Line]:
    """Yield the lines that are not empty, without their newlines, holding a few MiB however long a line is."""
    for number, line in enumerate(split_lines(file), 1):
        if number == 1 and line is not None:
            if line.startswith(UTF_16_MARKS):
                raise SourceError(f"{path}: expected UTF-8 text, found UTF-16; convert it")
            line = line.removeprefix(BYTE_ORDER_MARK)
        if line is None or line.strip():
            yield Line(number, None if line is None else line.decode("utf-8", "replace"))


def split_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield every line without its newline, None where it is longer than MAX_LINE_BYTES, of which no more is held."""
    rest, is_too_long = b"", False
    while block := file.read(_BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield None if is_too_long or len(line) > MAX_LINE_BYTES else line
            is_too_long = False
        if len(rest) > MAX_LINE_BYTES:
            rest, is_too_long = b"", True
    if rest or is_too_long:
        yield None if is_too_long else rest


def _records(lines: Iterable[Line], separator: str) -> Iterator[tuple[int, list[str] | None]]:
    """Yield the number of the first line and the values of each record; None where the line is too long.

    Where quotes do not fit, a quote that was opened stands for itself: the lines up to there are a record each, and the
    last one is looked at anew. So each line is parsed at most twice.
    """
    feed = _Feed(lines)
    reader = csv.reader(feed, delimiter=separator, strict=True)
    while True:
        feed.begin()
        try:
            values = next(reader)
            yield feed.record[0].number, values
        except StopIteration:
            return
        except csv.Error:
            *alone, last = feed.record
            feed.again = last if alone else None
            for line in alone or [last]:
                yield line.number, _split(line, separator)


def _split(line: Line, separator: str) -> list[str] | None:
    return None if line.text is None else line.text.removesuffix("\r").split(separator)


class _Feed:
    """Lines for a csv reader: those of the current record are kept, and one may come again."""

    def __init__(self, lines: Iterable[Line]):
        self._lines = iter(lines)
        self.again: Line | None = None
        self.begin()

    def begin(self) -> None:
        """Begin a record."""
        self.record: list[Line] = []
        self._num_chars = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line, self.again = self.again or next(self._lines), None
        self.record.append(line)
        self._num_chars += len(line.text or "")
        if line.text is None or len(self.record) > _MAX_RECORD_LINES or self._num_chars > MAX_LINE_BYTES:
            raise csv.Error("too long")
        return line.text + "\n"
