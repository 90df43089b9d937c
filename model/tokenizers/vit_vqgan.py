"""ViT-VQGAN: a vision transformer on either side of an l2-normalised, factorised codebook.

Source: "Vector-quantized Image Modeling with Improved VQGAN", arXiv 2110.04627v3, sections 3.1 to 3.3. It does not
state positions; rotary ones are used here. Against learned ones they gave 0.9 dB more after 500 steps on synthetic
scenes, and a patch gets the same token wherever it lies.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import Block, RotaryPositions, initialise, rotation_2d
from model.shapes import refuse_remainder
from model.tokenizers.network import TokenizerNetwork, TokenizerSpec
from model.tokenizers.quantize import nearest_codes
from parti_data.config import StrictModel
from parti_data.images import RESIZE_RECIPE

KIND = "vit_vqgan"
COMMITMENT = 0.25
"""Source: section 3.1, the weight beta of the commitment term."""
LOGIT_LAPLACE_MARGIN = 0.1
"""Pixels are squeezed into [margin, 1 - margin]. Source: DALL-E, arXiv 2102.12092v2, appendix A.3 (epsilon)."""
LOWEST_LOG_SCALE = 0.0
"""Floor of ln b. The paper states none; without one, flat colours drive a pixel's likelihood to infinity, and the few
pixels that are hard to predict are given up for a wide distribution."""


@dataclass(frozen=True)
class ViTVQGANShape:
    """The architecture; the defaults are the paper's Small (table 2)."""

    image_side: int = 256
    patch_side: int = 8
    width: int = 512
    hidden: int = 2048
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    num_heads: int = 8
    codebook_size: int = 8192
    code_width: int = 32

    def __post_init__(self):
        refuse_remainder("image_side", self.image_side, "patch_side", self.patch_side)
        refuse_remainder("width", self.width, "4 * num_heads", 4 * self.num_heads)

    @property
    def grid_side(self) -> int:
        """Patches along a side."""
        return self.image_side // self.patch_side

    @property
    def num_tokens(self) -> int:
        """Tokens an image."""
        return self.grid_side**2


class LossWeights(StrictModel):
    """Weights of the loss terms. Source: section 3.3; its perceptual and adversarial terms are not there yet."""

    vq: float = 1.0
    l2: float = 1.0
    logit_laplace: float = 0.1


class Quantized(NamedTuple):
    """What the codebook made of the latents."""

    codes: Tensor  # (B, I, K), l2-normalised; gradients pass straight through
    tokens: Tensor  # int64 (B, I)
    loss: Tensor  # codebook plus commitment term


class LossOutput(NamedTuple):
    """The loss of a batch and what it came from."""

    terms: dict[str, Tensor]  # scalars, `total` among them
    tokens: Tensor  # int64 (B, I)
    latents: Tensor  # (B, I, K)


