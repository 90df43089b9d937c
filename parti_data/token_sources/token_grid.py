"""Strangers' tokens brought to one form: uint32 (views, I), of one grid and one codebook, or the reason why not."""

import hashlib
from typing import NamedTuple

import numpy as np

from parti_data.token_sources.tokenized import NEGATIVE, NOT_INTEGERS, OUTSIDE_CODEBOOK, WRONG_SHAPE, Fault
from parti_data.views import MOST_VIEWS

_KEY_HEX_DIGITS = 32


class TokenGrid(NamedTuple):
    """What the tokens of every image should be."""

    codebook_size: int
    grid_side: int
    num_quantizers: int = 1

    @property
    def num_tokens(self) -> int:
        """Tokens of a view."""
        return self.grid_side**2 * self.num_quantizers

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes that the tokens of one view may have, all in raster order."""
        side, each = self.grid_side, self.num_quantizers
        plane = [(side, side)] if each == 1 else []
        return [(self.num_tokens,), *plane, (side, side, each), (side**2, each)]


def to_views(tokens: np.ndarray, grid: TokenGrid) -> np.ndarray | Fault:
    """Return an image's tokens as uint32 (views, I).

    (I,) and (h, w) are one view; with more dimensions before them, as (1, views, I), those count the views.
    """
    if tokens.dtype.kind not in "iu":
        return Fault(NOT_INTEGERS, f"tokens of type {tokens.dtype}")
    fits = any(tokens.shape[-len(shape) :] == shape for shape in grid.shapes())
    if not fits or not 0 < tokens.size <= MOST_VIEWS * grid.num_tokens:
        return Fault(WRONG_SHAPE, f"tokens of shape {tokens.shape}")
    if (lowest := int(tokens.min())) < 0:
        return Fault(NEGATIVE, f"code {lowest}")
    if (highest := int(tokens.max())) >= grid.codebook_size:
        return Fault(OUTSIDE_CODEBOOK, f"code {highest}")
    return tokens.reshape(-1, grid.num_tokens).astype(np.uint32)


def tokens_key(tokens: np.ndarray) -> str:
    """Return the key of an image that is known by the tokens (I,) of its first view alone.

    The first 128 bits, in hex, of the SHA-256 over the tokens as little-endian uint32: where there is an image, its key
    is that of its bytes, so the two kinds never meet. Images with equal tokens have equal keys.
    """
    return hashlib.sha256(tokens.astype("<u4").tobytes()).hexdigest()[:_KEY_HEX_DIGITS]
