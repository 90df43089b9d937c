"""What every source speaks: splits that say where to read, and the pairs read from them."""

from collections.abc import Container, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

Row = TypeVar("Row")


class SourceSplit(NamedTuple):
    """A part of a source that one worker reads as a stream."""

    number: int
    path: str
    first: int
    count: int
    """`count` rows from row `first` on; a count of 0 means all of the file."""
    marker: tuple[int | str, ...] = ()
    """The size of the file when it was listed, and the mark of its content where the storage keeps one."""


class Location(NamedTuple):
    """Where the bytes of an image lie: a file, and a range in it.

    The offset is a number where there is no range: of the row of a Parquet file, of a synthetic scene. In a compressed
    tar it counts the bytes of what that unpacks to.
    """

    path: str
    offset: int
    size: int


class RawPair(NamedTuple):
    """One input row as the source has it."""

    source_key: str
    location: Location
    image: bytes | None
    """None where it is missing; cut off one byte after the limit where it is over it."""
    captions: list[str]
    """None, one or several."""
    fields: dict[str, Any]
    """What else the source says of the pair: scores, url, licence."""


class PairSource(Protocol):
    """What each kind of source can do; a config's `source` table is one."""

    def splits(self) -> list[SourceSplit]:
        """Return the parts that workers read; raises SourceError where there is none."""
        ...

    def digest(self, splits: list[SourceSplit] | None = None) -> str:
        """Return a digest of what there is to read, without reading it."""
        ...

    def read(self, split: SourceSplit, max_image_bytes: int, rows: Container[int] | None = None) -> Iterator[RawPair]:
        """Yield the split's pairs in order; an image over the limit is cut off there."""
        ...

    def fetch(self, location: Location) -> bytes:
        """Return the bytes of one image."""
        ...


def choose_rows(rows: Iterable[Row], numbers: Container[int] | None) -> Iterator[Row]:
    """Yield the rows of these numbers, counted in the split from 0; without numbers all of them."""
    return (row for number, row in enumerate(rows) if numbers is None or number in numbers)
