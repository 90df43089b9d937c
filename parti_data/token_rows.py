"""The rows of one directory of token shards, in the endless shuffled order of a seed, by position."""

from collections.abc import Iterator
from math import gcd
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field, PositiveInt

from parti_data.caption_ids import CaptionChoice
from parti_data.config import StrictModel
from parti_data.errors import ShardError
from parti_data.row_groups import Memory, RowGroupReader, RowSlots, Wanted, list_groups
from parti_data.row_order import EpochOrder, choose_window
from parti_data.shard_cache import CacheOptions
from parti_data.shard_files import ShardFiles
from parti_data.token_directory import TokenDirectory


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

    asked: slice | np.ndarray
    """Which of the positions these are, as a slice or int64 (N,)."""
    slots: RowSlots
    places: np.ndarray
    """Where in the slots each row lies, which of the tables has its texts, and in which row, int64 (3, N)."""
    tables: list[pa.RecordBatch]
    """Texts of row groups."""
    missing: slice | np.ndarray
    """The positions, beside these, whose rows cannot be read."""


class _Round(NamedTuple):
    """A round of a lane that rows are drawn from now."""

    epoch: int
    number: int
    start: int
    """The draw of the lane with which it starts."""
    end: int
    places: np.ndarray
    """Of its rows in the order in which they are drawn, as those of `Drawn`; -1 where one cannot be read."""
    tables: list[pa.RecordBatch]


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
        self._orders: dict[int, EpochOrder] = {}
        self._rounds: dict[int, _Round] = {}
        self._at_hand = range(0)
        """The positions whose rows those rounds give."""
        self._is_whole = True
        """Whether all of them can be read."""
        memory = self._memory(gcd(self._window.lanes, share.modulus))
        files = ShardFiles(directory, reading.cache)
        self._reader = RowGroupReader(directory, files, choice, memory, reading.decode_threads)
        self._num_slots = memory.num_slots

    def draw(self, positions: np.ndarray) -> Iterator[Drawn]:
        """Yield the rows at these ascending positions, int64 (N,), in one or several pieces.

        Raises ShardError where one cannot be read, unless those are to be skipped.
        """
        start = 0
        while start < len(positions):
            if (first := int(positions[start])) not in self._at_hand:
                self._turn_to(*divmod(first, self.num_rows))
            end = int(positions.searchsorted(self._at_hand.stop))
            places, tables = self._find(positions[start:end])
            if self._is_whole:
                yield Drawn(slice(start, end), self._reader.slots, places, tables, slice(0))
            else:
                asked, is_there = np.arange(start, end), places[0] >= 0
                yield Drawn(asked[is_there], self._reader.slots, places[:, is_there], tables, asked[~is_there])
            start = end

    @property
    def slots(self) -> RowSlots:
        """The memory in which drawn rows lie."""
        return self._reader.slots

    def close(self) -> None:
        """Let go of the threads."""
        self._reader.close()

    def _memory(self, sharing: int) -> Memory:
        """Return the slots for a rank that has one of so many shares of the lanes.

        A window that is full, as an epoch's first is, fits in, and one row group a thread; later the pieces of a window
        take little more than half of that, and row groups are decoded as far ahead as the rest allows.
        """
        lanes, groups = self._window.lanes // sharing, self._window.groups
        ahead = 1 + self._reading.decode_threads
        most = 2 * len(self._group_rows) * groups  # this epoch and all of the next
        return Memory(min((lanes * groups + ahead) * groups, most), -(-int(self._group_rows.max()) // groups))

    def _find(self, positions: np.ndarray) -> tuple[np.ndarray, list[pa.RecordBatch]]:
        """Return the places of rows that are at hand, int64 (3, N), and their tables, as `Drawn` has them."""
        draws = positions - self._at_hand.start // self.num_rows * self.num_rows
        if self._window.lanes == 1:
            (round_,) = self._rounds.values()
            return round_.places.take(draws - round_.start, 1), round_.tables
        draws, lanes = np.divmod(draws, self._window.lanes)
        places, tables = np.empty((3, len(draws)), np.int64), []
        for lane, round_ in self._rounds.items():
            here = lanes == lane
            places[:, here] = round_.places.take(draws[here] - round_.start, 1)
            places[1, here] += len(tables)
            tables += round_.tables
        return places, tables

    def _turn_to(self, epoch: int, place: int) -> None:
        """Have at hand the rounds in which this place of an epoch and those behind it lie."""
        lanes, count = self._order(epoch).lanes, self._window.lanes
        step = gcd(count, self._share.modulus)
        mine = range((self._share.residue - epoch * self.num_rows) % step, count, step)
        numbers = {lane: lanes[lane].round_of(max(place - lane + count - 1, 0) // count) for lane in mine}
        self._at_hand = range(0)
        for lane, round_ in list(self._rounds.items()):  # first: their slots are given away, whatever raises then
            if (round_.epoch, round_.number) != (epoch, numbers.get(lane)):
                del self._rounds[lane]
        self._read_ahead(epoch, numbers)
        for lane, number in numbers.items():
            if lane not in self._rounds:
                self._rounds[lane] = self._resolve(epoch, lane, number)
        begin = max(0, *((round_.start - 1) * count + lane + 1 for lane, round_ in self._rounds.items()))
        end = min(self.num_rows, *(round_.end * count + lane for lane, round_ in self._rounds.items()))
        self._at_hand = range(epoch * self.num_rows + begin, epoch * self.num_rows + end)
        self._is_whole = all((round_.places[0] >= 0).all() for round_ in self._rounds.values())

    def _read_ahead(self, epoch: int, numbers: dict[int, int]) -> None:
        """Have read what these rounds of an epoch's lanes and those behind them need, as far as there is room."""
        order, later = self._order(epoch), self._order(epoch + 1)
        most = self._num_slots // self._window.groups  # parts of which no piece has passed
        coming = []
        for number, current in numbers.items():
            lane = order.lanes[number]
            for part in range(current, min(current + lane.window + most, len(lane.groups))):
                need = int(lane.starts[max(part - lane.window + 1, 0)])
                coming.append((need, Wanted(epoch, number, part, lane.first_piece(part, current))))
        step = gcd(self._window.lanes, self._share.modulus)
        first = (self._share.residue - (epoch + 1) * self.num_rows) % step
        for number in range(first, self._window.lanes, step):
            lane = later.lanes[number]
            for part in range(min(most, len(lane.groups))):
                need = int(lane.starts[max(part - lane.window + 1, 0)])
                coming.append((self.num_rows + need, Wanted(epoch + 1, number, part, 0)))
        wanted, room = [], self._num_slots
        for _, one in sorted(coming):
            room -= self._window.groups - one.first_piece
            if room < 0:
                break
            wanted.append(one)
        self._reader.want(wanted, lambda which: self._order(which).lanes)

    def _resolve(self, epoch: int, number: int, round_: int) -> _Round:
        """Return a round of a lane once its rows are in memory."""
        lane = self._order(epoch).lanes[number]
        draws, places, tables = lane.draws(round_), [], []
        for part, ranks in draws.ranks:
            found = np.full((3, len(ranks)), -1)
            try:
                addresses, texts = self._reader.get(epoch, number, part)
            except ShardError as error:
                if self._reading.on_bad_shard == "raise":
                    raise
                self.skipped[self._reader.path(int(lane.groups[part]))] = str(error)
            else:
                among = slice(ranks.start, ranks.stop)
                found[0], found[1], found[2] = addresses[among], len(tables), texts.rows[among]
                tables.append(texts.table)
            places.append(found)
        start, end = lane.starts[round_ : round_ + 2].tolist()
        return _Round(epoch, round_, start, end, np.concatenate(places, 1).take(draws.order, 1), tables)

    def _order(self, epoch: int) -> EpochOrder:
        if epoch not in self._orders:
            while len(self._orders) > 1:
                del self._orders[next(iter(self._orders))]
            self._orders[epoch] = EpochOrder(self._group_rows, self._seed, epoch, self._window)
        return self._orders[epoch]
