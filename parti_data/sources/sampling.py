"""A few pairs of a split, read without reading the split, and how many pairs it has as far as that tells.

Of a tar only the beginning is read, of a compressed one only as much is unpacked, of Parquet and tables the first rows.
COCO's JSON is read whole, since its captions stand behind its images; no more images are read than are asked for.
"""

import io
import tarfile
from collections.abc import Iterable
from itertools import islice
from typing import BinaryIO, NamedTuple

import numpy as np

from parti_data.errors import SourceError
from parti_data.sources import (
    CocoSource,
    FolderSource,
    ParquetSource,
    Source,
    SyntheticSource,
    TableSource,
    WebDatasetSource,
)
from parti_data.sources.coco import count_images
from parti_data.sources.pairs import Location, RawPair, SourceSplit
from parti_data.sources.parquet_rows import ParquetRows
from parti_data.sources.tar_headers import BoundedTarFile
from parti_data.sources.unpacked_tar import is_compressed, unpack_first
from parti_data.sources.webdataset import Members, add_member, read_pair
from parti_data.storage import file_size, open_file

MAX_SAMPLE_BYTES = 64 << 20
"""Of the images of one split that are held, and of what a compressed tar is unpacked to."""
_LEAST_UNPACKED_BYTES = 4 << 20
_TABLE_BYTES = 1 << 20
"""So much of a table of lines tells how many there are."""
_MAX_FOOTERS = 256
"""Parquet files whose rows are counted; of more, some stand for all."""


class Sample(NamedTuple):
    """The first pairs of a split, and how many it has."""

    pairs: list[RawPair]
    num_pairs: int
    is_exact: bool


class _Prefix(NamedTuple):
    """The members of the first pairs of a tar, and the share of the tar that they take; 1 where they are all."""

    pairs: dict[str, Members]
    share: float


def spread_splits(splits: list[SourceSplit], most: int) -> list[SourceSplit]:
    """Return all splits, first `most` of them that lie evenly from the first to the last, then the others."""
    some = sorted({round(place) for place in np.linspace(0, len(splits) - 1, min(most, len(splits)))})
    others = sorted(set(range(len(splits))) - set(some))
    return [splits[number] for number in [*some, *others]]


def sample_split(source: Source, split: SourceSplit, count: int, max_image_bytes: int) -> Sample:
    """Return the first pairs of a split, as `read` yields them, and how many pairs it has."""
    match source:
        case WebDatasetSource():
            return _sample_tar(source, split, count, max_image_bytes)
        case SyntheticSource():
            some = split._replace(count=min(count, split.count))
            return Sample(_take(source.read(some, max_image_bytes), count), split.count, True)
        case FolderSource():
            return Sample(_take(source.read(split, max_image_bytes), count), split.count, True)
        case CocoSource():
            return Sample(_take(source.read(split, max_image_bytes), count), count_images(split.path), True)
        case ParquetSource() | TableSource():
            pairs = _take(source.read(split, max_image_bytes), count)
            return Sample(pairs, *_count_rows(split.path, len(pairs), count))


def count_pairs(source: Source, splits: list[SourceSplit]) -> int | None:
    """Return how many pairs all splits have, None where that is not said anywhere."""
    if isinstance(source, SyntheticSource | FolderSource):
        return sum(split.count for split in splits)
    is_parquet = all(split.path.endswith(".parquet") for split in splits)
    if isinstance(source, ParquetSource | TableSource) and is_parquet and len(splits) <= _MAX_FOOTERS:
        return sum(_footer_rows(split.path) for split in splits)
    return None


def _take(pairs: Iterable[RawPair], count: int) -> list[RawPair]:
    taken: list[RawPair] = []
    held = 0
    for pair in islice(pairs, count):
        taken.append(pair)
        held += len(pair.image or b"")
        if held > MAX_SAMPLE_BYTES:
            break
    return taken


def _count_rows(path: str, found: int, wanted: int) -> tuple[int, bool]:
    """Return how many rows a table has, and whether that is exact: lines are counted in its beginning only."""
    if path.endswith(".parquet"):
        return _footer_rows(path), True
    if found < wanted:
        return found, True
    with open_file(path) as file:
        beginning = file.read(_TABLE_BYTES)
    lines = beginning.count(b"\n") + (not beginning.endswith(b"\n"))
    is_all = path.endswith(".jsonl") and len(beginning) < _TABLE_BYTES  # a row of a csv may take several lines
    return max(lines if is_all else round(lines * file_size(path) / len(beginning)), found), is_all


def _footer_rows(path: str) -> int:
    rows = ParquetRows(path)
    try:
        return rows.num_rows
    finally:
        rows.close()


def _sample_tar(source: WebDatasetSource, split: SourceSplit, count: int, max_image_bytes: int) -> Sample:
    file, prefix = _open_compressed(split.path, count) if is_compressed(split.path) else _open_plain(split.path, count)
    with file:
        extensions = [members.ranges.keys() for members in prefix.pairs.values()]
        if any(not names & {"txt", "json"} for names in extensions) and prefix.share < 1:
            pairs = _take(source.read(split, max_image_bytes), count)  # members of a pair are no neighbours
            if len(pairs) < count:
                return Sample(pairs, len(pairs), True)
        else:
            pairs = _take(
                (
                    read_pair(file, Location(split.path, *(members.image() or (0, 0))), key, members, max_image_bytes)
                    for key, members in prefix.pairs.items()
                ),
                count,
            )
    return Sample(pairs, max(round(len(prefix.pairs) / prefix.share), len(pairs)), prefix.share == 1)


def _open_plain(path: str, count: int) -> tuple[BinaryIO, _Prefix]:
    file = open_file(path)
    try:
        size = file.seek(0, 2)
        return file, _require_pairs(_index_first(file, path, count, size, size), path)
    except SourceError:
        file.close()
        raise


def _open_compressed(path: str, count: int) -> tuple[BinaryIO, _Prefix]:
    size, length = file_size(path), _LEAST_UNPACKED_BYTES
    while True:
        content, taken = unpack_first(path, length)
        is_all = len(content) < length
        total = len(content) if is_all else round(len(content) * size / max(taken, 1))
        prefix = _index_first(io.BytesIO(content), path, count, len(content), total)
        if len(prefix.pairs) >= count or is_all or length >= MAX_SAMPLE_BYTES:
            return io.BytesIO(content), _require_pairs(prefix, path)
        length *= 4


def _index_first(file: BinaryIO, path: str, count: int, size: int, total: int) -> _Prefix:
    """Return the first `count` pairs of a tar of which `size` bytes of a `total` are there.

    A pair is whole where another one begins behind it; there may be none. Raises SourceError for what is no tar.
    """
    pairs: dict[str, Members] = {}
    end = 0
    file.seek(0)
    try:
        with BoundedTarFile(fileobj=file, mode="r") as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
                before = len(pairs)
                if member.isfile():
                    add_member(pairs, member, path)
                if len(pairs) > before:
                    end = member.offset
                if len(pairs) > count or member.offset_data + member.size > size:
                    if pairs:
                        pairs.popitem()
                    return _Prefix(pairs, min(end / total, 0.999))
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        raise SourceError(
            f"{path}: expected a whole tar, found {error} after {len(pairs)} pairs; download it again"
        ) from None
    if size < total and len(pairs) > 1:
        pairs.popitem()
        return _Prefix(pairs, min(end / total, 0.999))
    return _Prefix(pairs, 1.0)


def _require_pairs(prefix: _Prefix, path: str) -> _Prefix:
    if not prefix.pairs:
        raise SourceError(f"{path}: expected pairs, found none at its beginning; check source.path")
    return prefix
