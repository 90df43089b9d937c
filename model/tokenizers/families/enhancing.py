"""enhancing-transformers' ViT-VQGAN: plain, with a residual quantized several times, and with a single head.

Read off the tensors: patch, grid, widths, layers, codebook; heads, which are 64 wide. Only the config tells how often
the residual is quantized (`use_residual`, `num_quantizers`; without one: once), whether codes are normalised
(`use_norm`; without: yes), and heads of another width (`dim_head`). Its Gumbel form draws noise when it encodes; here
the token is the likeliest code, which is the nearest.
Source: thuanz123/enhancing-transformers.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import attend
from model.tokenizers.families.pixels import RANGES, Scale, from_pixels, to_pixels
from model.tokenizers.families.published import (
    MOST_LAYERS,
    Family,
    ForeignConfig,
    Layers,
    ModelConfig,
    Published,
    Side,
    Size,
    count,
    fit,
    only,
    read_part,
    refuse_choices,
    refuse_many,
    refuse_remainder_of_side,
    sides_of,
)
from model.tokenizers.network import TokenizerNetwork, TokenizerSpec
from model.tokenizers.quantize import nearest_codes
from parti_data.errors import TokenizerError

NAME = "enhancing"
_HEAD_WIDTH = 64
_TENSORS = ("encoder.", "decoder.", "pre_quant.", "post_quant.", "quantizer.embedding.")
_PATCHES, _POSITIONS = "encoder.to_patch_embedding.0.weight", "encoder.en_pos_embedding"


@dataclass(frozen=True)
class TransformerShape:
    """One half's architecture."""

    width: int
    hidden: int
    num_layers: int
    num_heads: int
    head_width: int = _HEAD_WIDTH


@dataclass(frozen=True)
class EnhancingShape:
    """The architecture, and what the weights do not say of the codes."""

    image_side: int
    patch_side: int
    encoder: TransformerShape
    decoder: TransformerShape
    codebook_size: int
    code_width: int
    normalises: bool = True
    num_quantizers: int = 1

    @property
    def grid_side(self) -> int:
        """Patches along a side."""
        return self.image_side // self.patch_side


class _Transformer(ForeignConfig):
    dim: Size
    depth: Layers
    heads: Size
    mlp_dim: Size
    dim_head: Size = _HEAD_WIDTH

    def shape(self) -> TransformerShape:
        return TransformerShape(self.dim, self.mlp_dim, self.depth, self.heads, self.dim_head)


class _Quantizer(ForeignConfig):
    embed_dim: Size
    n_embed: Size
    use_norm: bool = True
    use_residual: bool = False
    num_quantizers: Layers | None = None


class _Parameters(ForeignConfig):
    """`model.params` of a config."""

    image_size: Side
    patch_size: Side
    encoder: _Transformer
    decoder: _Transformer
    quantizer: _Quantizer

    def shape(self) -> EnhancingShape:
        """Return the architecture."""
        quantizer = self.quantizer
        return EnhancingShape(
            self.image_size,
            self.patch_size,
            self.encoder.shape(),
            self.decoder.shape(),
            quantizer.n_embed,
            quantizer.embed_dim,
            quantizer.use_norm,
            (quantizer.num_quantizers or 1) if quantizer.use_residual else 1,
        )


class _Attention(nn.Module):
    def __init__(self, shape: TransformerShape):
        super().__init__()
        inner = shape.num_heads * shape.head_width
        self.to_qkv = nn.Linear(shape.width, 3 * inner, bias=False)
        is_single = shape.num_heads == 1 and shape.head_width == shape.width
        self.to_out = nn.Identity() if is_single else nn.Linear(inner, shape.width)
        self._num_heads = shape.num_heads

    def forward(self, x: Tensor) -> Tensor:
        parts = (part.unflatten(-1, (self._num_heads, -1)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, -1))
        queries, keys, values = parts
        return self.to_out(attend(queries, keys, values, None).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, shape: TransformerShape):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(shape.width, shape.hidden), nn.Tanh(), nn.Linear(shape.hidden, shape.width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _Normed(nn.Module):
    """A function of the normalised input, beside a shortcut."""

    def __init__(self, width: int, function: nn.Module):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), function

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x)) + x


