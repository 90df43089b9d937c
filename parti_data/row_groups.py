"""Row groups of token shards, decoded into slots of memory by threads ahead of whoever draws rows from them."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parti_data.caption_ids import TextRows, text_rows
from parti_data.errors import ShardError
from parti_data.shard_files import ShardFiles
from parti_data.token_directory import TokenDirectory
from parti_data.token_shard import BROKEN, check_footer

DECODED_ROWS = 512
"""Tokens are decoded so many rows at a time, 1 MiB, which stays in the cache: 3.8 us a row of 1,024 tokens, 4.9 where a
row group of 4,096 is decoded at once. Measured on an AMD EPYC core."""
_NAMES = ("key", "source", "source_key")
_NUMBERS = ("view", "flipped", "box")
_TEXTS = ("captions", "text_ids")
NUM_NUMBERS, FIRST_CAPTION, NUM_CAPTIONS = 8, 6, 7
"""Columns of `RowSlots.numbers`."""
_TOKENS = "image_tokens"


class Group(NamedTuple):
    """A row group of a directory."""

    shard: int
    number: int
    """In its shard."""
    rows: int


class RowSlots(NamedTuple):
    """Memory for the rows of several row groups; those of slot s begin at s * capacity."""

    image_tokens: np.ndarray
    """uint16 or uint32 (N, I)."""
    numbers: np.ndarray
    """int32 (N, 8): view, flipped, the four of box, the first of its captions in its row group, how many there are."""
    names: np.ndarray
    """str (N, 3), of type object: key, source, source_key."""


class Held(NamedTuple):
    """A row group in its slot."""

    first: int
    """The row of the slots with which it begins."""
    texts: TextRows


def list_groups(directory: TokenDirectory) -> list[Group]:
    """Return the row groups of all shards, as their numbers of rows tell."""
    return [
        Group(number, group, rows)
        for number in range(len(directory.shards))
        for group, rows in enumerate(_rows_by_group(directory, number))
    ]


def _rows_by_group(directory: TokenDirectory, shard: int) -> list[int]:
    """Return the rows of each row group of a shard, as its number of rows tells."""
    rows, size = directory.shards[shard].rows, directory.row_group_rows
    return [min(size, rows - first) for first in range(0, rows, size)]


class RowGroupReader:
    """Row groups held in memory, as many as there are slots; threads decode those that are wanted next."""

    def __init__(self, directory: TokenDirectory, files: ShardFiles, num_slots: int, num_threads: int, length: int):
        self._directory, self._files, self._length = directory, files, length
        self.groups = list_groups(directory)
        self._capacity = max((group.rows for group in self.groups), default=0)
        rows, metadata = num_slots * self._capacity, directory.metadata
        self.slots = RowSlots(
            np.empty((rows, metadata.num_tokens), metadata.token_type),
            np.empty((rows, NUM_NUMBERS), np.int32),
            np.empty((rows, len(_NAMES)), object),
        )
        self._free = list(range(num_slots))
        self._held: dict[int, tuple[int, Future[Held]]] = {}
        self._broken: dict[int, ShardError] = {}
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="row-groups")

    def want(self, groups: Iterable[int]) -> None:
        """Have these row groups decoded, in this order, and let go of all others; no more than there are slots."""
        wanted = dict.fromkeys(groups)
        for group in [group for group in self._held if group not in wanted]:
            slot, decoding = self._held.pop(group)
            if not decoding.cancel():
                wait([decoding])
            self._free.append(slot)
        for group in wanted:
            if group not in self._held:
                slot = self._free.pop()
                self._held[group] = slot, self._pool.submit(self._decode, group, slot)

    def get(self, group: int) -> Held:
        """Return a row group that is wanted; raises ShardError where its shard cannot be read."""
        return self._held[group][1].result()

    def path(self, group: int) -> str:
        """Return where the shard of a row group lies."""
        return self._directory.shard_path(self.groups[group].shard)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, number: int, slot: int) -> Held:
        group = self.groups[number]
        if group.shard not in self._broken:
            try:
                return self._read_twice(group, slot)
            except ShardError as error:
                self._broken[group.shard] = error
        raise self._broken[group.shard]

    def _read_twice(self, group: Group, slot: int) -> Held:
        """Return a row group; where it is damaged, from a copy that is hashed, and perhaps fetched, anew."""
        with self._files.open(group.shard) as file, suppress(*BROKEN):
            return self._read(file, group, slot)
        with self._files.open(group.shard, is_anew=True) as file:
            try:
                return self._read(file, group, slot)
            except BROKEN as error:
                path = self._directory.shard_path(group.shard)
                raise ShardError(
                    f"{path}: expected row group {group.number}, found {error}; run its stage again"
                ) from None

    def _read(self, file: BinaryIO, group: Group, slot: int) -> Held:
        native = pa.OSFile(f"/dev/fd/{file.fileno()}")  # reads without Python's lock
        with pq.ParquetFile(native, page_checksum_verification=True) as shard:
            self._check(shard, group)
            first = slot * self._capacity
            batches = shard.iter_batches(DECODED_ROWS, [group.number], [_TOKENS], use_threads=False)
            for start, batch in zip(range(first, first + group.rows, DECODED_ROWS), batches, strict=True):
                tokens = batch.column(_TOKENS).flatten().to_numpy()
                self.slots.image_tokens[start : start + len(batch)] = tokens.reshape(len(batch), -1)
            others = shard.read_row_group(group.number, [*_NAMES, *_NUMBERS, *_TEXTS], use_threads=False)
        column = {name: others.column(name).combine_chunks() for name in others.column_names}
        here = slice(first, first + group.rows)
        for index, name in enumerate(_NAMES):
            self.slots.names[here, index] = column[name].to_numpy(zero_copy_only=False)
        texts = text_rows(column["captions"], column["text_ids"], self._length)
        numbers = self.slots.numbers[here]
        numbers[:, 0], numbers[:, 1] = (column[name].to_numpy(zero_copy_only=False) for name in _NUMBERS[:2])
        numbers[:, 2:FIRST_CAPTION] = column["box"].flatten().to_numpy().reshape(-1, 4)
        numbers[:, FIRST_CAPTION], numbers[:, NUM_CAPTIONS] = texts.starts[:-1], np.diff(texts.starts)
        pa.default_memory_pool().release_unused()  # 20 to 40 MB a thread otherwise
        return Held(first, texts)

    def _check(self, shard: pq.ParquetFile, group: Group) -> None:
        """Raise ShardError where an open shard is not one of this directory."""
        path = self._directory.shard_path(group.shard)
        metadata, rows = check_footer(path, shard)
        expected = _rows_by_group(self._directory, group.shard)
        if rows != expected:
            raise ShardError(
                f"{path}: expected row groups of {expected} rows, found {rows}; tokenize into a new directory"
            )
        for field in type(metadata).model_fields:
            stated, found = getattr(self._directory.metadata, field), getattr(metadata, field)
            if stated != found:
                raise ShardError(
                    f"{path}: expected {field} {stated} as the manifest states, found {found}; tokenize all data with "
                    "one tokenizer"
                )
