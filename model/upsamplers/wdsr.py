"""The upsampler: residual convolutions with wide activations, and a pixel shuffle for each doubling of the side.

Source: Parti, arXiv 2206.10789v1, section 2.1 and figure 4: 12 residual blocks of 128 channels as WDSR has them, about
15M parameters for 512 px and about 30M for 1,024 px. The block is WDSR-A of arXiv 1808.08718, section 3.1.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from model.shapes import refuse_below
from parti_data.errors import ConfigError

SCALES = (2, 4, 8)
_MIDDLE = 0.5
"""Of the colours: convolutions pad with zeros, which is to be grey and not black."""


@dataclass(frozen=True)
class WDSRShape:
    """The architecture; the defaults are the paper's for 512 px, and with `scale` 4 for 1,024 px."""

    scale: int = 2
    """The large side, in small sides."""
    num_blocks: int = 12
    """For each doubling of the side."""
    width: int = 128
    expansion: int = 4
    """Channels inside a block, in widths. Parti states none: 4 is WDSR-A's, and gives the 15M."""
    blocks_at: Literal["each_side", "first_side"] = "each_side"
    """Where blocks run. Parti does not say: 30M for two doublings are twice the 15M for one, which is 12 blocks before
    each. All of them at the small side, as WDSR has it, weigh the same and take two fifths of the products for a
    scale of 4; each side leaves more to be drawn where there are pixels to draw."""
    skip: Literal["bicubic", "convolution"] = "bicubic"
    """What the network adds to. WDSR learns a 5x5 convolution; with bicubic a run begins where bicubic ends."""
    normalisation: Literal["weight", "none"] = "weight"
    """WDSR normalises weights, and finds higher rates stable so. Parti states nothing."""

    def __post_init__(self):
        if self.scale not in SCALES:
            raise ConfigError(f"architecture.scale: expected one of {SCALES}, found {self.scale}; change it")
        for name in ("num_blocks", "width", "expansion"):
            refuse_below(name, getattr(self, name), 1)

    @property
    def num_doublings(self) -> int:
        """How often the side is doubled."""
        return self.scale.bit_length() - 1

    @property
    def blocks_before(self) -> list[int]:
        """The blocks before each doubling."""
        if self.blocks_at == "each_side":
            return [self.num_blocks] * self.num_doublings
        return [self.num_blocks * self.num_doublings] + [0] * (self.num_doublings - 1)


class WideBlock(nn.Module):
    """Two convolutions with many channels between them, added to what came; at first nothing is."""

    def __init__(self, shape: WDSRShape):
        super().__init__()
        hidden = shape.width * shape.expansion
        self.widen = _convolution(shape, shape.width, hidden)
        self.narrow = _convolution(shape, hidden, shape.width, is_silent=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, H, W)."""
        return x + self.narrow(F.relu(self.widen(x)))


class Doubling(nn.Module):
    """A convolution to four times the channels, which become the pixels of a side twice as long."""

    def __init__(self, shape: WDSRShape):
        super().__init__()
        self.convolution = _convolution(shape, shape.width, 4 * shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, 2 H, 2 W)."""
        return F.pixel_shuffle(self.convolution(x), 2)


class WDSR(nn.Module):
    """Pictures (B, S, S, C) in [0, 1] to larger ones, of any side S."""

    def __init__(self, shape: WDSRShape):
        super().__init__()
        self.shape = shape
        self.from_rgb = _convolution(shape, 3, shape.width)
        self.stages = nn.ModuleList(
            nn.Sequential(*(WideBlock(shape) for _ in range(num_blocks)), Doubling(shape))
            for num_blocks in shape.blocks_before
        )
        self.to_rgb = _convolution(shape, shape.width, 3, is_silent=True)
        learns_skip = shape.skip == "convolution"
        self.skip = _convolution(shape, 3, 3 * shape.scale**2, kernel=5) if learns_skip else None

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, scale S, scale S, C), float32, not clamped to [0, 1], for images (B, S, S, C) in [0, 1]."""
        pixels = images.movedim(-1, 1) - _MIDDLE
        x = self.from_rgb(pixels)
        for stage in self.stages:
            x = stage(x)
        return (self._skipped(pixels) + self.to_rgb(x).float() + _MIDDLE).movedim(1, -1)

    def _skipped(self, pixels: Tensor) -> Tensor:
        if self.skip is not None:
            return F.pixel_shuffle(self.skip(pixels), self.shape.scale).float()
        return F.interpolate(pixels.float(), scale_factor=self.shape.scale, mode="bicubic")


def _convolution(shape: WDSRShape, inner: int, outer: int, kernel: int = 3, is_silent: bool = False) -> nn.Module:
    """Return a convolution that keeps the variance of what a ReLU lets through; a silent one gives zeros at first."""
    made = nn.Conv2d(inner, outer, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(made.weight)
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    normalised = shape.normalisation == "weight"
    made = weight_norm(made) if normalised else made
    if is_silent:  # by its lengths where there are such: a direction has to stay one
        nn.init.zeros_(made.parametrizations.weight.original0 if normalised else made.weight)  # type: ignore[union-attr]
    return made
