"""Row groups of token shards, decoded into slots of memory by threads ahead of whoever draws rows from them."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parti_data.caption_ids import CaptionChoice
from parti_data.errors import ShardError
from parti_data.shard_files import ShardFiles
from parti_data.token_directory import TokenDirectory, refuse_unlike_manifest
from parti_data.token_shard import BROKEN, check_footer, say_broken

DECODED_ROWS = 256
"""Tokens are decoded so many rows at a time, half a MiB, which stays in the cache: 3.8 us a row of 1,024 tokens, 4.9 where
a row group of 4,096 is decoded at once. Measured on an AMD EPYC core."""
BUFFER_BYTES = 1 << 18
"""A column is read so much at a time; whole, its bytes would take 7 MB in each thread."""
NAMES = ("key", "source", "source_key", "caption")
"""Columns of `RowSlots.names`."""
_COLUMNS = ["key", "source", "source_key", "view", "flipped", "box", "captions", "text_ids"]
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
    """int32 (N, 6): view, flipped, the four of box."""
    names: np.ndarray
    """str (N, 4), of type object: key, source, source_key, the caption that was chosen."""
    lines: np.ndarray
    """uint16 or uint32 (N, 1 + T): how many ids the caption has, then the first of them, padded."""


class Wanted(NamedTuple):
    """A row group with the captions of an epoch."""

    epoch: int
    group: int


def list_groups(directory: TokenDirectory) -> list[Group]:
    """Return the row groups of all shards that have rows."""
    return [
        Group(number, group, rows)
        for number in range(len(directory.shards))
        for group, rows in enumerate(directory.group_rows(number))
        if rows
    ]


class RowGroupReader:
    """Row groups held in memory, as many as there are slots; threads decode those that are wanted next."""

    def __init__(
        self, directory: TokenDirectory, files: ShardFiles, choice: CaptionChoice, num_slots: int, num_threads: int
    ):
        self._directory, self._files, self._choice = directory, files, choice
        self.groups = list_groups(directory)
        sizes = np.array([group.rows for group in self.groups], np.int64)
        self.group_starts = np.cumsum(sizes) - sizes
        """The number of each row group's first row among all rows, int64 (G,)."""
        self._capacity = int(sizes.max(initial=0))
        rows, metadata = num_slots * self._capacity, directory.metadata
        self.slots = RowSlots(
            np.empty((rows, metadata.num_tokens), metadata.token_type),
            np.empty((rows, 6), np.int32),
            np.empty((rows, len(NAMES)), object),
            np.empty((rows, 1 + choice.length), metadata.text_type),
        )
        self._free = list(range(num_slots))
        self._held: dict[Wanted, tuple[int, Future[None]]] = {}
        self._broken: dict[int, ShardError] = {}
        self._checked: set[int] = set()
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="row-groups")

    def want(self, wanted: Iterable[Wanted]) -> None:
        """Have these decoded, in this order, and let go of all others; no more than there are slots."""
        wanted = dict.fromkeys(wanted)
        for other in [held for held in self._held if held not in wanted]:
            slot, decoding = self._held.pop(other)
            if not decoding.cancel():
                wait([decoding])
            self._free.append(slot)
        for one in wanted:
            if one not in self._held:
                slot = self._free.pop()
                self._held[one] = slot, self._pool.submit(self._decode, one, slot)

    def first_row(self, wanted: Wanted) -> int:
        """Return with which row of the slots one that is wanted begins, once it is decoded.

        Raises ShardError where its shard cannot be read.
        """
        slot, decoding = self._held[wanted]
        decoding.result()
        return slot * self._capacity

    def path(self, group: int) -> str:
        """Return where the shard of a row group lies."""
        return self._directory.shard_path(self.groups[group].shard)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, wanted: Wanted, slot: int) -> None:
        shard = self.groups[wanted.group].shard
        if shard not in self._broken:
            try:
                self._read_twice(wanted, slot)
            except ShardError as error:
                self._broken[shard] = error
        if shard in self._broken:
            raise self._broken[shard]

    def _read_twice(self, wanted: Wanted, slot: int) -> None:
        """Read a row group; where it is damaged, from a copy that is hashed, and perhaps fetched, anew."""
        group = self.groups[wanted.group]
        with self._files.open(group.shard) as file, suppress(*BROKEN):
            self._read(file, wanted, slot)
            return
        self._checked.discard(wanted.group)
        with self._files.open(group.shard, is_anew=True) as file:
            try:
                self._read(file, wanted, slot)
            except BROKEN as error:
                raise ShardError(
                    f"{self.path(wanted.group)}: expected row group {group.number}, found {say_broken(error)}; run its "
                    "stage again"
                ) from None

    def _read(self, file: BinaryIO, wanted: Wanted, slot: int) -> None:
        group, here = self.groups[wanted.group], slot * self._capacity
        native = pa.OSFile(f"/dev/fd/{file.fileno()}")  # reads without Python's lock
        is_first = wanted.group not in self._checked
        options = {"page_checksum_verification": is_first, "buffer_size": BUFFER_BYTES}
        with pq.ParquetFile(native, **options) as shard:
            if is_first:
                footer = check_footer(self.path(wanted.group), shard)
                refuse_unlike_manifest(self._directory, group.shard, *footer)
            batches = shard.iter_batches(DECODED_ROWS, [group.number], [*_COLUMNS, _TOKENS], use_threads=False)
            others = []
            for start, batch in zip(range(here, here + group.rows, DECODED_ROWS), batches, strict=True):
                tokens = batch.column(_TOKENS).flatten().to_numpy()
                self.slots.image_tokens[start : start + len(batch)] = tokens.reshape(len(batch), -1)
                others.append(batch.select(_COLUMNS))
        self._keep(pa.Table.from_batches(others), wanted, here)
        self._checked.add(wanted.group)

    def _keep(self, table: pa.Table, wanted: Wanted, here: int) -> None:
        column = {name: table.column(name).combine_chunks() for name in table.column_names}
        rows = slice(here, here + len(table))
        text = self._choice.choose(
            column["captions"], column["text_ids"], wanted.epoch, int(self.group_starts[wanted.group])
        )
        names, numbers = self.slots.names[rows], self.slots.numbers[rows]
        for index, name in enumerate(NAMES[:3]):
            names[:, index] = column[name].to_numpy(zero_copy_only=False)
        names[:, 3], self.slots.lines[rows] = text
        for index, name in enumerate(("view", "flipped")):
            numbers[:, index] = column[name].to_numpy(zero_copy_only=False)
        numbers[:, 2:] = column["box"].flatten().to_numpy().reshape(-1, 4)
