"""ViT-VQGAN: a vision transformer on either side of an l2-normalised, factorised codebook.

Source: "Vector-quantized Image Modeling with Improved VQGAN", arXiv 2110.04627v3, sections 3.1 to 3.3 and table 2; the
later form of the decoder: Parti, arXiv 2206.10789v1, appendix H.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.layers import Block, BlockShape, initialise
from model.shapes import refuse_below, refuse_remainder
from model.tokenizers.codebook import Codebook, Quantized
from model.tokenizers.grid_positions import GridPositions, PositionKind
from model.tokenizers.logit_laplace import unsqueeze_pixels
from model.tokenizers.network import TokenizerNetwork, TokenizerSpec
from model.tokenizers.patches import from_patches, to_patches
from parti_data.errors import ConfigError
from parti_data.recipes import RESIZE_RECIPE

KIND = "vit_vqgan"
_DECODER = ("from_code.", "decoder")
"""How the names of the tensors begin that do not decide a token."""


@dataclass(frozen=True)
class TransformerSize:
    """The size of an encoder or a decoder; the default is the paper's Small (table 2)."""

    num_layers: int = 8
    num_heads: int = 8
    width: int = 512
    hidden: int = 2048

    PRESETS: ClassVar[dict[str, "TransformerSize"]] = {}


TransformerSize.PRESETS.update(
    small=TransformerSize(), base=TransformerSize(12, 12, 768, 3072), large=TransformerSize(32, 16, 1280, 5120)
)


@dataclass(frozen=True)
class ViTVQGANShape:
    """The architecture; the defaults are the paper's Small-Small."""

    image_side: int = 256
    patch_side: int = 8
    encoder: TransformerSize = field(default_factory=TransformerSize)
    decoder: TransformerSize = field(default_factory=TransformerSize)
    codebook_size: int = 8192
    code_width: int = 32
    positions: PositionKind = "learned"
    """The paper states none: learned as in ViT, on which it builds. Against them rotary ones gave 0.9 dB more after 500
    steps on synthetic scenes, and a patch gets the same token wherever it lies."""
    output: Literal["logit_laplace", "rgb"] = "logit_laplace"
    """What the decoder gives: mean and scale of a distribution, or, in Parti's later form, plain colours."""

    def __post_init__(self):
        refuse_remainder("image_side", self.image_side, "patch_side", self.patch_side)
        refuse_below("codebook_size", self.codebook_size, 2)
        refuse_below("code_width", self.code_width, 1)
        for name, size in (("encoder", self.encoder), ("decoder", self.decoder)):
            refuse_remainder(f"{name}.width", size.width, f"4 * {name}.num_heads", 4 * size.num_heads)
            refuse_below(f"{name}.num_layers", size.num_layers, 1)
            refuse_below(f"{name}.hidden", size.hidden, 1)

    @property
    def grid_side(self) -> int:
        """Patches along a side."""
        return self.image_side // self.patch_side

    @property
    def num_tokens(self) -> int:
        """Tokens an image."""
        return self.grid_side**2


class Reconstruction(NamedTuple):
    """What became of a batch of images: all that its loss needs."""

    images: Tensor  # (B, S, S, C), not clamped to [0, 1]
    mean: Tensor  # (B, S, S, C), of the logits; for plain colours the images
    log_scale: Tensor | None  # (B, S, S, C), ln b; none for plain colours
    latents: Tensor  # (B, I, K)
    quantized: Quantized
    is_quantized: bool  # whether the decoder saw codes, or the normalised latents

    @property
    def tokens(self) -> Tensor:
        """The tokens, int64 (B, I)."""
        return self.quantized.tokens


