"""Where measured rows lie: a fragment for each split, and while it is being filled, parts of a thousand rows.

A huge tar is one split. Its parts are there from its first seconds on, and a run that was stopped goes on after the
last of them; when all rows are measured they become the fragment and go.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

from parti_data.ledger import LedgerRow, read_ledger, write_measures
from parti_data.sources.pairs import SourceSplit
from parti_data.storage import (
    digest_json,
    file_version,
    is_file,
    join,
    list_directory,
    publish_bytes,
    read_bytes,
    remove,
)  # fmt: skip

FRAGMENTS = "measured"
"""The subdirectory of fragments; it stays, so that other rules can judge the same measures."""
PART_ROWS = 1000
_PART = "part-"


def fragment_name(split: int) -> str:
    """Return the name of a split's fragment in its directory."""
    return f"{FRAGMENTS}/split-{split:05d}.parquet"


def fragment_path(output: str, split: int) -> str:
    """Return the path of a split's fragment."""
    return join(output, fragment_name(split))


@dataclass
class Parts:
    """The rows measured of a split that is not yet measured whole, from one state of its file."""

    output: str
    split: SourceSplit
    num_rows: int = 0
    """Rows in the parts that were read or written."""
    _paths: list[str] = field(default_factory=list)
    _state: str = ""

    def __post_init__(self):
        """Take the state of the file, so that parts of another are not taken for its own."""
        changed: tuple[int | str, ...] = ()
        with suppress(OSError):  # reading it says what is wrong with it
            changed = file_version(self.split.path) if self.split.marker else ()
        self._state = digest_json([self.split, changed])[:16]

    def read(self) -> Iterator[LedgerRow]:
        """Yield the rows that an earlier run left."""
        while is_file(path := self._path()):
            rows = list(read_ledger(path, with_thumbnails=True))
            self._count(path, rows)
            yield from rows

    def keep(self, rows: Iterable[LedgerRow]) -> Iterator[LedgerRow]:
        """Yield the rows that follow as they come; each whole part of them is written first."""
        rows = iter(rows)
        while batch := list(islice(rows, PART_ROWS)):
            if len(batch) == PART_ROWS:
                path = self._path()
                write_measures(path, batch)
                self._count(path, batch)
            yield from batch

    def remove(self) -> None:
        """Remove the parts, the last first, so that what is left of them can be read."""
        while self._paths:
            remove(self._paths.pop())

    def _count(self, path: str, rows: list[LedgerRow]) -> None:
        self._paths.append(path)
        self.num_rows += len(rows)

    def _path(self) -> str:
        """Return the path of the part that begins with the next row."""
        name = f"{_PART}{self.split.number:05d}-{self._state}-{self.num_rows:09d}.parquet"
        return join(self.output, f"{FRAGMENTS}/{name}")


def remove_parts(output: str) -> None:
    """Remove the parts of all splits."""
    for name in list_directory(join(output, FRAGMENTS)):
        if name.startswith(_PART):
            remove(join(join(output, FRAGMENTS), name))


def repeated_path(output: str) -> str:
    """Return the path of the file of captions that stand in too many rows, among the fragments."""
    return join(join(output, FRAGMENTS), "repeated-captions.txt")


def write_repeated(output: str, hashes: Iterable[str]) -> None:
    """Write the hashes of the captions that stand in too many rows, a line each."""
    publish_bytes(repeated_path(output), "".join(f"{line}\n" for line in sorted(hashes)).encode())


def read_repeated(output: str) -> frozenset[str]:
    """Return those hashes; none where there is no file."""
    path = repeated_path(output)
    return _read_hashes(path, file_version(path)) if is_file(path) else frozenset()


@lru_cache(maxsize=1)
def _read_hashes(path: str, _version: tuple[int | str, ...]) -> frozenset[str]:
    return frozenset(read_bytes(path).decode().split())
