"""Batches of text ids and image tokens from token shards: a function of (dataset, seed, batch size, step) alone.

Global batch number `step` takes the positions from step * batch_size on of an endless sequence that goes through all
rows once an epoch, in an order of its own each; rank r of w takes every w-th of them, from the r-th on. So the batches
are the same for any number of ranks and threads, and resuming is starting at a step.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from parti_data.caption_ids import CaptionChoice, CaptionTokenizer, TextReading, cut_padding
from parti_data.errors import ShardError
from parti_data.keyed_random import draw, stream_key
from parti_data.mixture import BLOCK, Mixture
from parti_data.row_groups import CAPTION, RowSlots
from parti_data.row_texts import TextPlaces, Texts
from parti_data.storage import digest_json
from parti_data.token_directory import TokenDirectory, open_token_directory
from parti_data.token_rows import Drawn, ShardReading, Share, TokenRows

ORDER = 3
"""The version of the order of rows; a state of another one is refused."""
Exhausted = Literal["repeat", "stop_at_first", "stop_at_last"]
_CAPTION, _DROPOUT, _SOURCE = 1, 2, 3
"""What a stream of random numbers is for."""


class TokenBatch(NamedTuple):
    """One rank's slice of a global batch: B rows."""

    step: int
    keys: Texts
    views: np.ndarray
    """int32 (B,)."""
    flipped: np.ndarray
    """bool (B,)."""
    boxes: np.ndarray
    """int32 (B, 4): x, y, width, height in source pixels."""
    captions: Texts
    """The one of each row that was taken."""
    text_ids: np.ndarray
    """uint16 (B, T), uint32 for vocabularies beyond 65,536; padded with PAD."""
    text_lengths: np.ndarray
    """int32 (B,): ids before padding."""
    num_cut: int
    """Rows whose caption had more ids than T may be."""
    image_tokens: np.ndarray
    """uint16 (B, I), uint32 for codebooks beyond 65,536."""
    sources: Texts
    source_keys: Texts


