"""From all captions of rows to one padded array of text ids: which caption is taken, and how it is cut."""

from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from parti_data.arrow_numbers import array_of, numbers_of
from parti_data.config import StrictModel
from parti_data.keyed_random import stream_key, uniform
from parti_data.text import END, PAD, TextTokenizer

_MAX_LENGTH = (1 << 16) - 1
_NO_TEXT = pa.StringArray.from_buffers(1, pa.py_buffer(bytes(8)), pa.py_buffer(b""))[0]
"""The empty text as Arrow's; `pyarrow.scalar` would import pandas."""


class TextReading(StrictModel):
    """How the captions of a row become one line of text ids."""

    length: PositiveInt = Field(default=128, le=_MAX_LENGTH)
    """Ids of a line at most; a longer one is cut and ends with END all the same. Parti's 128."""
    pad_to: Literal["longest", "length"] = "longest"
    """How wide a batch is: as its longest line, or always `length`, for compiled networks."""
    caption_weights: Annotated[tuple[NonNegativeFloat, ...], Field(strict=False)] = ()  # a list in TOML
    """Of a row's first, second, … caption; the last weight also of all that follow. Equal where none is given."""
    tokenizer: str = ""
    """A SentencePiece model by which the captions are tokenized again; without, the ids are those of the shards."""
    bpe_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of merges that are left out at random, anew each epoch; with `tokenizer` alone. 0.1 in BPE-dropout.
    Source: Provilkov et al., BPE-Dropout (2020), section 5."""

    @model_validator(mode="after")
    def _refuse_dropout_of_ids(self) -> Self:
        if self.bpe_dropout and not self.tokenizer:
            raise ValueError("bpe_dropout goes with tokenizer: ids of the shards are whole")
        return self


class ChosenText(NamedTuple):
    """One caption of each of some rows."""

    captions: pa.StringArray
    lines: np.ndarray
    """uint16 or uint32 (N, 1 + T): how many ids the caption has, then the first of them, padded."""


class CaptionChoice:
    """Takes one caption of each row: a function of the key, the epoch and the row's number."""

    def __init__(self, text: TextReading, key: int):
        self.length, self._weights, self._key = text.length, text.caption_weights, key

    def choose(self, captions: pa.ListArray, text_ids: pa.ListArray, epoch: int, first: int) -> ChosenText:
        """Return a caption of each row, of which the first has this number; a row without one has an empty one."""
        starts = numbers_of(text_ids.offsets)
        counts = np.diff(starts)
        luck = uniform(np.arange(first, first + len(counts)), stream_key(self._key, epoch))
        chosen = starts[:-1] + choose_captions(counts, luck, self._weights)
        bare = counts == 0
        chosen[bare] = 0
        texts = pc.take(captions.values, array_of(chosen, bare))
        if texts.null_count:
            texts = pc.fill_null(texts, _NO_TEXT)
        lists = text_ids.values
        line_starts = numbers_of(lists.offsets)
        if not len(lists):
            line_starts = np.zeros(2, line_starts.dtype)
        sizes = np.where(bare, 0, line_starts[chosen + 1] - line_starts[chosen])
        return ChosenText(texts, pad_lines(line_starts[chosen], sizes, numbers_of(lists.values), self.length))


def pad_lines(starts: np.ndarray, sizes: np.ndarray, ids: np.ndarray, length: int) -> np.ndarray:
    """Return (N, 1 + length): of each line its number of ids, then the first of them, padded with PAD.

    What is cut ends with END; a line without ids is END alone, which stands for no text.
    """
    kept = np.minimum(sizes, length)
    lines = np.full((len(starts), 1 + length), PAD, ids.dtype)
    lines[:, 0] = np.minimum(sizes, _MAX_LENGTH)
    skipped = starts - (np.cumsum(kept) - kept)  # how many ids before each line are in none
    if (skipped == skipped[:1]).all():
        ids = ids[skipped[:1].sum() :][: kept.sum()]
    else:
        ids = ids[np.repeat(skipped, kept) + np.arange(kept.sum())]
    widest = int(kept.max(initial=0))
    lines[:, 1 : 1 + widest][np.tri(widest + 1, widest, -1, bool)[kept]] = ids
    lines[sizes > length, length] = END
    lines[sizes == 0, :2] = 1, END
    return lines


def cut_padding(lines: np.ndarray, text: TextReading) -> np.ndarray:
    """Return the ids (C, T) alone of such lines, as wide as the longest of them or as the reading says."""
    width = text.length if text.pad_to == "length" else max(min(int(lines[:, 0].max()), text.length), 1)
    return lines[:, 1 : 1 + width].copy()


def choose_captions(counts: np.ndarray, luck: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """Return which of its captions each row takes, int64 (B,); `luck` in [0, 1) decides by the weights.

    A row whose captions have no weight at all takes each of them as often; one that has none is given 0.
    """
    if not weights:
        return (luck * counts).astype(np.int64)
    chosen = np.zeros(len(counts), np.int64)
    for count in np.unique(counts[counts > 0]).tolist():
        given = np.array([*weights[:count], *weights[-1:] * (count - len(weights))], np.float64)
        ends = np.cumsum(given if given.any() else np.ones(count))
        rows = counts == count
        chosen[rows] = np.searchsorted(ends, luck[rows] * ends[-1], "right")
    return chosen


class CaptionTokenizer:
    """Captions tokenized again, with BPE dropout where it is asked for: a function of the caption and its number."""

    def __init__(self, text: TextReading):
        self._tokenizer = TextTokenizer(text.tokenizer)
        self._dropout, self._length = text.bpe_dropout, text.length
        self.vocabulary_size, self.fingerprint = self._tokenizer.vocabulary_size, self._tokenizer.fingerprint

    def lines(self, captions: Iterable[str], numbers: np.ndarray) -> np.ndarray:
        """Return (C, 1 + T) as `pad_lines` does; `numbers`, uint64 (C,), decide what is left out of each caption."""
        if self._dropout:
            ids = [
                self._tokenizer.encode_with_dropout(caption, self._dropout, int(number))
                for caption, number in zip(captions, numbers, strict=True)
            ]
        else:
            ids = [self._tokenizer.encode(caption) for caption in captions]
        kind = np.uint16 if self.vocabulary_size <= 1 << 16 else np.uint32
        sizes = np.array([len(line) for line in ids])
        return pad_lines(
            np.cumsum(sizes) - sizes, sizes, np.concatenate([np.array(line, kind) for line in ids]), self._length
        )
