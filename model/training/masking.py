"""Which ids of a text are hidden from an encoder that learns to tell them, and what it reads in their places.

Source: BERT, arXiv 1810.04805, section 3.1 and appendix A.1. Of a text's ids 15% are to be told, of a short text one at
least, as BERT's code does; of those 80% are masked, 10% replaced by any piece, 10% left. Here each choice is a function
of the key of a step, the row's place in the global batch and the id's place in the row.
"""

from typing import NamedTuple

import numpy as np

from parti_data.keyed_random import stream_key, uniform
from parti_data.text import END, PAD, UNKNOWN

CHOSEN_SHARE, MASKED_SHARE, REPLACED_SHARE = 0.15, 0.8, 0.1
_PLACE, _FATE, _PIECE = 0, 1, 2
"""What a stream of random numbers is for."""
_ROW = 1 << 16
"""Places of a row, more than a text has ids, so that no number is used twice."""


class Masked(NamedTuple):
    """What an encoder reads, and what it is to tell, all (B, T)."""

    read_ids: np.ndarray
    """As the text ids, some replaced."""
    is_masked: np.ndarray
    """bool, True where the mask is read in place of the id."""
    is_chosen: np.ndarray
    """bool, True where the id is to be told."""


def mask_text(text_ids: np.ndarray, rows: np.ndarray, vocabulary_size: int, key: np.uint64) -> Masked:
    """Return what is read of text ids (B, T), of rows with these numbers (B); END and PAD are never chosen."""
    numbers = rows.astype(np.int64)[:, None] * _ROW + np.arange(text_ids.shape[1])
    luck = np.where((text_ids == PAD) | (text_ids == END), np.inf, uniform(numbers, stream_key(int(key), _PLACE)))
    counts = np.isfinite(luck).sum(1)
    wanted = np.minimum(np.maximum(np.rint(CHOSEN_SHARE * counts), 1), counts)
    is_chosen = luck.argsort(1, kind="stable").argsort(1, kind="stable") < wanted[:, None]
    fate = uniform(numbers, stream_key(int(key), _FATE))
    is_replaced = is_chosen & (fate >= MASKED_SHARE) & (fate < MASKED_SHARE + REPLACED_SHARE)
    first = max(PAD, UNKNOWN, END) + 1
    pieces = first + (uniform(numbers, stream_key(int(key), _PIECE)) * (vocabulary_size - first)).astype(np.int64)
    read_ids = np.where(is_replaced, pieces, text_ids).astype(text_ids.dtype)
    return Masked(read_ids, is_chosen & (fate < MASKED_SHARE), is_chosen)