class ViTVQGAN(TokenizerNetwork):
    """Images (B, S, S, C) in [0, 1] to tokens (B, I) and back."""

    def __init__(self, shape: ViTVQGANShape):
        super().__init__()
        self.shape = shape
        self.recompute_blocks = False
        """Whether training keeps no activations inside blocks and computes them twice: slower, in less memory."""
        pixels, encoder, decoder = shape.patch_side**2 * 3, shape.encoder, shape.decoder
        self.patch_embedding = nn.Linear(pixels, encoder.width)
        self.encoder_positions = _positions(shape, encoder)
        self.encoder = _blocks(encoder)
        self.encoder_head = _tanh_head(encoder, encoder.width)
        self.to_code = nn.Linear(encoder.width, shape.code_width)
        self.from_code = nn.Linear(shape.code_width, decoder.width)
        self.decoder_positions = _positions(shape, decoder)
        self.decoder = _blocks(decoder)
        self.decoder_head = _tanh_head(decoder, pixels if shape.output == "rgb" else 2 * pixels)
        initialise(self, max(encoder.num_layers, decoder.num_layers))
        self.codebook = Codebook(shape.codebook_size, shape.code_width)

    @property
    def spec(self) -> TokenizerSpec:
        """What a user of its tokens has to know."""
        shape = self.shape
        return TokenizerSpec(KIND, shape.codebook_size, shape.grid_side, shape.image_side, (0.0, 1.0), RESIZE_RECIPE)

    def deciding_shape(self) -> dict[str, Any]:
        """Return the architecture but for the decoder."""
        return {name: value for name, value in asdict(self.shape).items() if name not in ("decoder", "output")}

    def decides_token(self, tensor_name: str) -> bool:
        """Whether a tensor belongs to the encoder or the codebook."""
        return not tensor_name.startswith(_DECODER)

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that decide no token."""
        return (parameter for name, parameter in self.named_parameters() if not self.decides_token(name))

    def freeze_encoder(self) -> None:
        """Let training change only what decides no token."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not self.decides_token(name))

    def to_input(self, images: Tensor) -> Tensor:
        """Return images uint8 (B, S, S, C) in [0, 1]."""
        return images.float() / 255

    def latents(self, images: Tensor) -> Tensor:
        """Return what is quantized, float (B, I, K), for images (B, S, S, C) in [0, 1]."""
        x = self.patch_embedding(to_patches(2 * images - 1, self.shape.patch_side))
        return self.to_code(self.encoder_head(self._transform(self.encoder, self.encoder_positions, x)))

    def quantize(self, latents: Tensor) -> Tensor:
        """Return tokens int64 (B, I) for latents (B, I, K)."""
        return self.codebook.nearest(latents)

    def encode(self, images: Tensor) -> Tensor:
        """Return tokens int64 (B, I) in raster order for images (B, S, S, C) in [0, 1]."""
        return self.quantize(self.latents(images))

    def decode(self, tokens: Tensor) -> Tensor:
        """Return images (B, S, S, C) in [0, 1] for tokens (B, I)."""
        return self._images(self._decoded(self.codebook.lookup(tokens))[0]).clamp(0, 1)

    def forward(self, images: Tensor, quantize: bool = True) -> Reconstruction:
        """Return what becomes of images (B, S, S, C) in [0, 1]; unquantized, the decoder sees normalised latents."""
        latents = self.latents(images)
        # no graph of what no loss takes
        quantized = self.codebook(latents if quantize else latents.detach())
        codes = quantized.codes if quantize else F.normalize(latents.float(), dim=-1)
        quantized = quantized if quantize else quantized._replace(loss=quantized.loss.detach())
        mean, log_scale = self._decoded(codes)
        return Reconstruction(self._images(mean), mean, log_scale, latents, quantized, quantize)

    def _decoded(self, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the mean, and ln b where it is a distribution, for codes (B, I, K): each (B, S, S, C), float32."""
        x = self._transform(self.decoder, self.decoder_positions, self.from_code(codes))
        output, side = self.decoder_head(x).float(), self.shape.patch_side
        if self.shape.output == "rgb":
            return from_patches(output, side), None
        mean, log_scale = output.chunk(2, -1)
        return from_patches(mean, side), from_patches(log_scale, side)

    def _images(self, mean: Tensor) -> Tensor:
        return mean if self.shape.output == "rgb" else unsqueeze_pixels(mean.sigmoid())

    def _transform(self, blocks: nn.ModuleList, positions: GridPositions, x: Tensor) -> Tensor:
        x, rotation = positions.add_to(x), positions.rotation()
        for block in blocks:
            if self.recompute_blocks and self.training:
                x = checkpoint(block, x, rotation=rotation, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, rotation=rotation)
        return x


def with_new_decoder(network: ViTVQGAN, shape: ViTVQGANShape) -> ViTVQGAN:
    """Return a network with the encoder and the codebook of another, and so its tokens and its fingerprint.

    The decoder is new; of one of the same size the weights are kept, but for a last layer that gives something else.
    Raises ConfigError where the shape asks for another encoder or codebook.
    """
    new = ViTVQGAN(shape)
    for (name, wanted), found in zip(network.deciding_shape().items(), new.deciding_shape().values(), strict=True):
        if wanted != found:
            raise ConfigError(
                f"architecture.{name}: expected {wanted} as in the tokenizer to start from, found {found}; change it"
            )
    state = new.state_dict()
    for name, tensor in network.state_dict().items():
        keeps = network.decides_token(name) or shape.decoder == network.shape.decoder
        if keeps and tensor.shape == state[name].shape:
            state[name] = tensor
    new.load_state_dict(state)
    return new


def _positions(shape: ViTVQGANShape, size: TransformerSize) -> GridPositions:
    return GridPositions(shape.positions, shape.grid_side, size.width, size.num_heads)


def _blocks(size: TransformerSize) -> nn.ModuleList:
    shape = BlockShape(size.width, size.hidden, size.num_heads, "gelu")
    return nn.ModuleList(Block(shape) for _ in range(size.num_layers))


def _tanh_head(size: TransformerSize, outputs: int) -> nn.Sequential:
    """Two layers with tanh between them, after the last block. Source: section 3.1."""
    return nn.Sequential(
        nn.LayerNorm(size.width),
        nn.Linear(size.width, size.hidden),
        nn.Tanh(),
        nn.Linear(size.hidden, outputs),
    )
