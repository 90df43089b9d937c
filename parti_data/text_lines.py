"""Lines of plain text files, of any number and size, found again by an index of where some of them lie.

Each file is read through once and cut between lines into chunks of a few MiB, whose places and numbers of lines are
written down. A line is what ends in a newline and is not blank; it is UTF-8, a byte order mark may come first; what is
no UTF-8 is replaced.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parti_data.errors import ConfigError, SourceError
from parti_data.progress import show_progress
from parti_data.sources.text_rows import BYTE_ORDER_MARK, UTF_16_MARKS
from parti_data.storage import (
    digest_json,
    expand,
    file_marker,
    is_file,
    open_file,
    open_scattered,
    publish_bytes,
    read_range,
)  # fmt: skip

CHUNK_BYTES = 4 << 20
"""Of a line at most; a longer one is refused. A chunk has about as many, at most twice."""
_COLUMNS = ("file", "offset", "size", "lines")
_IS_BLANK = np.isin(np.arange(256), list(b" \t\n\r\v\f"))
"""By byte."""


class Line(NamedTuple):
    """A line and where it is."""

    text: str
    place: str
    """`path:offset`, in bytes, of the chunk that it is in, and its number there."""


@dataclass(frozen=True)
class LineChunk:
    """Some lines of a file; each becomes text when it is asked for, as text takes several times their bytes."""

    content: bytes
    starts: np.ndarray
    """Of the lines in it, int32 (N,)."""
    place: str

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self.starts)

    def line(self, number: int) -> Line:
        """Return a line."""
        start = int(self.starts[number])
        end = self.content.find(b"\n", start)
        line = self.content[start:] if end < 0 else self.content[start:end]
        return Line(line.decode("utf-8", "replace").strip(), f"{self.place}:{number}")


class LineFiles(NamedTuple):
    """The files that a pattern names."""

    paths: list[str]
    digest: str
    """Of their sizes, and of the marks of their content where their storage keeps some."""


def find_line_files(pattern: str, where: str) -> LineFiles:
    """Return the files of a path or a glob; raises ConfigError where there are none."""
    paths = [path for path in expand(pattern) if is_file(path)]
    if not paths:
        raise ConfigError(f"{where}: expected a file of lines of text, or a glob of some, found none at {pattern}")
    return LineFiles(paths, digest_json([file_marker(path) for path in paths]))


def index_lines(files: LineFiles, path: str) -> None:
    """Write the index of the files' lines, unless it is there; raises SourceError for what are no lines of text."""
    if is_file(path):
        return
    rows: list[tuple[int, int, int, int]] = []
    with show_progress("index text", len(files.paths)) as bar:
        for number, name in enumerate(files.paths):
            offset = 0
            with open_file(name) as file:
                for chunk in _chunks(file, name):
                    if count := len(_starts(chunk)):
                        rows.append((number, offset, len(chunk), count))
                    offset += len(chunk)
                    bar.update(number, f"{offset >> 20} MiB of {name}")
    table = pa.table(dict(zip(_COLUMNS, np.array(rows, np.int64).reshape(-1, len(_COLUMNS)).T, strict=True)))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    publish_bytes(path, buffer.getbuffer())


def _chunks(file: BinaryIO, path: str) -> Iterator[bytes]:
    """Yield a file's bytes in pieces that end with a line."""
    rest, is_first = b"", True
    while block := file.read(CHUNK_BYTES):
        if is_first and block.startswith(UTF_16_MARKS):
            raise SourceError(f"{path}: expected UTF-8 text, found UTF-16; convert it")
        is_first = False
        end = block.rfind(b"\n") + 1
        if len(rest) + (block.index(b"\n") if end else len(block)) > CHUNK_BYTES:
            raise SourceError(
                f"{path}: expected lines of at most {CHUNK_BYTES} bytes, found a longer one; break it, or check that "
                "this is text"
            )
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
    if rest:
        yield rest


def _starts(chunk: bytes) -> np.ndarray:
    """Return where the lines of a chunk begin that are not blank, int32 (N,)."""
    first = len(BYTE_ORDER_MARK) if chunk.startswith(BYTE_ORDER_MARK) else 0
    content = np.frombuffer(chunk, np.uint8)
    if first == len(content):
        return np.zeros(0, np.int32)
    starts = np.concatenate([[first], np.flatnonzero(content[first:-1] == ord("\n")) + first + 1])
    return starts[~np.minimum.reduceat(_IS_BLANK[content], starts)].astype(np.int32)


class TextLines:
    """The lines of files by their index, a chunk at a time."""

    def __init__(self, files: LineFiles, index: str):
        self._files = files
        with open_scattered(index) as file:
            table = pq.read_table(file, columns=list(_COLUMNS))
        self._chunks = np.stack([table[name].to_numpy() for name in _COLUMNS], 1)
        if not len(self._chunks):
            raise SourceError(f"{files.paths[0]}: expected lines of text, found none; check the file")

    @property
    def chunk_lines(self) -> np.ndarray:
        """Lines of each chunk, int64 (N,)."""
        return self._chunks[:, _COLUMNS.index("lines")]

    def read(self, number: int) -> LineChunk:
        """Return the lines of a chunk; raises SourceError where the file has changed."""
        file, offset, size, count = self._chunks[number].tolist()
        path = self._files.paths[file]
        content = read_range(path, offset, size)
        chunk = LineChunk(content, _starts(content), f"{path}:{offset}")
        if (len(content), len(chunk)) != (size, count):
            raise SourceError(
                f"{path}: expected the file as it was when the run began, found other lines; put it back, or choose "
                "another output"
            )
        return chunk
