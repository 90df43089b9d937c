"""Which image positions an image position sees: boolean arrays (I, I) over a grid in raster order, True where the query
of a row may look at the key of a column. All are causal, and a position sees itself.

Source: DALL-E, arXiv 2102.12092v2, appendix B.1 and figure 11. Text, which every position sees, is no part of them.
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
    reach = kernel_side // 2
    rows, columns = np.divmod(np.arange(grid_side**2), grid_side)
    is_near = (abs(rows[:, None] - rows) <= reach) & (abs(columns[:, None] - columns) <= reach)
    return is_near & dense_mask(grid_side)


def row_mask(grid_side: int) -> np.ndarray:
    """Return the mask under which a position sees those before it, back to the one above it."""
    return dense_mask(grid_side) & ~np.tri(grid_side**2, k=-grid_side - 1, dtype=bool)


def column_mask(grid_side: int) -> np.ndarray:
    """Return the mask under which a position sees all above it."""
    columns = np.arange(grid_side**2) % grid_side
    return dense_mask(grid_side) & (columns[:, None] == columns)
