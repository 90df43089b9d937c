"""A discrete VAE that can be trained: OpenAI's network, in which a relaxation of the codes takes the place of tokens.

Source: DALL-E, arXiv 2102.12092v2, section 2.1 and appendix A.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.shapes import refuse_below, refuse_outside, refuse_remainder
from model.tokenizers.families.dvae_network import HalfShape, Halves, OpenAIDVAE
from model.tokenizers.families.published import MOST_BLOCKS, MOST_LEVELS
from model.tokenizers.logit_laplace import squeeze_pixels
from parti_data.recipes import RESIZE_RECIPE

_CHANNELS = 3
_NARROWING = 4
"""Of a block's width, within it."""


@dataclass(frozen=True)
class DVAEShape:
    """The architecture; the defaults are those of the published weights."""

    image_side: int = 256
    width: int = 256
    """Channels of the group that sees pixels; each further one has twice as many, on half the side."""
    num_groups: int = 4
    num_blocks: int = 2
    """A group."""
    codebook_size: int = 8192
    code_width: int = 128
    """Channels that the decoder's first convolution makes of a code."""

    def __post_init__(self):
        refuse_outside("num_groups", self.num_groups, 1, MOST_LEVELS)
        refuse_outside("num_blocks", self.num_blocks, 1, MOST_BLOCKS)
        refuse_remainder("image_side", self.image_side, "patch_side", self.patch_side)
        refuse_remainder("width", self.width, "the narrowing within blocks", _NARROWING)
        refuse_below("codebook_size", self.codebook_size, 2)
        refuse_below("code_width", self.code_width, 1)

    @property
    def patch_side(self) -> int:
        """Pixels that a token covers along a side."""
        return 2 ** (self.num_groups - 1)

    @property
    def num_tokens(self) -> int:
        """Tokens an image."""
        return (self.image_side // self.patch_side) ** 2

    @property
    def encoder(self) -> HalfShape:
        """The encoder's part of it."""
        return HalfShape(_CHANNELS, self.width, self._widths, self.num_blocks, self.codebook_size)

    @property
    def decoder(self) -> HalfShape:
        """The decoder's part of it."""
        return HalfShape(self.codebook_size, self.code_width, self._widths[::-1], self.num_blocks, 2 * _CHANNELS)

    @property
    def _widths(self) -> tuple[int, ...]:
        return tuple(self.width * 2**group for group in range(self.num_groups))


class Relaxed(NamedTuple):
    """What became of a batch of images: all that its loss needs, float32."""

    mean: Tensor  # (B, S, S, C), of the logits
    log_scale: Tensor  # (B, S, S, C), ln b
    log_posterior: Tensor  # (B, I, V), what the encoder thinks of each code


class DVAE(OpenAIDVAE):
    """Images to tokens and back, and, to be trained, images (B, S, S, C) in [0, 1] by way of weights of all codes."""

    def __init__(self, shape: DVAEShape, both: Halves | None = None):
        """Make a new network, or one with the weights of `both`."""
        both = both or Halves(shape.encoder, shape.decoder)
        super().__init__(both, shape.encoder, shape.image_side, RESIZE_RECIPE, "a dVAE of ours")
        self.shape = shape

    def forward(self, images: Tensor, noise: Tensor, temperature: Tensor) -> Relaxed:
        """Return what becomes of images (B, S, S, C) in [0, 1] with Gumbel noise (B, I, V) at a temperature, a scalar.

        The decoder is given the Gumbel-softmax of the logits: at a temperature near 0 a code that is drawn by the
        encoder's probabilities, above it a mixture of several. Source: section 2.1.
        """
        # channels lie last: on a core of an EPYC a step took 0.85 of the time that it takes where they lie first
        logits = self._logits(squeeze_pixels(images).permute(0, 3, 1, 2))
        with torch.autocast(images.device.type, enabled=False):
            codes = torch.softmax((logits + noise) / temperature, -1)
            log_posterior = torch.log_softmax(logits, -1)
        side = self.spec.grid_side
        statistics = self.statistics(codes.transpose(1, 2).unflatten(2, (side, side)))
        mean, log_scale = statistics.permute(0, 2, 3, 1).chunk(2, -1)
        return Relaxed(mean, log_scale, log_posterior)

    def _logits(self, inputs: Tensor) -> Tensor:
        """Return what a token is the largest of, float32 (B, I, V)."""
        encoder = self.both.encoder
        return encoder.last(self.hidden(inputs)).flatten(2).transpose(1, 2)
