"""The rows of one directory of token shards, in the endless shuffled order of a seed, by position."""

from collections.abc import Iterator
from math import gcd
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from parti_data.caption_ids import CaptionChoice
from parti_data.config import StrictModel
from parti_data.errors import ShardError
from parti_data.row_groups import RowGroupReader, RowSlots, Wanted, list_groups
from parti_data.row_order import EpochOrder, Needs, choose_window
from parti_data.shard_cache import CacheOptions
from parti_data.shard_files import ShardFiles
from parti_data.token_directory import TokenDirectory

_AHEAD = 5
"""One row group is decoded ahead for so many that rows are drawn from, and one a thread at least."""


class ShardReading(StrictModel):
    """How shards are read; nothing of it changes a batch, as long as all shards can be read."""

    decode_threads: PositiveInt = 2
    on_bad_shard: Literal["raise", "skip"] = "raise"
    """With "skip" other rows of the batch take the places of a bad shard's, and are counted. A store that cannot be
    reached is an error all the same."""
    cache: CacheOptions = Field(default_factory=CacheOptions)
    """Of shards on object stores."""


class Share(NamedTuple):
    """Which positions are asked for: those that leave `residue` when divided by `modulus`."""

    residue: int = 0
    modulus: int = 1


class Drawn(NamedTuple):
    """Some rows that were asked for, in slots of memory that stay as they are until more are drawn."""

    asked: np.ndarray
    """Which of the positions these are, int64 (N,)."""
    slots: RowSlots
    places: np.ndarray
    """Where in the slots each row lies, int64 (N,)."""
    missing: np.ndarray
    """The positions, beside these, whose rows cannot be read, int64."""


class _Ahead(NamedTuple):
    """Which row groups the reader was told of last: those of an epoch that are needed from one position on."""

    epoch: int
    first: int
    last: int
    """The position from which on one of them is needed no more."""
    reached: int
    """The position before which no other one is needed."""


class TokenRows:
    """An endless sequence of rows; each `num_rows` from a multiple of it on are all rows once."""

    def __init__(
        self,
        directory: TokenDirectory,
        seed: int,
        choice: CaptionChoice,
        reading: ShardReading,
        share: Share,
        mixed: float = 1.0,
    ):
        """`mixed` is the part of the memory that this source has in a mixture."""
        self.num_rows = directory.num_rows
        self._seed, self._share, self._reading = seed, share, reading
        self.skipped: dict[str, str] = {}
        """What cannot be read, and why."""
        self._group_rows = np.array([group.rows for group in list_groups(directory)], np.int64)
        token_bytes = np.dtype(directory.metadata.token_type).itemsize
        self._window = choose_window(self._group_rows, directory.metadata.num_tokens * token_bytes, mixed)
        active = self._window.groups * self._window.lanes // gcd(self._window.lanes, share.modulus)
        ahead = max(active // _AHEAD, reading.decode_threads)
        self._num_slots = min(active + ahead, 2 * len(self._group_rows))
        self._orders: dict[int, tuple[EpochOrder, Needs]] = {}
        self._ahead = _Ahead(-1, 0, 0, 0)
        files = ShardFiles(directory, reading.cache)
        self._reader = RowGroupReader(directory, files, choice, self._num_slots, reading.decode_threads)

    def draw(self, positions: np.ndarray) -> Iterator[Drawn]:
        """Yield the rows at these ascending positions, int64 (N,), in one or several pieces.

        Raises ShardError where one cannot be read, unless those are to be skipped.
        """
        start = 0
        while start < len(positions):
            epoch, first = divmod(int(positions[start]), self.num_rows)
            stop = epoch * self.num_rows + self._read_ahead(epoch, first)
            end = int(np.searchsorted(positions, stop))
            asked = np.arange(start, end)
            yield self._draw(epoch, asked, positions[start:end] - epoch * self.num_rows)
            start = end

    @property
    def slots(self) -> RowSlots:
        """The memory in which drawn rows lie."""
        return self._reader.slots

    def close(self) -> None:
        """Let go of the threads."""
        self._reader.close()

    def _read_ahead(self, epoch: int, position: int) -> int:
        """Have the row groups read that come next; return up to which position of the epoch they reach."""
        if self._ahead.epoch == epoch and self._ahead.first <= position < self._ahead.last:
            return self._ahead.reached
        needs = self._order(epoch)[1]
        coming = np.flatnonzero(needs.last > position)
        wanted, reached = dict.fromkeys(needs.groups[coming[: self._num_slots]].tolist()), self.num_rows
        for number in coming[self._num_slots :].tolist():  # those before may name a group twice that two lanes share
            if len(wanted) == self._num_slots and int(needs.groups[number]) not in wanted:
                reached = int(needs.first[number])
                break
            wanted[int(needs.groups[number])] = None
        later = dict.fromkeys(self._order(epoch + 1)[1].groups[: 2 * self._num_slots].tolist())
        both = [Wanted(epoch, group) for group in wanted] + [Wanted(epoch + 1, group) for group in later]
        self._reader.want(both[: self._num_slots])
        self._ahead = _Ahead(epoch, position, min(reached, int(needs.last[coming].min())), reached)
        return reached

    def _draw(self, epoch: int, asked: np.ndarray, positions: np.ndarray) -> Drawn:
        groups, rows = self._order(epoch)[0].places(positions)
        found, which = np.unique(groups, return_inverse=True)
        firsts = np.array([self._first_row(Wanted(epoch, group)) for group in found.tolist()])[which]
        is_lost = firsts < 0
        if is_lost.any():
            return Drawn(asked[~is_lost], self._reader.slots, (firsts + rows)[~is_lost], asked[is_lost])
        return Drawn(asked, self._reader.slots, firsts + rows, asked[:0])

    def _first_row(self, wanted: Wanted) -> int:
        """Return where in the slots a row group begins, or -1 where it cannot be read and is to be skipped."""
        try:
            return self._reader.first_row(wanted)
        except ShardError as error:
            if self._reading.on_bad_shard == "raise":
                raise
            self.skipped[self._reader.path(wanted.group)] = str(error)
            return -1

    def _order(self, epoch: int) -> tuple[EpochOrder, Needs]:
        if epoch not in self._orders:
            while len(self._orders) > 1:
                del self._orders[next(iter(self._orders))]
            order = EpochOrder(self._group_rows, self._seed, epoch, self._window)
            residue = (self._share.residue - epoch * self.num_rows) % self._share.modulus
            self._orders[epoch] = order, order.needs(residue, self._share.modulus)
        return self._orders[epoch]