class TokenDataset:
    """A sequence of `TokenBatch`; iterate, or ask for the batch of any step.

    `source` is a finished directory of token shards, or several with their weights. Without end unless `exhausted` says
    otherwise: then up to the last whole batch before a source begins anew ("stop_at_first"), or to the one in which the
    last source has been seen whole ("stop_at_last").
    """

    def __init__(
        self,
        source: str | Mapping[str, float],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        *,
        text: TextReading = TextReading(),  # noqa: B008
        reading: ShardReading = ShardReading(),  # noqa: B008
        exhausted: Exhausted = "repeat",
    ):
        weights = {source: 1.0} if isinstance(source, str) else dict(source)
        self.path = " + ".join(weights)
        if exhausted not in get_args(Exhausted):
            raise ShardError(f"{self.path}: expected for exhausted one of {get_args(Exhausted)}, found {exhausted!r}")
        if min(batch_size, world_size) < 1 or batch_size % world_size or not 0 <= rank < world_size:
            raise ShardError(
                f"{self.path}: expected a batch size that {world_size} ranks share evenly and a rank below that, found "
                f"{batch_size} and {rank}; change batch_size"
            )
        self.batch_size, self.seed = batch_size, seed
        self._share, self._text, self._reading, self._exhausted = Share(rank, world_size), text, reading, exhausted
        self._mixture = Mixture(weights, seed)
        self.directories = [open_token_directory(path) for path in weights]
        refuse_unlike(self.directories, text)
        self.digest = self.directories[0].digest
        if len(weights) > 1:
            self.digest = digest_json([[found.digest, weights[found.path]] for found in self.directories])
        self.metadata = self.directories[0].metadata
        """Of all shards; but for the digests of config and input, where there are several sources."""
        self._tokenizer = CaptionTokenizer(text) if text.tokenizer else None
        self.step = 0
        """The batch with which iteration goes on."""
        self.skipped_rows = 0
        """Rows of bad shards whose places others have taken, where they are skipped."""
        for directory in self.directories:
            if not directory.num_rows:
                raise ShardError(f"{directory.path}: expected rows, found empty shards; check what filter kept")
        self._opened = self._open()

    @property
    def num_rows(self) -> int:
        """Rows of all sources."""
        return sum(directory.num_rows for directory in self.directories)

    @property
    def text_vocabulary_size(self) -> int:
        """Pieces of the tokenizer that gives the text ids."""
        return self._tokenizer.vocabulary_size if self._tokenizer else self.metadata.text_vocabulary_size

    @property
    def text_tokenizer(self) -> str:
        """The fingerprint of that tokenizer."""
        return self._tokenizer.fingerprint if self._tokenizer else self.metadata.text_tokenizer

    @property
    def skipped(self) -> dict[str, str]:
        """The shards that could not be read so far, and why."""
        return {path: why for rows in self._opened.rows for path, why in rows.skipped.items()}

    @property
    def num_steps(self) -> int | None:
        """Batches up to the end; None where there is none."""
        if self._exhausted == "repeat":
            return None
        ends = [self._mixture.first_beyond(n, found.num_rows - 1) + 1 for n, found in enumerate(self.directories)]
        if self._exhausted == "stop_at_last":
            return -(-max(ends) // self.batch_size)
        anew = [self._mixture.first_beyond(n, found.num_rows) for n, found in enumerate(self.directories)]
        return min(anew) // self.batch_size

    def __len__(self) -> int:
        """Return the number of batches up to the end, or of an epoch of all rows where there is none."""
        return -(-self.num_rows // self.batch_size) if self.num_steps is None else self.num_steps

    def __iter__(self) -> Iterator[TokenBatch]:
        """Yield batches from the current step on."""
        num_steps = self.num_steps
        while num_steps is None or self.step < num_steps:
            batch = self.batch(self.step)
            self.step += 1
            yield batch

    def __getitem__(self, step: int) -> TokenBatch:
        """Return this rank's slice of global batch number `step`, as torch's DataLoader asks for it."""
        return self.batch(step)

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration stands, for any number of ranks."""
        return {
            "step": self.step, "seed": self.seed, "batch_size": self.batch_size, "digest": self.digest, "order": ORDER
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state stood; raises ShardError where it belongs to other data, batch size or seed."""
        mine = self.state_dict()
        for name in ("digest", "batch_size", "seed", "order"):
            if state.get(name) != mine[name]:
                raise ShardError(
                    f"{self.path}: expected a state with {name} {mine[name]}, found {state.get(name)}; "
                    "resume with what the run was begun with"
                )
        if not isinstance(state.get("step"), int) or state["step"] < 0:
            raise ShardError(f"{self.path}: expected a state with a step from 0 on, found {state.get('step')!r}")
        self.step = state["step"]

    def batch(self, step: int) -> TokenBatch:
        """Return this rank's slice of global batch number `step`."""
        if step < 0:
            raise ShardError(f"{self.path}: expected a step from 0 on, found {step}")
        first = step * self.batch_size
        return self._gather(step, np.arange(first + self._share.residue, first + self.batch_size, self._share.modulus))

    def epoch(self, number: int) -> Iterator[TokenBatch]:
        """Yield the batches of one epoch alone, each row once, the last one short; of a mixture there are none."""
        if len(self.directories) > 1:
            raise ShardError(
                f"{self.path}: expected one source to go through once, found {len(self.directories)}; take each alone"
            )
        first = number * self.num_rows
        for step, start in enumerate(range(first, first + self.num_rows, self.batch_size)):
            stop = min(start + self.batch_size, first + self.num_rows)
            positions = np.arange(start, stop)
            mine = positions[positions % self._share.modulus == self._share.residue]
            if len(mine):
                yield self._gather(step, mine)

    def close(self) -> None:
        """Let go of threads and of what they have read; what is asked for next opens all anew."""
        for rows in self._opened.rows:
            rows.close()
        self._opened = self._opened._replace(process=0)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs, which opens the shards itself."""
        return self.__dict__ | {"_opened": _Opened(0, [], None)}

    def _open(self) -> "_Opened":
        share = self._share if len(self.directories) == 1 else Share()
        rows = [
            TokenRows(
                directory, self._key(_SOURCE, number), CaptionChoice(self._text, self._key(_CAPTION, number)),
                self._reading, share, count / BLOCK,
            )
            for number, (directory, count) in enumerate(
                zip(self.directories, self._mixture.counts.tolist(), strict=True)
            )
        ]  # fmt: skip
        return _Opened(os.getpid(), rows, threading.Lock())

    def _key(self, *names: int) -> int:
        return int(stream_key(self.seed, *names))

    def _gather(self, step: int, positions: np.ndarray) -> TokenBatch:
        """Return the rows at ascending positions."""
        if self._opened.process != os.getpid():  # threads and locks do not survive a fork
            self._opened = self._open()
        opened = self._opened
        rows = _Rows.make(len(positions), opened.rows[0].slots)
        missing: list[int] = []
        with opened.drawing:
            origins = self._mixture.origins(positions)
            for source, token_rows in enumerate(opened.rows):
                asked = np.flatnonzero(origins.sources == source)
                for drawn in token_rows.draw(origins.positions[asked]):
                    rows.take(asked[drawn.asked], drawn)
                    missing += asked[drawn.missing].tolist()
        if missing:
            rows.replace(np.array(missing), self.path)
            self.skipped_rows += len(missing)
        if self._tokenizer:
            luck = draw(positions, stream_key(self.seed, _DROPOUT))
            return rows.batch(step, self._text, self._tokenizer.lines(rows.texts.column(CAPTION), luck))
        return rows.batch(step, self._text, rows.lines)


class _Opened(NamedTuple):
    """What one process has open."""

    process: int
    rows: list[TokenRows]
    drawing: Any
    """The lock of whoever draws from them."""


class _Rows(NamedTuple):
    """The arrays of a batch while they are filled."""

    texts: TextPlaces
    image_tokens: np.ndarray
    numbers: np.ndarray
    lines: np.ndarray

    @classmethod
    def make(cls, size: int, slots: RowSlots) -> "_Rows":
        """Return arrays for so many rows, otherwise like those of the slots."""
        arrays = [np.empty((size, *array.shape[1:]), array.dtype) for array in slots]
        return cls(TextPlaces([], np.empty((size, 2), np.int64)), *arrays)

    def take(self, where: np.ndarray, drawn: Drawn) -> None:
        """Put the drawn rows where they belong."""
        addresses, tables, rows = drawn.places
        is_all = len(where) == len(self.lines)
        places = slice(None) if is_all else where
        self.texts.numbers[places, 0], self.texts.numbers[places, 1] = tables + len(self.texts.tables), rows
        self.texts.tables.extend(drawn.tables)
        for mine, theirs in zip(self[1:], drawn.slots, strict=True):
            if is_all:
                theirs.take(addresses, 0, mine, "clip")  # clip: without a copy
            else:
                mine[where] = theirs[addresses]

    def replace(self, missing: np.ndarray, path: str) -> None:
        """Put others of the rows where some are missing; raises ShardError where all are."""
        good = np.setdiff1d(np.arange(len(self.lines)), missing)
        if not len(good):
            raise ShardError(f"{path}: expected some rows of a batch that can be read, found none; run parti verify")
        others = np.resize(good, len(missing))
        for array in (self.texts.numbers, *self[1:]):
            array[missing] = array[others]

    def batch(self, step: int, text: TextReading, lines: np.ndarray) -> TokenBatch:
        """Return the batch; `lines` are its captions' ids, each with their number before them."""
        counts, text_of = lines[:, 0], self.texts.column
        return TokenBatch(
            step=step, keys=text_of("key"), views=self.numbers[:, 0], flipped=self.numbers[:, 1].astype(bool),
            boxes=self.numbers[:, 2:6], captions=text_of(CAPTION), text_ids=cut_padding(lines, text),
            text_lengths=np.minimum(counts, text.length, dtype=np.int32),
            num_cut=int(np.count_nonzero(counts > text.length)), image_tokens=self.image_tokens,
            sources=text_of("source"), source_keys=text_of("source_key"),
        )  # fmt: skip


def refuse_unlike(directories: list[TokenDirectory], text: TextReading) -> None:
    """Raise ShardError where not all directories' tokens are of one making; text ids may differ if not read."""
    fields = ("image_tokenizer", "codebook_size", "grid_side", "num_quantizers", "text_tokenizer")
    first = directories[0]
    for other in directories[1:]:
        for field in fields[: -1 if text.tokenizer else None]:
            mine, its = (str(getattr(found.metadata, field))[:12] for found in (first, other))
            if mine != its:
                raise ShardError(
                    f"{other.path}: expected {field} {mine} like {first.path}, found {its}; tokenize all data with one "
                    "tokenizer"
                )
