"""Row groups of token shards, decoded by threads, ahead of whoever draws rows, into slots of memory for pieces of them.

A piece is what one round draws of a row group; once the round is over its slot takes another. So of the row groups in
the window little more than half lies in memory, and the next ones have room beside them.
"""

import errno
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parti_data.arrow_numbers import numbers_of, rows_of
from parti_data.caption_ids import CaptionChoice
from parti_data.errors import ShardError, StorageError
from parti_data.row_order import Lane
from parti_data.shard_files import ShardFiles
from parti_data.token_directory import TokenDirectory, refuse_unlike_manifest
from parti_data.token_shard import BROKEN, check_footer, say_broken

DECODED_ROWS = 256
"""Tokens are decoded so many rows at a time, half a MiB, which stays in the cache: 3.8 us a row of 1,024 tokens, 4.9
where a row group of 4,096 is decoded at once. Measured on an AMD EPYC core."""
BUFFER_BYTES = 1 << 20
"""A column is read so much at a time; whole, its bytes would take 7 MB in each thread."""
_TEXTS = ["key", "source", "source_key"]
CAPTION = "caption"
"""The name of the captions that were chosen among the texts of rows; the others have their columns' names."""
_COLUMNS = ([*_TEXTS, "view", "flipped", "box"], ["captions", "text_ids"])
"""What is read together beside the tokens: for all eight at once pyarrow 25 takes 34 MB, where these take 2."""
_TOKENS = "image_tokens"
_MISREAD = (*BROKEN, ValueError)
"""What a damaged row group raises: ValueError where it has other numbers of rows than the footer says."""
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What says nothing of a file: too many are open, or memory is short."""


class Group(NamedTuple):
    """A row group of a directory."""

    shard: int
    number: int
    """In its shard."""
    rows: int


class RowSlots(NamedTuple):
    """Memory for rows; those of slot s begin at s times the capacity of a slot. The last, -1, is what has no place."""

    image_tokens: np.ndarray
    """uint16 or uint32 (N, I)."""
    numbers: np.ndarray
    """int32 (N, 6): view, flipped, the four of box."""
    lines: np.ndarray
    """uint16 or uint32 (N, 1 + T): how many ids the caption has, then the first of them, padded."""


class Wanted(NamedTuple):
    """A part of a lane of an epoch's order, from one of its pieces on."""

    epoch: int
    lane: int
    part: int
    first_piece: int


class Memory(NamedTuple):
    """Slots for pieces of row groups."""

    num_slots: int
    capacity: int
    """Rows of a slot, as many as the largest piece has."""


class PartTexts(NamedTuple):
    """The texts of a part."""

    table: pa.RecordBatch
    """Those of its row group."""
    rows: np.ndarray
    """Which row of the row group each rank is, int64 (N,)."""


class _Held(NamedTuple):
    """A part of which some pieces are in memory, or will be."""

    num_pieces: int
    slots: list[int]
    """Of its last pieces; those before have passed."""
    addresses: np.ndarray
    """Where in the slots each row goes, by its rank, -1 for nowhere, int64 (N,)."""
    decoding: Future[PartTexts]

    @property
    def first_piece(self) -> int:
        """The first piece that has not passed."""
        return self.num_pieces - len(self.slots)


