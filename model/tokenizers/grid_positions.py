"""How a transformer over a grid of patches is told where each patch lies."""

from typing import Literal

import torch
from torch import Tensor, nn

from model.rotary import RotaryPositions, Rotation, rotation_2d

PositionKind = Literal["learned", "sincos", "rotary"]
_BASE = 10_000.0


class GridPositions(nn.Module):
    """Learned: a table added to the patches, as in ViT. Sin-cos: a fixed one. Rotary: queries and keys are turned."""

    def __init__(self, kind: PositionKind, grid_side: int, width: int, num_heads: int):
        super().__init__()
        self.num_positions = grid_side**2
        self.table: Tensor | None
        if kind == "learned":
            self.table = nn.Parameter(torch.zeros(self.num_positions, width))  # drawn by model.layers.initialise
        else:
            fixed = sincos_2d(grid_side, width) if kind == "sincos" else None
            self.register_buffer("table", fixed, persistent=False)
        self.rotary = RotaryPositions(rotation_2d(grid_side, width // num_heads)) if kind == "rotary" else None

    def add_to(self, x: Tensor) -> Tensor:
        """Return patches (B, I, D) with their positions added, where they are added."""
        return x if self.table is None else x + self.table

    def rotation(self) -> Rotation | None:
        """Return by what queries and keys are turned, where they are."""
        return self.rotary(0, self.num_positions) if self.rotary else None


def sincos_2d(grid_side: int, width: int) -> Tensor:
    """Return fixed positions (I, D) of a grid in raster order: half of the channels for the column, half for the row;
    in each half the sines, then the cosines.

    Source: MAE, arXiv 2111.06377, in the order of its code, which enhancing-transformers' ViT-VQGAN uses too.
    """
    frequencies = _BASE ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(grid_side, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], -1)
    return torch.cat([axis.repeat(grid_side, 1), axis.repeat_interleave(grid_side, 0)], -1).float()
