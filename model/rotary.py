"""Rotary positions: queries and keys turned by where they are, so that attention depends on how far apart they are.

Source: RoFormer, arXiv 2104.09864.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Rotation(NamedTuple):
    """Cosines and sines (N, D/H) by which queries and keys at N positions are turned."""

    cos: Tensor
    sin: Tensor  # negative where a channel's partner is taken away


class RotaryPositions(nn.Module):
    """Holds a rotation where the network is, apart from its weights."""

    cos: Tensor
    sin: Tensor

    def __init__(self, rotation: Rotation):
        super().__init__()
        self.register_buffer("cos", rotation.cos, persistent=False)
        self.register_buffer("sin", rotation.sin, persistent=False)

    def forward(self, start: int, end: int) -> Rotation:
        """Return the rotation of some neighbouring positions."""
        return Rotation(self.cos[start:end], self.sin[start:end])

    def at(self, positions: Tensor) -> Rotation:
        """Return the rotation of positions int64 (N)."""
        return Rotation(self.cos[positions], self.sin[positions])


def rotation_2d(grid_side: int, head_width: int, base: float = 100.0) -> Rotation:
    """Return rotary positions of a grid in raster order: the first half of a head turns by the row, the second by the
    column, so that attention depends on how far two patches are apart, wherever they lie.

    The split of axes is that of LlamaGen. The base is small because a grid is short.
    """
    frequencies = base ** -(torch.arange(head_width // 4) / (head_width // 4))
    places = torch.arange(grid_side, dtype=torch.float32)[:, None] * frequencies
    rows, columns = places.repeat_interleave(grid_side, 0), places.repeat(grid_side, 1)
    return _rotation(rows, columns)


def rotation_1d(length: int, head_width: int, base: float = 100.0) -> Rotation:
    """Return rotary positions of a sequence. The base is small because a caption is short."""
    frequencies = base ** -(torch.arange(head_width // 2) / (head_width // 2))
    fast, slow = (torch.arange(length, dtype=torch.float32)[:, None] * frequencies).chunk(2, -1)
    return _rotation(fast, slow)


def _rotation(first: Tensor, second: Tensor) -> Rotation:
    """Return the rotation of channel pairs in the two halves of a head by their angles (N, D/H/4) each."""
    angles = torch.cat([first, first, second, second], dim=-1)
    signs = torch.tensor([-1.0, 1, -1, 1]).repeat_interleave(first.shape[-1])
    return Rotation(angles.cos(), angles.sin() * signs)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Return queries or keys (B, H, N, D/H) turned by their positions.

    The first quarter of a head is paired with the second, the third with the fourth.
    """
    swapped = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return x * rotation.cos.to(x.dtype) + swapped * rotation.sin.to(x.dtype)