class Codebook(nn.Module):
    """Nearest code by cosine, in float32 whatever the surroundings: half precision changes about half of all tokens.

    Source: section 3.2; latents and codes are l2-normalised.
    """

    def __init__(self, codebook_size: int, code_width: int):
        super().__init__()
        self.embedding = nn.Parameter(F.normalize(torch.randn(codebook_size, code_width), dim=-1))

    def nearest(self, latents: Tensor) -> Tensor:
        """Return int64 (B, I), the index of the nearest code to each latent (B, I, K); the lowest on ties."""
        return nearest_codes(latents, self.embedding, normalise=True)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Return the normalised codes (..., K) of tokens.

        Not by indexing: its gradient adds up in no fixed order on several threads, so that no run is like another.
        """
        return F.normalize(F.embedding(tokens, self.embedding), dim=-1)

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize latents (B, I, K)."""
        tokens = self.nearest(latents)
        codes, normalised = self.lookup(tokens), F.normalize(latents.float(), dim=-1)
        loss = (codes - normalised.detach()).square().mean()
        loss = loss + COMMITMENT * (codes.detach() - normalised).square().mean()
        return Quantized(normalised + (codes - normalised).detach(), tokens, loss)

    @torch.no_grad()
    def initialise(self, latents: Tensor, generator: torch.Generator) -> None:
        """Take codes from latents (N, K), one after the other, far ones likelier, as k-means++ does."""
        candidates = F.normalize(latents.float(), dim=-1)
        pool = candidates[torch.randperm(len(candidates), generator=generator)[: 16 * len(self.embedding)]]
        distance = torch.full((len(pool),), 2.0)
        for code in range(len(self.embedding)):
            chosen = pool[torch.multinomial(distance, 1, generator=generator)]
            self.embedding[code] = chosen[0]
            distance = distance.minimum((1 - pool @ chosen[0]).clamp(min=1e-7))

    @torch.no_grad()
    def restart(self, codes: Tensor, latents: Tensor, generator: torch.Generator) -> None:
        """Move some codes (their indices) to latents (N, K) that are far from every code."""
        if len(codes) and len(latents) >= len(codes):
            candidates = F.normalize(latents.float(), dim=-1)
            similarity = (candidates @ F.normalize(self.embedding, dim=-1).T).amax(-1)
            chosen = torch.multinomial((1 - similarity).clamp(min=1e-7), len(codes), generator=generator)
            self.embedding[codes] = candidates[chosen]


