"""Which positions a position sees: boolean arrays, True where the query of a row may look at the key of a column. Over
a grid in raster order (I, I), and over a stream of text and then a grid (T + I, T + I). All are causal, and a position
sees itself.

Source: DALL-E, arXiv 2102.12092v2, appendix B.1 and figure 11.
"""

from typing import Literal

import numpy as np

MaskKind = Literal["dense", "conv", "row", "column"]


def make_mask(kind: MaskKind, grid_side: int, kernel_side: int) -> np.ndarray:
    """Return the mask of a kind; only `conv` has a kernel."""
    if kind == "conv":
        return conv_mask(grid_side, kernel_side)
    return {"dense": dense_mask, "row": row_mask, "column": column_mask}[kind](grid_side)


def dense_mask(grid_side: int) -> np.ndarray:
    """Return the mask under which a position sees all before it."""
    return np.tri(grid_side**2, dtype=bool)


def conv_mask(grid_side: int, kernel_side: int) -> np.ndarray:
    """Return the mask under which a position sees what of a square around it comes before it.

    The square ends at the grid's edges, as in ru-dalle: where the paper speaks of wraparound, the pixels of the other
    edge would count as neighbours.
    """
    places = np.arange(grid_side)
    is_near = abs(places[:, None] - places) <= kernel_side // 2
    return np.kron(is_near, is_near) & dense_mask(grid_side)


def row_mask(grid_side: int) -> np.ndarray:
    """Return the mask under which a position sees those before it, back to the one above it."""
    return dense_mask(grid_side) & ~np.tri(grid_side**2, k=-grid_side - 1, dtype=bool)


def column_mask(grid_side: int) -> np.ndarray:
    """Return the mask under which a position sees all above it."""
    columns = np.arange(grid_side**2) % grid_side
    return dense_mask(grid_side) & (columns[:, None] == columns)


def stream_mask(image_mask: np.ndarray, num_prefix: int) -> np.ndarray:
    """Return the mask (P + I, P + I) of an image behind so many positions, which are causal and which it sees all."""
    length = num_prefix + len(image_mask)
    allowed = np.tri(length, dtype=bool)
    allowed[num_prefix:, num_prefix:] = image_mask
    return allowed


def layer_masks(num_layers: int) -> list[MaskKind]:
    """Return the kind of each layer's mask: the last is `conv`, every fourth from the second `column`, all else `row`.

    So the paper says of its 64 layers, and so it is at every depth here. In ru-dalle `column` goes before `conv`: of 62
    layers, the last of which is a fourth from the second, none is `conv` there.
    """
    kinds: list[MaskKind] = ["column" if layer % 4 == 1 else "row" for layer in range(num_layers)]
    return [*kinds[:-1], "conv"]


def column_order(grid_side: int) -> np.ndarray:
    """Return the positions of a grid column by column, int64 (I,): those that see one another stand side by side."""
    return np.arange(grid_side**2).reshape(grid_side, grid_side).T.flatten()
