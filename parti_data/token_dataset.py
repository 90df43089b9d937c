"""Batches of text ids and image tokens from token shards: a function of (dataset, seed, step) alone.

Row groups are permuted anew each epoch; the rows of a few neighbouring groups, a window, are then permuted together.
Global batch number `step` takes the positions from step * batch_size on of the endless sequence of epochs, and each
rank its slice of them, so the order is the same for any number of ranks, and resuming is starting at a step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from parti_data.errors import ShardError
from parti_data.manifest import manifest_digest, read_manifest
from parti_data.storage import join
from parti_data.text import PAD
from parti_data.token_shard import ShardMetadata, read_metadata, read_row_group, token_matrix

WINDOW_ROW_GROUPS = 8
"""Row groups whose rows are shuffled together."""
_COLUMNS = ["key", "text_ids", "image_tokens"]


@dataclass(frozen=True)
class TokenBatch:
    """One rank's slice of a global batch."""

    step: int
    keys: list[str]
    text_ids: np.ndarray
    """int64 (B, T), padded with PAD, cut at the dataset's text length."""
    image_tokens: np.ndarray
    """int64 (B, I)."""


class _Group(NamedTuple):
    path: str
    number: int
    rows: int


class _Window(NamedTuple):
    """Rows of some neighbouring row groups in their order of the epoch."""

    epoch: int
    number: int
    keys: list[str]
    text_ids: np.ndarray
    image_tokens: np.ndarray


class TokenDataset:
    """An endless sequence of `TokenBatch`; iterate, or ask for the batch of any step."""

    def __init__(
        self,
        path: str,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        text_length: int = 128,
    ):
        if batch_size % world_size or not 0 <= rank < world_size:
            raise ShardError(
                f"{path}: expected a batch size that {world_size} ranks share evenly and a rank below that, found "
                f"{batch_size} and {rank}; change batch_size"
            )
        self.path, self.batch_size, self.seed, self.text_length = path, batch_size, seed, text_length
        self._rank, self._world_size, self._step = rank, world_size, 0
        read_manifest(path, ("tokenize",))
        self.digest = manifest_digest(path)
        self.metadata, self._groups = _open_shards(path)
        self.num_rows = sum(group.rows for group in self._groups)
        if not self.num_rows:
            raise ShardError(f"{path}: expected rows, found empty shards; check what filter kept")
        self._windows: dict[tuple[int, int], _Window] = {}

    def __iter__(self) -> Iterator[TokenBatch]:
        """Yield batches from the current step on, without end."""
        while True:
            batch = self.batch(self._step)
            self._step += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration stands, for any number of ranks."""
        return {"step": self._step, "seed": self.seed, "batch_size": self.batch_size, "digest": self.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state stood; raises ShardError where it belongs to other data, batch size or seed."""
        mine = self.state_dict()
        for name in ("digest", "batch_size", "seed"):
            if state[name] != mine[name]:
                raise ShardError(
                    f"{self.path}: expected a state with {name} {mine[name]}, found {state[name]}; "
                    "resume with what the run was begun with"
                )
        self._step = state["step"]

    def batch(self, step: int) -> TokenBatch:
        """Return this rank's slice of global batch number `step`."""
        slice_size = self.batch_size // self._world_size
        first = step * self.batch_size + self._rank * slice_size
        parts = list(self._rows(first, slice_size))
        text_ids = np.concatenate([window.text_ids[rows] for window, rows in parts])
        longest = max(int((text_ids != PAD).sum(1).max()), 1)
        return TokenBatch(
            step,
            [window.keys[row] for window, rows in parts for row in rows],
            text_ids[:, :longest].astype(np.int64),
            np.concatenate([window.image_tokens[rows] for window, rows in parts]).astype(np.int64),
        )

    def _rows(self, first: int, count: int) -> Iterator[tuple[_Window, range]]:
        """Yield the windows that hold positions `first` to `first + count`, and which of their rows."""
        while count:
            epoch, position = divmod(first, self.num_rows)
            order = self._rng(epoch).permutation(len(self._groups))
            rows = np.array([self._groups[group].rows for group in order])
            ends = np.cumsum(np.add.reduceat(rows, np.arange(0, len(rows), WINDOW_ROW_GROUPS)))
            number = int(np.searchsorted(ends, position, side="right"))
            start = position - int(ends[number - 1] if number else 0)
            taken = min(count, int(ends[number]) - position)
            groups = order[number * WINDOW_ROW_GROUPS : (number + 1) * WINDOW_ROW_GROUPS]
            yield self._window(epoch, number, groups), range(start, start + taken)
            first, count = first + taken, count - taken

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])

    def _window(self, epoch: int, number: int, groups: np.ndarray) -> _Window:
        if (epoch, number) not in self._windows:
            while len(self._windows) > 1:  # a batch touches two neighbours at most
                self._windows.pop(min(self._windows))
            self._windows[epoch, number] = self._load(epoch, number, groups)
        return self._windows[epoch, number]

    def _load(self, epoch: int, number: int, groups: np.ndarray) -> _Window:
        chosen = [self._groups[group] for group in groups]
        table = pa.concat_tables([read_row_group(group.path, group.number, _COLUMNS) for group in chosen])
        rng = self._rng(epoch, number, 1)
        order, luck = rng.permutation(len(table)), rng.random(len(table))
        text_ids = _pick_captions(table.column("text_ids").combine_chunks(), luck, self.text_length)
        keys = table.column("key").to_pylist()
        return _Window(epoch, number, [keys[row] for row in order], text_ids[order], token_matrix(table)[order])


def _open_shards(path: str) -> tuple[ShardMetadata, list[_Group]]:
    """Return the metadata that all shards share and their row groups; raises ShardError where they differ."""
    shards = [join(path, shard.name) for shard in read_manifest(path).shards]
    opened = [read_metadata(shard) for shard in shards]
    first = opened[0][0]
    for shard, (metadata, _) in zip(shards, opened, strict=True):
        for field in ("image_tokenizer", "text_tokenizer"):
            if getattr(metadata, field) != getattr(first, field):
                raise ShardError(
                    f"{shard}: expected {field} {getattr(first, field)[:12]} like {shards[0]}, found "
                    f"{getattr(metadata, field)[:12]}; tokenize all data with one tokenizer"
                )
    groups = [_Group(s, n, r) for s, (_, rows) in zip(shards, opened, strict=True) for n, r in enumerate(rows) if r]
    return first, groups


def _pick_captions(text_ids: pa.Array, luck: np.ndarray, length: int) -> np.ndarray:
    """Return one caption's ids for each row, (rows, length), padded; `luck` in [0, 1) picks which."""
    caption_starts = text_ids.offsets.to_numpy()
    captions = text_ids.values
    starts, ids = captions.offsets.to_numpy(), captions.values.to_numpy()
    counts = np.diff(caption_starts)
    chosen = caption_starts[:-1] + (luck * counts).astype(np.int64)
    lengths = np.minimum(starts[chosen + 1] - starts[chosen], length)
    columns = np.arange(length)
    filled = columns < lengths[:, None]
    picked = np.full(filled.shape, PAD, ids.dtype)
    picked[filled] = ids[(starts[chosen][:, None] + columns)[filled]]
    return picked
