"""Batches of text ids from lines of plain text: a function of (lines, seed, batch size, step) alone.

As those of a `TokenDataset`, with which it shares the parts that training on text asks for: rank r of w takes every
w-th row of a global batch. An epoch goes through all lines once: the chunks are permuted, and the lines of each few of
them are mixed, of which this process holds the bytes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from parti_data.caption_ids import CaptionTokenizer, TextReading, cut_padding
from parti_data.keyed_random import draw, permutation, stream_key, uniform
from parti_data.text_lines import Line, LineChunk, TextLines
from parti_data.token_rows import Share

_MIXED_CHUNKS = 16
_CHARACTERS_AN_ID = 4
"""About; a line of more than fill a row begins anywhere in it, so that all of it is learned in the end."""
_LONGEST_WORD = 64
"""Characters; where there is no space for so many, as in Chinese, a stretch begins at any character."""
_CHUNKS, _LINES, _STRETCH, _DROPOUT = 0, 1, 2, 3
"""What a stream of random numbers is for; of an epoch the first two, so that they are none of a step's in training."""


class LineBatch(NamedTuple):
    """One rank's slice of a global batch: B lines."""

    keys: list[str]
    """Where each line is."""
    text_ids: np.ndarray
    """uint16 (B, T), uint32 for vocabularies beyond 65,536; padded with PAD."""


class _Window(NamedTuple):
    """Some chunks of an epoch whose lines are mixed."""

    epoch: int
    number: int
    chunks: list[LineChunk]
    ends: np.ndarray
    """Lines up to the end of each of them."""
    order: np.ndarray

    def line(self, place: int) -> Line:
        """Return the line with a number in the order."""
        number = int(self.order[place])
        chunk = int(np.searchsorted(self.ends, number, "right"))
        return self.chunks[chunk].line(number - int(self.ends[chunk]) + len(self.chunks[chunk]))


class LineDataset:
    """A sequence of `LineBatch` without end; ask for the batch of any step."""

    def __init__(
        self, lines: TextLines, text: TextReading, batch_size: int, seed: int = 0, share: Share = Share()  # noqa: B008
    ):  # fmt: skip
        self._lines, self._text, self._seed, self._share = lines, text, seed, share
        self.batch_size = batch_size
        self._tokenizer = CaptionTokenizer(text)
        self.num_rows = int(lines.chunk_lines.sum())
        self._epoch: tuple[int, np.ndarray, np.ndarray] = -1, np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._window = _Window(-1, -1, [], np.zeros(0, np.int64), np.zeros(0, np.int64))

    def batch(self, step: int) -> LineBatch:
        """Return this rank's slice of global batch number `step`."""
        first = step * self.batch_size
        return self._gather(np.arange(first + self._share.residue, first + self.batch_size, self._share.modulus))

    def epoch(self, number: int) -> Iterator[LineBatch]:
        """Yield this rank's slices of the batches of one epoch alone, each line once, the last one short."""
        first = number * self.num_rows
        for start in range(first, first + self.num_rows, self.batch_size):
            stop = min(start + self.batch_size, first + self.num_rows)
            if len(mine := np.arange(start + self._share.residue, stop, self._share.modulus)):
                yield self._gather(mine)

    def _gather(self, positions: np.ndarray) -> LineBatch:
        """Return the lines at ascending positions."""
        lines = [self._line(*divmod(position, self.num_rows)) for position in positions.tolist()]
        luck = uniform(positions, stream_key(self._seed, _STRETCH))
        texts = [self._stretch(line.text, one) for line, one in zip(lines, luck.tolist(), strict=True)]
        ids = self._tokenizer.lines(texts, draw(positions, stream_key(self._seed, _DROPOUT)))
        return LineBatch([line.place for line in lines], cut_padding(ids, self._text))

    def _line(self, epoch: int, row: int) -> Line:
        """Return the line with a number in the order of an epoch."""
        if self._epoch[0] != epoch:
            chunks = permutation(len(self._lines.chunk_lines), stream_key(self._seed, epoch, _CHUNKS))
            self._epoch = epoch, chunks, np.cumsum(self._lines.chunk_lines[chunks])
        _, chunks, ends = self._epoch
        number = int(np.searchsorted(ends, row, "right")) // _MIXED_CHUNKS
        first = number * _MIXED_CHUNKS
        if self._window[:2] != (epoch, number):
            mixed = [self._lines.read(int(chunk)) for chunk in chunks[first : first + _MIXED_CHUNKS]]
            mixed_ends = np.cumsum([len(chunk) for chunk in mixed])
            order = permutation(int(mixed_ends[-1]), stream_key(self._seed, epoch, _LINES, number))
            self._window = _Window(epoch, number, mixed, mixed_ends, order)
        before = int(ends[first - 1]) if first else 0
        return self._window.line(row - before)

    def _stretch(self, text: str, luck: float) -> str:
        """Return as much of a line as fills a row, from a word on."""
        wanted = _CHARACTERS_AN_ID * self._text.length
        spare = len(text) - wanted
        if spare <= 0:
            return text
        start = int(luck * (spare + 1))
        first = max(start - _LONGEST_WORD, 0)
        space = text.rfind(" ", first, start)
        start = space + 1 if space >= 0 or not first else start
        return text[start : start + _CHARACTERS_AN_ID * wanted]
