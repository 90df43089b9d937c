"""The convolutional autoencoder of VQGAN, which taming, latent diffusion, dalle-mini, LlamaGen and Janus share.

Names of modules are taming's. Levels run from the finest to the coarsest in both halves.
Source: "Taming Transformers", arXiv 2012.09841, and the projects' code.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import attend
from model.tokenizers.families.published import MOST_BLOCKS, MOST_LEVELS, count, refuse_many, sides_of

_GROUPS = 32
_EPSILON = 1e-6


@dataclass(frozen=True)
class ConvolutionalShape:
    """The architecture."""

    first_width: int
    widths: tuple[int, ...]
    """Of each level, from the finest."""
    num_blocks: int
    """Residual blocks a level of the encoder; the decoder has one more."""
    attention_levels: tuple[int, ...]
    z_width: int
    code_width: int
    codebook_size: int
    has_middle_attention: bool = True
    resamples_with_convolution: bool = True
    nested_attention: bool = False

    @property
    def patch_side(self) -> int:
        """Pixels that a token covers along a side."""
        return 2 ** (len(self.widths) - 1)


def infer_shape(tensors: Mapping[str, Tensor], codebook: str, path: str, nested: bool = False) -> ConvolutionalShape:
    """Return the architecture that tensors, by taming's names, tell; raises TokenizerError."""
    num_levels = count(tensors, "encoder.down.{}.block.0.conv1.weight")
    num_blocks = count(tensors, "encoder.down.0.block.{}.conv1.weight")
    refuse_many(path, "levels", num_levels, MOST_LEVELS)
    refuse_many(path, "blocks a level", num_blocks, MOST_BLOCKS)
    blocks = [f"encoder.down.{level}.block.0.conv1.weight" for level in range(max(1, num_levels))]
    return ConvolutionalShape(
        first_width=sides_of(tensors, "encoder.conv_in.weight", path, 4)[0],
        widths=tuple(sides_of(tensors, block, path, 4)[0] for block in blocks),
        num_blocks=num_blocks,
        attention_levels=tuple(n for n in range(num_levels) if f"encoder.down.{n}.attn.0.q.weight" in tensors),
        z_width=sides_of(tensors, "encoder.conv_out.weight", path, 4)[0],
        code_width=sides_of(tensors, "quant_conv.weight", path, 4)[0],
        codebook_size=sides_of(tensors, codebook, path, 2)[0],
        has_middle_attention="encoder.mid.attn_1.q.weight" in tensors,
        resamples_with_convolution=num_levels == 1 or "encoder.down.0.downsample.conv.weight" in tensors,
        nested_attention=nested,
    )


def group_norm(width: int) -> nn.GroupNorm:
    """Return the normalisation of these networks."""
    return nn.GroupNorm(_GROUPS, width, eps=_EPSILON)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, (B, C, h, w) to (B, C', h, w)."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.norm1, self.conv1 = group_norm(width_in), nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2, self.conv2 = group_norm(width), nn.Conv2d(width, width, 3, padding=1)
        if width_in != width:
            self.nin_shortcut = nn.Conv2d(width_in, width, 1)
        self._is_wider = width_in != width

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return (self.nin_shortcut(x) if self._is_wider else x) + y


class AttentionBlock(nn.Module):
    """Attention of all places to all, with one head, beside a shortcut, (B, C, h, w)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = group_norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.norm(x)
        queries, keys, values = (part(y).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        seen = attend(queries, keys, values, None)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(seen)


class Downsample(nn.Module):
    """Half the side: a convolution that pads only right and below, or the mean of four."""

    def __init__(self, width: int, with_convolution: bool):
        super().__init__()
        if with_convolution:
            self.conv = nn.Conv2d(width, width, 3, stride=2)
        self._with_convolution = with_convolution

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h/2, w/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1))) if self._with_convolution else F.avg_pool2d(x, 2)


class Upsample(nn.Module):
    """Twice the side: each value four times, then perhaps a convolution."""

    def __init__(self, width: int, with_convolution: bool):
        super().__init__()
        if with_convolution:
            self.conv = nn.Conv2d(width, width, 3, padding=1)
        self._with_convolution = with_convolution

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, 2h, 2w)."""
        doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(doubled) if self._with_convolution else doubled


class Level(nn.Module):
    """Residual blocks at one resolution, perhaps with attention."""

    def __init__(self, width_in: int, width: int, num_blocks: int, has_attention: bool, nested: bool):
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(width if n else width_in, width) for n in range(num_blocks))
        self.attn = nn.ModuleList(AttentionBlock(width) for _ in range(num_blocks if has_attention else 0))
        self._nested = nested

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', h, w)."""
        for number, block in enumerate(self.block):
            x = block(x)
            if self._nested:
                for attention in self.attn:
                    x = attention(x)
            elif number < len(self.attn):
                x = self.attn[number](x)
        return x


class Middle(nn.Module):
    """Two residual blocks with attention between them, at the coarsest resolution."""

    def __init__(self, width: int, has_attention: bool):
        super().__init__()
        self.block_1 = ResidualBlock(width, width)
        self.attn_1 = AttentionBlock(width) if has_attention else nn.Identity()
        self.block_2 = ResidualBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h, w)."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pixels (B, 3, S, S) to z (B, Z, S / P, S / P)."""

    def __init__(self, shape: ConvolutionalShape):
        super().__init__()
        self.conv_in = nn.Conv2d(3, shape.first_width, 3, padding=1)
        self.down = nn.ModuleList()
        width = shape.first_width
        for number, level_width in enumerate(shape.widths):
            has_attention = number in shape.attention_levels
            level = Level(width, level_width, shape.num_blocks, has_attention, shape.nested_attention)
            width = level_width
            if number < len(shape.widths) - 1:
                level.downsample = Downsample(width, shape.resamples_with_convolution)
            self.down.append(level)
        self.mid = Middle(width, shape.has_middle_attention)
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, shape.z_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return z."""
        x = self.conv_in(x)
        for number, level in enumerate(self.down):
            x = level(x)
            if number < len(self.down) - 1:
                x = level.downsample(x)  # type: ignore[operator]
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """z (B, Z, h, w) to pixels (B, 3, h * P, w * P)."""

    def __init__(self, shape: ConvolutionalShape):
        super().__init__()
        width = shape.widths[-1]
        self.conv_in = nn.Conv2d(shape.z_width, width, 3, padding=1)
        self.mid = Middle(width, shape.has_middle_attention)
        levels: list[Level] = []
        for number, level_width in reversed(list(enumerate(shape.widths))):
            has_attention = number in shape.attention_levels
            level = Level(width, level_width, shape.num_blocks + 1, has_attention, shape.nested_attention)
            width = level_width
            if number:
                level.upsample = Upsample(width, shape.resamples_with_convolution)
            levels.append(level)
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return pixels."""
        x = self.mid(self.conv_in(x))
        for number, level in reversed(list(enumerate(self.up))):
            x = level(x)
            if number:
                x = level.upsample(x)  # type: ignore[operator]
        return self.conv_out(F.silu(self.norm_out(x)))