class _Layers(nn.Module):
    def __init__(self, shape: TransformerShape):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([_Normed(shape.width, _Attention(shape)), _Normed(shape.width, _FeedForward(shape))])
            for _ in range(shape.num_layers)
        )
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, x: Tensor) -> Tensor:
        for attention, feed_forward in self.layers:  # type: ignore[misc]
            x = feed_forward(attention(x))
        return self.norm(x)


class _Encoder(nn.Module):
    def __init__(self, shape: EnhancingShape):
        super().__init__()
        width, side = shape.encoder.width, shape.patch_side
        self.to_patch_embedding = nn.Sequential(nn.Conv2d(3, width, side, stride=side))
        self.en_pos_embedding = nn.Parameter(torch.empty(1, shape.grid_side**2, width))
        self.transformer = _Layers(shape.encoder)

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer(self.to_patch_embedding(x).flatten(2).transpose(1, 2) + self.en_pos_embedding)


class _Decoder(nn.Module):
    def __init__(self, shape: EnhancingShape):
        super().__init__()
        width, side = shape.decoder.width, shape.patch_side
        self.de_pos_embedding = nn.Parameter(torch.empty(1, shape.grid_side**2, width))
        self.transformer = _Layers(shape.decoder)
        self.to_pixel = nn.Sequential(nn.Identity(), nn.ConvTranspose2d(width, 3, side, stride=side))
        self._grid_side = shape.grid_side

    def forward(self, x: Tensor) -> Tensor:
        x = self.transformer(x + self.de_pos_embedding)
        return self.to_pixel(x.transpose(1, 2).unflatten(2, (self._grid_side, self._grid_side)))


class _Codebook(nn.Module):
    def __init__(self, shape: EnhancingShape):
        super().__init__()
        self.embedding = nn.Embedding(shape.codebook_size, shape.code_width)


class EnhancingViTVQ(TokenizerNetwork):
    """Images to tokens and back; its tensors have the names of the checkpoint."""

    def __init__(self, shape: EnhancingShape):
        super().__init__()
        self.shape = shape
        self.scale: Scale = "unit"
        self.resize_recipe = "squash"
        self.encoder, self.decoder, self.quantizer = _Encoder(shape), _Decoder(shape), _Codebook(shape)
        self.pre_quant = nn.Linear(shape.encoder.width, shape.code_width)
        self.post_quant = nn.Linear(shape.code_width, shape.decoder.width)

    @property
    def spec(self) -> TokenizerSpec:
        """What a user of its tokens has to know."""
        shape = self.shape
        return TokenizerSpec(
            NAME, shape.codebook_size, shape.grid_side, shape.image_side, RANGES[self.scale], self.resize_recipe,
            shape.num_quantizers,
        )  # fmt: skip

    def deciding_shape(self) -> dict[str, Any]:
        """Return the architecture, less the decoder's."""
        shape = asdict(self.shape)
        del shape["decoder"]
        return shape | {"scale": self.scale}

    def decides_token(self, tensor_name: str) -> bool:
        """Whether a tensor belongs to the encoder or the codebook."""
        return not tensor_name.startswith(("decoder.", "post_quant."))

    def to_input(self, images: Tensor) -> Tensor:
        """Return float32 (B, 3, S, S) for images uint8 (B, S, S, 3)."""
        return to_pixels(images, self.scale)

    def latents(self, inputs: Tensor) -> Tensor:
        """Return (B, I, K), not yet normalised."""
        return self.pre_quant(self.encoder(inputs))

    def quantize(self, latents: Tensor) -> Tensor:
        """Return tokens int64 (B, I * Q), the Q of one position together: each the code nearest to what is left."""
        left, found = latents.float(), []
        for _ in range(self.shape.num_quantizers):
            found.append(nearest_codes(left, self.quantizer.embedding.weight, normalise=self.shape.normalises))
            left = left - self._codes(found[-1])
        return torch.stack(found, -1).flatten(1)

    def decode(self, tokens: Tensor) -> Tensor:
        """Return images (B, S, S, 3), in [0, 1] or a little outside."""
        codes = self._codes(tokens.unflatten(1, (-1, self.shape.num_quantizers))).sum(-2)
        return from_pixels(self.decoder(self.post_quant(codes)), self.scale)

    def _codes(self, tokens: Tensor) -> Tensor:
        codes = self.quantizer.embedding(tokens).float()
        return F.normalize(codes, dim=-1) if self.shape.normalises else codes


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of a ViT-VQGAN of this project."""
    return _PATCHES in tensors and _POSITIONS in tensors


def describes(config: dict[str, Any]) -> bool:
    """Whether a config is one of this project's."""
    parameters = _parameters(config)
    return all(name in parameters for name in ("encoder", "decoder", "quantizer"))


