"""The tokenizer around the convolutional autoencoder: a codebook by distance or by cosine, or logits."""

from dataclasses import asdict
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from model.tokenizers.families.convolutional import ConvolutionalShape, Decoder, Encoder
from model.tokenizers.families.pixels import RANGES, Scale, from_pixels, to_pixels
from model.tokenizers.network import TokenizerNetwork, TokenizerSpec
from model.tokenizers.quantize import most_likely, nearest_codes

Quantizer = Literal["euclid", "cosine", "gumbel"]


class Use(NamedTuple):
    """What the weights do not say."""

    name: str
    quantizer: Quantizer
    image_side: int
    scale: Scale
    resize_recipe: str
    has_tanh: bool = False
    """Whether pixels pass tanh at the end."""


class Codebook(nn.Module):
    """The codes, and for `gumbel` the layer that gives their logits."""

    def __init__(self, shape: ConvolutionalShape, quantizer: Quantizer):
        super().__init__()
        if quantizer == "gumbel":
            self.proj = nn.Conv2d(shape.code_width, shape.codebook_size, 1)
            self.embed = nn.Embedding(shape.codebook_size, shape.code_width)
        else:
            self.embedding = nn.Embedding(shape.codebook_size, shape.code_width)
        self._quantizer = quantizer

    def nearest(self, latents: Tensor) -> Tensor:
        """Return int64 (B, I) for latents (B, I, K), without the noise that GumbelVQ draws even when it is used."""
        if self._quantizer == "gumbel":
            return most_likely(latents, self.proj.weight.flatten(1), self.proj.bias)  # type: ignore[arg-type]
        return nearest_codes(latents, self.embedding.weight, normalise=self._quantizer == "cosine")

    def lookup(self, tokens: Tensor) -> Tensor:
        """Return the codes (B, I, K) that are decoded."""
        if self._quantizer == "gumbel":
            return self.embed(tokens)
        codes = self.embedding(tokens)
        return F.normalize(codes, dim=-1) if self._quantizer == "cosine" else codes


class Autoencoder(nn.Module):
    """The tensors of a checkpoint, by taming's names."""

    def __init__(self, shape: ConvolutionalShape, quantizer: Quantizer):
        super().__init__()
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)
        self.quantize = Codebook(shape, quantizer)
        self.quant_conv = nn.Conv2d(shape.z_width, shape.code_width, 1)
        self.post_quant_conv = nn.Conv2d(shape.code_width, shape.z_width, 1)


class VQGAN(TokenizerNetwork):
    """Images to tokens and back."""

    def __init__(self, autoencoder: Autoencoder, shape: ConvolutionalShape, use: Use):
        super().__init__()
        self.autoencoder, self.shape, self.use = autoencoder, shape, use

    @property
    def spec(self) -> TokenizerSpec:
        """What a user of its tokens has to know."""
        shape, use = self.shape, self.use
        return TokenizerSpec(
            use.name, shape.codebook_size, use.image_side // shape.patch_side, use.image_side, RANGES[use.scale],
            use.resize_recipe, any_side=True,
        )  # fmt: skip

    def deciding_shape(self) -> dict[str, Any]:
        """Return the architecture and how it is used."""
        shape = asdict(self.shape) | {"widths": list(self.shape.widths)}
        shape["attention_levels"] = list(self.shape.attention_levels)
        return shape | {"quantizer": self.use.quantizer, "scale": self.use.scale, "image_side": self.use.image_side}

    def decides_token(self, tensor_name: str) -> bool:
        """Whether a tensor belongs to the encoder or decides which code is nearest."""
        decoding = ("decoder.", "post_quant_conv.", "quantize.embed.")
        return not tensor_name.removeprefix("autoencoder.").startswith(decoding)

    def to_input(self, images: Tensor) -> Tensor:
        """Return float32 (B, 3, S, S) for images uint8 (B, S, S, 3)."""
        return to_pixels(images, self.use.scale)

    def latents(self, inputs: Tensor) -> Tensor:
        """Return (B, I, K), before the logits of a Gumbel quantizer."""
        return self.autoencoder.quant_conv(self.autoencoder.encoder(inputs)).flatten(2).transpose(1, 2)

    def quantize(self, latents: Tensor) -> Tensor:
        """Return tokens int64 (B, I)."""
        return self.autoencoder.quantize.nearest(latents)

    def decode(self, tokens: Tensor) -> Tensor:
        """Return images (B, S, S, 3), in [0, 1] or a little outside."""
        side = round(tokens.shape[1] ** 0.5)
        codes = self.autoencoder.quantize.lookup(tokens).transpose(1, 2).unflatten(2, (side, side))
        pixels = self.autoencoder.decoder(self.autoencoder.post_quant_conv(codes))
        return from_pixels(pixels.tanh() if self.use.has_tanh else pixels, self.use.scale)
