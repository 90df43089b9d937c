"""The discriminator of StyleGAN2, in plain torch.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", arXiv 1912.04958, with the residual
blocks of its section 4.1; details that the paper leaves open as in NVIDIA's code.
"""

import math

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from parti_data.config import StrictModel
from parti_data.errors import ConfigError

LEAST_SIDE = 16
_LAST_SIDE = 4
_SLOPE = 0.2
_GAIN = math.sqrt(2)
"""Of the leaky ReLU: keeps the variance of what passes it."""
_BLUR = (1.0, 3.0, 3.0, 1.0)
_LARGEST_GROUP = 4
"""Images among which the minibatch standard deviation is taken."""


class DiscriminatorSize(StrictModel):
    """How many channels the discriminator has: `channel_base` by the side of a feature map, at most `channel_max`."""

    channel_base: PositiveInt = 32_768
    """StyleGAN2's configuration F; half of it is NVIDIA's choice for 256 px."""
    channel_max: PositiveInt = 512

    def channels(self, side: int) -> int:
        """Return the channels of feature maps of a side in pixels."""
        return max(1, min(self.channel_base // side, self.channel_max))


class EqualConv(nn.Module):
    """A convolution whose weights are N(0, 1), scaled as it runs: all layers learn at the same rate.

    Source: Karras et al., arXiv 1710.10196, section 4.1. With `halves`, what it is given is blurred and every other
    pixel of what it gives is kept.
    """

    def __init__(self, inner: int, outer: int, kernel: int, halves: bool = False, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outer, inner, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outer)) if bias else None
        self.scale, self.halves, self.padding = (inner * kernel**2) ** -0.5, halves, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outer, H, W), or half of each side."""
        if not self.halves:
            return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)
        return F.conv2d(blur(x, 1 + self.padding), self.weight * self.scale, self.bias, stride=2)


class EqualLinear(nn.Module):
    """A linear layer whose weights are N(0, 1), scaled as it runs."""

    def __init__(self, inner: int, outer: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outer, inner))
        self.bias = nn.Parameter(torch.zeros(outer))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outer)."""
        return F.linear(x, self.weight * self.weight.shape[1] ** -0.5, self.bias)


class DiscriminatorBlock(nn.Module):
    """Two convolutions, the second of which halves the side, and a skip that halves it too."""

    def __init__(self, inner: int, outer: int):
        super().__init__()
        self.first = EqualConv(inner, inner, 3)
        self.second = EqualConv(inner, outer, 3, halves=True)
        self.skip = EqualConv(inner, outer, 1, halves=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outer, H / 2, W / 2) for (B, inner, H, W)."""
        return (activate(self.second(activate(self.first(x)))) + self.skip(x)) / math.sqrt(2)


class Discriminator(nn.Module):
    """Images (B, S, S, C) in [0, 1] to scores (B,): high where they look real. S is a power of two, at least 16."""

    def __init__(self, image_side: int, size: DiscriminatorSize | None = None):
        super().__init__()
        refuse_side(image_side)
        size = size or DiscriminatorSize()
        sides = [2**power for power in range(int(math.log2(image_side)), 2, -1)]
        last = size.channels(_LAST_SIDE)
        self.from_rgb = EqualConv(3, size.channels(image_side), 1)
        self.blocks = nn.ModuleList(DiscriminatorBlock(size.channels(side), size.channels(side // 2)) for side in sides)
        self.last_convolution = EqualConv(last + 1, last, 3)
        self.hidden = EqualLinear(last * _LAST_SIDE**2, last)
        self.score = EqualLinear(last, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (B,), float32, for images (B, S, S, C) in [0, 1]."""
        x = activate(self.from_rgb(2 * images.movedim(-1, 1) - 1))
        for block in self.blocks:
            x = block(x)
        x = activate(self.last_convolution(with_minibatch_deviation(x)))
        return self.score(activate(self.hidden(x.flatten(1)))).squeeze(1).float()


def refuse_side(image_side: int) -> None:
    """Raise ConfigError unless a discriminator can look at images of this side."""
    if image_side < LEAST_SIDE or image_side & (image_side - 1):
        raise ConfigError(
            f"discriminator: expected an image side that is a power of two from {LEAST_SIDE} on, found {image_side}; "
            "change architecture.image_side, or train without a discriminator"
        )


def activate(x: Tensor) -> Tensor:
    """Return the leaky ReLU, made larger so that it keeps the variance."""
    return F.leaky_relu(x, _SLOPE) * _GAIN


def blur(x: Tensor, padding: int) -> Tensor:
    """Return (B, C, H, W) blurred by the binomial filter [1, 3, 3, 1] along both sides, after padding with zeros."""
    line = x.new_tensor(_BLUR) / sum(_BLUR)
    kernel = (line[:, None] * line).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, kernel, padding=padding, groups=x.shape[1])


def with_minibatch_deviation(x: Tensor) -> Tensor:
    """Return (B, C + 1, H, W): one more feature, the mean standard deviation over a group of the batch.

    A group has four images, or as many as divide the batch; image i is in one with i + B/4, i + 2B/4, i + 3B/4.
    Source: Karras et al., arXiv 1710.10196, section 3.
    """
    batch, _, height, width = x.shape
    group = max(size for size in range(1, _LARGEST_GROUP + 1) if batch % size == 0)
    deviation = (x.float().unflatten(0, (group, -1)).var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, deviation.to(x.dtype).repeat(group).view(batch, 1, 1, 1).expand(-1, 1, height, width)], 1)