def build(published: Published) -> EnhancingViTVQ:
    """Return the tokenizer; raises TokenizerError."""
    refuse_choices(published, "pixel_range", "image_side")
    tensors, path, choices = only(published.tensors, _TENSORS), published.path, published.choices
    shape = _read(published.config) if published.config else _infer(tensors, path)
    if choices.image_side not in (None, shape.image_side):
        raise TokenizerError(
            f"{path}: expected image_side {shape.image_side}, for which its positions are, found {choices.image_side}"
        )
    network = fit(lambda: EnhancingViTVQ(shape), tensors, published.named)
    network.scale = choices.pixel_range or network.scale
    network.resize_recipe = choices.resize_recipe or network.resize_recipe
    return network


def _parameters(config: dict[str, Any]) -> dict[str, Any]:
    outer = config.get("model", config)
    inner = outer.get("params", outer) if isinstance(outer, dict) else {}
    return inner if isinstance(inner, dict) else {}


def _read(config: ModelConfig) -> EnhancingShape:
    read = read_part(_Parameters, _parameters(config.values), config.path)
    refuse_remainder_of_side(config.path, read.image_size, read.patch_size)
    if read.quantizer.use_residual and read.quantizer.num_quantizers is None:
        raise TokenizerError(
            f"{config.path}: expected num_quantizers beside use_residual, found none; say how often it is quantized"
        )
    return read.shape()


def _infer(tensors: Mapping[str, Tensor], path: str) -> EnhancingShape:
    patch_side = sides_of(tensors, _PATCHES, path, 4)[-1]
    num_positions = sides_of(tensors, _POSITIONS, path, 3)[1]
    grid_side = round(num_positions**0.5)
    if grid_side**2 != num_positions:
        raise TokenizerError(f"{path}: expected positions of a square grid, found {num_positions}")
    size, code_width = sides_of(tensors, "quantizer.embedding.weight", path, 2)
    halves = (_infer_half(tensors, half, path) for half in ("encoder", "decoder"))
    return EnhancingShape(grid_side * patch_side, patch_side, *halves, codebook_size=size, code_width=code_width)


def _infer_half(tensors: Mapping[str, Tensor], half: str, path: str) -> TransformerShape:
    layers = f"{half}.transformer.layers."
    inner = sides_of(tensors, f"{layers}0.0.fn.to_qkv.weight", path, 2)[0] // 3
    hidden, width = sides_of(tensors, f"{layers}0.1.fn.net.0.weight", path, 2)
    num_layers = count(tensors, layers + "{}.0.fn.to_qkv.weight")
    refuse_many(path, f"layers of the {half}", num_layers, MOST_LAYERS)
    if f"{layers}0.0.fn.to_out.weight" not in tensors:
        return TransformerShape(width, hidden, num_layers, 1, width)
    if inner % _HEAD_WIDTH:
        raise TokenizerError(f"{path}: expected heads {_HEAD_WIDTH} wide, found {inner} together; give the config")
    return TransformerShape(width, hidden, num_layers, inner // _HEAD_WIDTH)


ENHANCING = Family(NAME, recognises, describes, build)
