"""Rows that may be kept, packed into arrays: what merging shuffles is some 30 bytes a row, in few large pieces.

A row is known by its id: the number of its split in the upper half, its place in the split in the lower.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from parti_data.images import KEY_BYTES
from parti_data.ledger import LedgerRow
from parti_data.perceptual_hash import HASH_WORDS, pack_hashes

MEMBER = np.dtype([("id", "<u8"), ("root", "<u8")])
"""A row, and the row that stands for all that are merged with it."""
_MAX_BUCKETS = 16
_ROW_BITS = np.uint64(32)


@dataclass(frozen=True)
class Packing:
    """What the packed record of a row holds, beside the key of its image and its place."""

    num_buckets: int
    """Rows are dealt out to so many by their keys."""
    with_captions: bool = False
    """Whether there is a record for each caption, with a hash of it."""
    with_hashes: bool = False
    """Whether there is the perceptual hash."""

    @property
    def dtype(self) -> np.dtype:
        """Return the type of a record."""
        fields: list[tuple] = [("key", f"S{KEY_BYTES}"), ("row", "<u4")]
        fields += [("caption", "<u8")] if self.with_captions else []
        return np.dtype([*fields, *([("hash", "<u8", HASH_WORDS)] if self.with_hashes else [])])


class Same(NamedTuple):
    """What the rows of a bucket are: images, and the rows that share one."""

    members: np.ndarray
    """Rows whose image another row has too, `MEMBER` (M,); the root is the first row of the image."""
    first: np.ndarray
    """The place of the first record of each image, (I,)."""
    num_captions: np.ndarray
    """Different captions of each image, (I,); 0 of an image of one row, and where captions are not packed."""


def count_buckets(num_splits: int) -> int:
    """Return to how many buckets a source of so many splits is dealt out."""
    return min(max(num_splits, 1), _MAX_BUCKETS)


def pack(rows: Iterable[tuple[int, LedgerRow]], packing: Packing) -> np.ndarray:
    """Return a record of `packing.dtype` for each row, which comes with its place in the split, or for each caption."""
    records = []
    for place, row in rows:
        look = (pack_hashes([row.perceptual_hash])[0],) if packing.with_hashes else ()
        captions = [(_number_of(text),) for text in row.captions] if packing.with_captions else [()]
        records += [(bytes.fromhex(row.key), place, *caption, *look) for caption in captions]
    return np.array(records, packing.dtype)


def _number_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def deal_out(split: int, records: np.ndarray, packing: Packing) -> Iterator[tuple[int, tuple[int, bytes]]]:
    """Yield (bucket, (split, records as bytes)); one bucket hears of each split, whatever its records."""
    first_bytes = np.ascontiguousarray(records["key"]).view(np.uint8).reshape(-1, KEY_BYTES)[:, 0]
    for bucket in range(packing.num_buckets):
        part = records[first_bytes % packing.num_buckets == bucket]
        if len(part) or bucket == _home(split, packing):
            yield bucket, (split, part.tobytes())


def _home(split: int, packing: Packing) -> int:
    return split % packing.num_buckets


def home_splits(bucket: int, parts: Iterable[tuple[int, bytes]], packing: Packing) -> list[int]:
    """Return the splits that a bucket speaks for, and no other bucket does."""
    return sorted(split for split, _ in parts if _home(split, packing) == bucket)


def unpack(parts: Iterable[tuple[int, bytes]], packing: Packing) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids, uint64 (N,), and the records, (N,), of a bucket in the order of image, row and caption."""
    tables = [(split, np.frombuffer(content, packing.dtype)) for split, content in sorted(parts)]
    records = np.concatenate([table for _, table in tables])
    ids = np.concatenate([(np.uint64(split) << _ROW_BITS) | table["row"].astype(np.uint64) for split, table in tables])
    order = np.lexsort((*([records["caption"]] if packing.with_captions else []), ids, records["key"]))
    return ids[order], records[order]


def find_same(ids: np.ndarray, records: np.ndarray) -> Same:
    """Return which rows of a bucket share an image; ids and records as `unpack` returns them."""
    is_first, is_row = first_of_each(records["key"]), first_of_each(ids)
    image, first = np.cumsum(is_first) - 1, np.flatnonzero(is_first)
    is_shared = np.bincount(image[is_row], minlength=len(first)) > 1
    num_captions = np.zeros(len(first), np.int64)
    if "caption" in (records.dtype.names or ()):
        shared = is_shared[image]
        pairs = np.unique(np.stack([image[shared].astype(np.uint64), records["caption"][shared]], 1), axis=0)
        num_captions += np.bincount(pairs[:, 0].astype(np.int64), minlength=len(first))
    rows = is_row & is_shared[image]
    return Same(to_members(ids[rows], ids[first][image[rows]]), first, num_captions)


def first_of_each(values: np.ndarray) -> np.ndarray:
    """Return which of sorted values, (N,) or (N, M), are the first of their kind, bool (N,)."""
    if len(values) == 0:
        return np.zeros(0, bool)
    differs = values[1:] != values[:-1]
    return np.concatenate([[True], differs if differs.ndim == 1 else differs.any(1)])


def to_members(ids: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """Return an array of `MEMBER`."""
    table = np.empty(len(ids), MEMBER)
    table["id"], table["root"] = ids, roots
    return table


def read_members(contents: Iterable[bytes]) -> np.ndarray:
    """Return packed members as one array, in the order of their ids."""
    table = np.frombuffer(b"".join(contents), MEMBER)
    return table[np.lexsort((table["root"], table["id"]))]


def by_split(table: np.ndarray, ids: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yield (split, rows of the table as bytes) for each split that the rows' ids, uint64, are of."""
    splits = ids >> _ROW_BITS
    order = np.argsort(splits, kind="stable")
    numbers, starts = np.unique(splits[order], return_index=True)
    for number, part in zip(numbers.tolist(), np.split(table[order], starts[1:]), strict=bool(len(ids))):
        yield number, part.tobytes()


def place_in_split(row_id: int) -> int:
    """Return the place of a row in its split."""
    return row_id & 0xFFFFFFFF
