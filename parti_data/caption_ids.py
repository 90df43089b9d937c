"""From all captions of rows to one padded array of text ids: which caption is taken, and how it is cut."""

from typing import Annotated, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field, NonNegativeFloat, PositiveInt

from parti_data.config import StrictModel
from parti_data.text import END, PAD, TextTokenizer

_MAX_LENGTH = (1 << 16) - 1


class TextReading(StrictModel):
    """How the captions of a row become one line of text ids."""

    length: PositiveInt = Field(default=128, le=_MAX_LENGTH)
    """Ids of a line at most; a longer one is cut and ends with END all the same. Parti's 128."""
    pad_to: Literal["longest", "length"] = "longest"
    """How wide a batch is: as its longest line, or always `length`, for compiled networks."""
    caption_weights: tuple[NonNegativeFloat, ...] = ()
    """Of a row's first, second, … caption; the last weight also of all that follow. Equal where none is given."""
    tokenizer: str = ""
    """A SentencePiece model by which the captions are tokenized again; without, the ids are those of the shards."""
    bpe_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of merges that are left out at random, anew each epoch; with `tokenizer` alone. 0.1 in BPE-dropout.
    Source: Provilkov et al., BPE-Dropout (2020), section 5."""


class TextRows(NamedTuple):
    """All captions of some rows; those of row n stand from `starts[n]` to before `starts[n + 1]`."""

    starts: np.ndarray
    captions: np.ndarray
    """str (C,), of type object."""
    lines: np.ndarray
    """uint16 or uint32 (C, 1 + T): how many ids the caption has, then the first of them, padded."""


def text_rows(captions: pa.ListArray, text_ids: pa.ListArray, length: int) -> TextRows:
    """Return the captions of rows and their ids, cut to `length`; a row without a caption has an empty one."""
    starts = text_ids.offsets.to_numpy()
    lists = text_ids.values
    line_starts, ids = lists.offsets.to_numpy(), lists.values.to_numpy()
    lines = pad_lines(line_starts, ids, length)
    texts = captions.values.to_numpy(zero_copy_only=False)
    if (np.diff(starts) == 0).any():
        starts, texts, lines = _give_empty_captions(starts, texts, lines)
    return TextRows(starts, texts, lines)


def pad_lines(starts: np.ndarray, ids: np.ndarray, length: int) -> np.ndarray:
    """Return (C, 1 + T): of each line its number of ids, then its first T ids, padded with PAD.

    T is `length`, or the length of the longest line where that is less. What is cut ends with END.
    """
    counts = np.diff(starts)
    width = min(int(counts.max(initial=1)), length)
    columns = np.arange(width)
    filled = columns < counts[:, None]
    lines = np.full((len(counts), 1 + width), PAD, ids.dtype)
    lines[:, 0] = np.minimum(counts, _MAX_LENGTH)
    lines[:, 1:][filled] = ids[(starts[:-1, None] + columns)[filled]]
    lines[counts > length, width] = END
    return lines


def _give_empty_captions(starts: np.ndarray, texts: np.ndarray, lines: np.ndarray) -> tuple[np.ndarray, ...]:
    empty = np.flatnonzero(np.diff(starts) == 0)
    line = np.zeros(lines.shape[1], lines.dtype)
    line[:2] = 1, END
    where = starts[empty]
    counts = np.maximum(np.diff(starts), 1)
    return np.concatenate([[0], np.cumsum(counts)]), np.insert(texts, where, ""), np.insert(lines, where, line, 0)


def choose_captions(counts: np.ndarray, luck: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """Return which of its captions each row takes, int64 (B,); `luck` in [0, 1) decides by the weights.

    A row whose captions have no weight at all takes each of them as often.
    """
    if not weights:
        return (luck * counts).astype(np.int64)
    chosen = np.empty(len(counts), np.int64)
    for count in np.unique(counts).tolist():
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

    def lines(self, captions: list[str], numbers: np.ndarray) -> np.ndarray:
        """Return (C, 1 + T) as `pad_lines` does; `numbers`, uint64 (C,), decide what is left out of each caption."""
        if self._dropout:
            ids = [
                self._tokenizer.encode_with_dropout(caption, self._dropout, int(number))
                for caption, number in zip(captions, numbers, strict=True)
            ]
        else:
            ids = [self._tokenizer.encode(caption) for caption in captions]
        starts = np.concatenate([[0], np.cumsum([len(line) for line in ids])])
        kind = np.uint16 if self.vocabulary_size <= 1 << 16 else np.uint32
        return pad_lines(starts, np.concatenate([np.array(line, kind) for line in ids]), self._length)
