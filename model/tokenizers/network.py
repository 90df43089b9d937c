"""What each family of image tokenizers is to the rest: uint8 images in, latents, tokens, and images again.

The way to a token is cut in two, because only the first half may run in another precision or on another library:
`latents` is the encoder, `quantize` picks codes, always in float32.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn


class TokenizerSpec(NamedTuple):
    """What a user of tokens has to know."""

    name: str
    """The family."""
    codebook_size: int
    grid_side: int
    """Positions along a side, for an image of `image_side`."""
    image_side: int
    pixel_range: tuple[float, float]
    """What black and white are to the encoder."""
    resize_recipe: str
    num_quantizers: int = 1
    """Tokens a position: several where a residual is quantized again; those of one position stand together."""
    any_side: bool = False
    """Whether images of any multiple of `patch_side` are taken: convolutions do not care."""

    @property
    def num_tokens(self) -> int:
        """Tokens an image."""
        return self.grid_side**2 * self.num_quantizers

    @property
    def patch_side(self) -> int:
        """Pixels a position covers along a side."""
        return self.image_side // self.grid_side


class TokenizerNetwork(nn.Module, ABC):
    """A network that turns images into tokens and back; `ImageTokenizer` is its face."""

    @property
    @abstractmethod
    def spec(self) -> TokenizerSpec:
        """What a user of its tokens has to know."""

    @property
    def has_decoder(self) -> bool:
        """Whether `decode` has the weights that it needs."""
        return True

    @abstractmethod
    def deciding_shape(self) -> dict[str, Any]:
        """Return what of the architecture decides a token, as plain JSON values."""

    @abstractmethod
    def decides_token(self, tensor_name: str) -> bool:
        """Whether a tensor of the state dict has a say in a token; the decoder's have none."""

    @abstractmethod
    def to_input(self, images: Tensor) -> Tensor:
        """Return what the encoder is fed, float32, for images uint8 (B, S, S, 3)."""

    @abstractmethod
    def latents(self, inputs: Tensor) -> Tensor:
        """Return what is quantized, for what `to_input` gave."""

    @abstractmethod
    def quantize(self, latents: Tensor) -> Tensor:
        """Return tokens int64 (B, I) in raster order, computed in float32; the lowest index on ties."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> Tensor:
        """Return images (B, S, S, 3) for tokens (B, I); in [0, 1], or a little outside."""
