"""What a pixel value is to an encoder: exactly the float that each project computes for it.

A table of 256, made on the CPU: two projects that mean the same differ in the last bit of some values, and a GPU
divides by multiplying.
"""

from typing import Literal

import torch
from torch import Tensor

Scale = Literal["unit", "symmetric", "symmetric_float64", "dalle"]
"""unit: ToTensor; symmetric: ToTensor, then Normalize(.5, .5); symmetric_float64: u8 / 127.5 - 1 in float64, as taming
does, while in float32, as iGPT does, it is what symmetric is; dalle: ToTensor, then 0.8 x + 0.1."""
RANGES = {
    "unit": (0.0, 1.0),
    "symmetric": (-1.0, 1.0),
    "symmetric_float64": (-1.0, 1.0),
    "dalle": (0.1, 0.9),
}
_DALLE_MARGIN = 0.1
"""Source: DALL-E, arXiv 2102.12092v2, appendix A.3."""


def to_pixels(images: Tensor, scale: Scale) -> Tensor:
    """Return float32 (B, C, S, S) for images uint8 (B, S, S, C)."""
    return _table(scale).to(images.device)[images.int()].permute(0, 3, 1, 2).contiguous()


def from_pixels(pixels: Tensor, scale: Scale) -> Tensor:
    """Return images (B, S, S, C) in [0, 1], or a little outside, for what a decoder gives, (B, C, S, S)."""
    low, high = RANGES[scale]
    return ((pixels - low) / (high - low)).permute(0, 2, 3, 1)


def _table(scale: Scale) -> Tensor:
    """Return the float32 of each of the 256 values."""
    if scale == "symmetric_float64":
        return (torch.arange(256, dtype=torch.float64) / 127.5 - 1).float()
    unit = torch.arange(256, dtype=torch.float32) / 255
    if scale == "symmetric":
        return (unit - 0.5) / 0.5
    return (1 - 2 * _DALLE_MARGIN) * unit + _DALLE_MARGIN if scale == "dalle" else unit