class _Job(NamedTuple):
    """What a thread decodes."""

    group: int
    epoch: int
    to: np.ndarray
    """Where each row of the row group goes in the slots, -1 for nowhere, int64."""


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
        self, directory: TokenDirectory, files: ShardFiles, choice: CaptionChoice, memory: Memory, num_threads: int
    ):
        self._directory, self._files, self._choice, self._memory = directory, files, choice, memory
        self.groups = list_groups(directory)
        sizes = np.array([group.rows for group in self.groups], np.int64)
        self.group_starts = np.cumsum(sizes) - sizes
        """The number of each row group's first row among all rows, int64 (G,)."""
        rows, metadata = memory.num_slots * memory.capacity + 1, directory.metadata
        self.slots = RowSlots(
            np.empty((rows, metadata.num_tokens), metadata.token_type),
            np.empty((rows, 6), np.int32),
            np.empty((rows, 1 + choice.length), metadata.text_type),
        )
        self._free = list(range(memory.num_slots))
        self._held: dict[tuple[int, int, int], _Held] = {}
        self._broken: dict[int, str] = {}
        self._checked: set[int] = set()
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="row-groups")

    def want(self, wanted: list[Wanted], lanes: Callable[[int], list[Lane]]) -> None:
        """Have these decoded, in this order, and let go of all others; no more pieces than there are slots.

        `lanes` gives those of an epoch.
        """
        first_pieces = {one[:3]: one.first_piece for one in wanted}
        for name, held in list(self._held.items()):
            passed = first_pieces.get(name, -1) - held.first_piece
            is_over = passed < 0 or (passed and held.decoding.cancel())  # then it is begun anew, with fewer pieces
            self._let_go(held, len(held.slots) if is_over else passed)
            if is_over:  # not before: who waits may be interrupted
                del self._held[name]
        for name, first_piece in first_pieces.items():
            if name not in self._held:
                epoch, number, part = name
                lane = lanes(epoch)[number]
                slots = [self._free.pop() for _ in range(first_piece, lane.window)]
                addresses = self._addresses(lane.piece_ends(part), slots)
                decoding = self._pool.submit(self._decode, lane, part, epoch, addresses)
                self._held[name] = _Held(lane.window, slots, addresses, decoding)

    def get(self, epoch: int, number: int, part: int) -> tuple[np.ndarray, PartTexts]:
        """Return where in the slots each row of a wanted part lies, by its rank, int64 (N,), and the part's texts.

        Of what has passed it says where it lay. Waits until all is decoded; raises ShardError where its shard cannot be
        read.
        """
        held = self._held[epoch, number, part]
        try:
            texts = held.decoding.result()
        except (StorageError, OSError, MemoryError):  # which may pass
            self._let_go(held, len(held.slots))
            del self._held[epoch, number, part]
            raise
        return held.addresses, texts

    def _let_go(self, held: _Held, count: int) -> None:
        """Give back the slots of so many pieces, to which nobody writes any more."""
        if count and not held.decoding.cancel():
            wait([held.decoding])
        self._free += held.slots[:count]
        del held.slots[:count]

    def path(self, group: int) -> str:
        """Return where the shard of a row group lies."""
        return self._directory.shard_path(self.groups[group].shard)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _addresses(self, ends: np.ndarray, slots: list[int]) -> np.ndarray:
        """Return where each row of a part goes, by its rank, where its last pieces have these slots."""
        passed = len(ends) - 1 - len(slots)
        begins = np.array(slots, np.int64) * self._memory.capacity - ends[passed:-1]
        kept = np.repeat(begins, np.diff(ends)[passed:]) + np.arange(ends[passed], ends[-1])
        return np.concatenate([np.full(ends[passed], -1), kept])

    def _decode(self, lane: Lane, part: int, epoch: int, addresses: np.ndarray) -> PartTexts:
        group = int(lane.groups[part])
        shard, rows = self.groups[group].shard, lane.rows(part)
        if shard not in self._broken:
            to = np.full(self.groups[group].rows, -1)
            to[rows] = addresses
            try:
                return PartTexts(self._read_twice(_Job(group, epoch, to)), rows)
            except ShardError as error:
                self._broken[shard] = str(error)  # each raise would add to the error what its frames hold
        raise ShardError(self._broken[shard])

    def _read_twice(self, job: _Job) -> pa.RecordBatch:
        """Read a row group and return its texts; where it is damaged, from a copy that is hashed or fetched anew."""
        group = self.groups[job.group]
        with self._files.open(group.shard) as file, suppress(*_MISREAD):
            return self._read(file, job)
        self._checked.discard(job.group)
        with self._files.open(group.shard, is_anew=True) as file:
            try:
                return self._read(file, job)
            except _MISREAD as error:
                if isinstance(error, MemoryError) or getattr(error, "errno", None) in _PASSING:
                    raise
                raise ShardError(
                    f"{self.path(job.group)}: expected row group {group.number}, found {say_broken(error)}; run its "
                    "stage again"
                ) from None

    def _read(self, file: BinaryIO, job: _Job) -> pa.RecordBatch:
        group = self.groups[job.group]
        native = pa.OSFile(
            f"/dev/fd/{file.fileno()}"
        )  # reads without Python's lock; with pre_buffer threads of Arrow's would
        is_first = job.group not in self._checked
        options = {"page_checksum_verification": is_first, "buffer_size": BUFFER_BYTES}
        options["pre_buffer"] = False  # or threads of Arrow's would read, and this one wait for them
        with pq.ParquetFile(native, **options) as shard:
            if is_first:
                footer = check_footer(self.path(job.group), shard)
                refuse_unlike_manifest(self._directory, group.shard, *footer)
            read = [shard.read_row_group(group.number, columns, use_threads=False) for columns in _COLUMNS]
            batches = shard.iter_batches(DECODED_ROWS, [group.number], [_TOKENS], use_threads=False)
            for start, batch in zip(range(0, group.rows, DECODED_ROWS), batches, strict=True):
                self.slots.image_tokens[job.to[start : start + len(batch)]] = rows_of(batch.column(_TOKENS))
        column = {name: table.column(name).combine_chunks() for table in read for name in table.column_names}
        if is_first:
            for texts in column.values():
                texts.validate(full=True)  # that they are UTF-8
        texts = self._keep(column, job)
        self._checked.add(job.group)
        return texts

    def _keep(self, column: dict[str, pa.Array], job: _Job) -> pa.RecordBatch:
        """Put what is no text into the slots; return the texts."""
        counts, line_counts = (np.diff(numbers_of(column[name].offsets)) for name in ("captions", "text_ids"))
        if not np.array_equal(counts, line_counts):
            raise ShardError(
                f"{self.path(job.group)}: expected text ids for each caption, found others in row group "
                f"{self.groups[job.group].number}; run its stage into a new directory"
            )
        first = int(self.group_starts[job.group])
        text = self._choice.choose(column["captions"], column["text_ids"], job.epoch, first)
        numbers = np.empty((len(job.to), 6), np.int32)
        numbers[:, 0], numbers[:, 1] = numbers_of(column["view"]), numbers_of(column["flipped"].cast(pa.uint8()))
        numbers[:, 2:] = rows_of(column["box"])
        self.slots.numbers[job.to], self.slots.lines[job.to] = numbers, text.lines
        return pa.RecordBatch.from_arrays([*(column[name] for name in _TEXTS), text.captions], [*_TEXTS, CAPTION])