class ViTVQGAN(TokenizerNetwork):
    """Images (B, S, S, C) in [0, 1] to tokens (B, I) and back."""

    def __init__(self, shape: ViTVQGANShape):
        super().__init__()
        self.shape = shape
        pixels = shape.patch_side**2 * 3
        self.patch_embedding = nn.Linear(pixels, shape.width)
        self.encoder = nn.ModuleList(_block(shape) for _ in range(shape.num_encoder_layers))
        self.encoder_head = _tanh_head(shape, shape.width)
        self.to_code = nn.Linear(shape.width, shape.code_width)
        self.from_code = nn.Linear(shape.code_width, shape.width)
        self.decoder = nn.ModuleList(_block(shape) for _ in range(shape.num_decoder_layers))
        self.decoder_head = _tanh_head(shape, 2 * pixels)
        initialise(self, max(shape.num_encoder_layers, shape.num_decoder_layers))
        self.rotation = RotaryPositions(rotation_2d(shape.grid_side, shape.width // shape.num_heads))
        self.codebook = Codebook(shape.codebook_size, shape.code_width)

    @property
    def spec(self) -> TokenizerSpec:
        """What a user of its tokens has to know."""
        shape = self.shape
        return TokenizerSpec(KIND, shape.codebook_size, shape.grid_side, shape.image_side, (0.0, 1.0), RESIZE_RECIPE)

    def deciding_shape(self) -> dict[str, Any]:
        """Return the architecture."""
        return asdict(self.shape)

    def decides_token(self, tensor_name: str) -> bool:
        """Whether a tensor belongs to the encoder or the codebook."""
        return not tensor_name.startswith(("from_code.", "decoder"))

    def to_input(self, images: Tensor) -> Tensor:
        """Return images uint8 (B, S, S, C) in [0, 1]."""
        return images.float() / 255

    def quantize(self, latents: Tensor) -> Tensor:
        """Return tokens int64 (B, I) for latents (B, I, K)."""
        return self.codebook.nearest(latents)

    def latents(self, images: Tensor) -> Tensor:
        """Return what is quantized, float (B, I, K), for images (B, S, S, C) in [0, 1]."""
        x = self.patch_embedding(to_patches(2 * images - 1, self.shape.patch_side))
        return self.to_code(self.encoder_head(self._transform(self.encoder, x)))

    def logit_laplace(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and ln b of the logit-Laplace distribution of each pixel, two (B, S, S, C)."""
        x = self._transform(self.decoder, self.from_code(codes))
        mean, log_scale = self.decoder_head(x).float().chunk(2, -1)
        side = self.shape.patch_side
        return from_patches(mean, side), from_patches(log_scale, side).clamp(min=LOWEST_LOG_SCALE)

    def _transform(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        rotation = self.rotation(0, self.shape.num_tokens)
        for block in blocks:
            x = block(x, rotation=rotation)
        return x

    def encode(self, images: Tensor) -> Tensor:
        """Return tokens int64 (B, I) in raster order for images (B, S, S, C) in [0, 1]."""
        return self.quantize(self.latents(images))

    def decode(self, tokens: Tensor) -> Tensor:
        """Return images (B, S, S, C) in [0, 1] for tokens (B, I)."""
        return unsqueeze_pixels(self.logit_laplace(self.codebook.lookup(tokens))[0].sigmoid())

    def losses(self, images: Tensor, weights: LossWeights, quantize: bool = True) -> LossOutput:
        """Return the loss of images (B, S, S, C) in [0, 1]; unquantized, the decoder sees the normalised latents."""
        latents = self.latents(images)
        quantized = self.codebook(latents)
        codes = quantized.codes if quantize else F.normalize(latents.float(), dim=-1)
        mean, log_scale = self.logit_laplace(codes)
        l2 = (unsqueeze_pixels(mean.sigmoid(), clamp=False) - images).square().mean()
        logit_laplace = logit_laplace_loss(images, mean, log_scale)
        total = weights.l2 * l2 + weights.logit_laplace * logit_laplace
        if quantize:
            total = total + weights.vq * quantized.loss
        terms = {"total": total, "l2": l2, "logit_laplace": logit_laplace, "vq": quantized.loss}
        return LossOutput(terms, quantized.tokens, latents)


def logit_laplace_loss(images: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the mean negative log-likelihood a pixel value, in nats; images in [0, 1].

    Source: DALL-E, appendix A.3.
    """
    x = squeeze_pixels(images)
    deviation = (torch.logit(x) - mean).abs() * torch.exp(-log_scale)
    return (deviation + log_scale + torch.log(2 * x * (1 - x))).mean()


def squeeze_pixels(images: Tensor) -> Tensor:
    """Map [0, 1] into [margin, 1 - margin], where the logit is finite."""
    return (1 - 2 * LOGIT_LAPLACE_MARGIN) * images + LOGIT_LAPLACE_MARGIN


def unsqueeze_pixels(squeezed: Tensor, clamp: bool = True) -> Tensor:
    """Undo `squeeze_pixels`; by default values outside [0, 1] are clamped."""
    images = (squeezed - LOGIT_LAPLACE_MARGIN) / (1 - 2 * LOGIT_LAPLACE_MARGIN)
    return images.clamp(0, 1) if clamp else images


def to_patches(images: Tensor, patch_side: int) -> Tensor:
    """Return patches (B, I, P * P * C) in raster order of images (B, S, S, C)."""
    rows = images.unflatten(2, (-1, patch_side)).unflatten(1, (-1, patch_side))
    return rows.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


def from_patches(patches: Tensor, patch_side: int) -> Tensor:
    """Undo `to_patches`."""
    grid_side = round(patches.shape[1] ** 0.5)
    grid = patches.unflatten(2, (patch_side, patch_side, -1)).unflatten(1, (grid_side, grid_side))
    return grid.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)


def _block(shape: ViTVQGANShape) -> Block:
    return Block(shape.width, shape.hidden, shape.num_heads, activation="gelu")


def _tanh_head(shape: ViTVQGANShape, outputs: int) -> nn.Sequential:
    """Two layers with tanh between them, after the last block. Source: section 3.1."""
    return nn.Sequential(
        nn.LayerNorm(shape.width),
        nn.Linear(shape.width, shape.hidden),
        nn.Tanh(),
        nn.Linear(shape.hidden, outputs),
    )
