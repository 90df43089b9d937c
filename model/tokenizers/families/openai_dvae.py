"""OpenAI's dVAE, as published: encoder.pkl and decoder.pkl, two pickled modules.

Read off the tensors: groups, blocks, widths, codebook. Not there: the image side (256). Without its decoder it encodes
and does not decode. The project ran all but the last convolution in half precision on a GPU, so that tokens made there
differ from these in a few places.
Source: "Zero-Shot Text-to-Image Generation", arXiv 2102.12092v2, appendix A; openai/DALL-E.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from model.tokenizers.families.pixels import RANGES, from_pixels, to_pixels
from model.tokenizers.families.published import (
    MOST_BLOCKS,
    MOST_LEVELS,
    Family,
    Published,
    count,
    fit,
    only,
    refuse_choices,
    refuse_many,
    refuse_remainder_of_side,
    tensor_named,
)
from model.tokenizers.network import TokenizerNetwork, TokenizerSpec
from model.tokenizers.quantize import most_likely
from parti_data.errors import TokenizerError

NAME = "openai_dvae"
_IMAGE_SIDE = 256
_ENCODER_KERNELS, _DECODER_KERNELS = (3, 3, 3, 1), (1, 3, 3, 3)
_INPUT_KERNEL = 7
_BLOCK = "blocks.group_{}.block_1.res_path.conv_1.w"


@dataclass(frozen=True)
class HalfShape:
    """One half's architecture."""

    width_in: int
    first_width: int
    widths: tuple[int, ...]
    """Of each group."""
    num_blocks: int
    """A group."""
    width_out: int


class _Convolution(nn.Module):
    """A convolution that keeps the sides, whose tensors are called w and b."""

    def __init__(self, width_in: int, width: int, kernel: int):
        super().__init__()
        reference = nn.Conv2d(width_in, width, kernel)
        self.w, self.b = reference.weight, reference.bias
        self._padding = (kernel - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, padding=self._padding)


class _Block(nn.Module):
    """Four convolutions, each after a ReLU, a quarter as wide within, beside a shortcut."""

    def __init__(self, width_in: int, width: int, kernels: tuple[int, ...], gain: float):
        super().__init__()
        self.id_path = _Convolution(width_in, width, 1) if width_in != width else nn.Identity()
        widths = (width_in, *(width // 4,) * 3, width)
        self.res_path = nn.ModuleDict(
            {f"conv_{n + 1}": _Convolution(widths[n], widths[n + 1], kernel) for n, kernel in enumerate(kernels)}
        )
        self._gain = gain

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for convolution in self.res_path.values():
            y = convolution(y.relu())
        return self.id_path(x) + self._gain * y


class _Half(nn.Module):
    """Groups of blocks with a change of the side between them, and a ReLU before the last convolution."""

    def __init__(self, shape: HalfShape, input_kernel: int, kernels: tuple[int, ...]):
        super().__init__()
        gain = 1 / (len(shape.widths) * shape.num_blocks) ** 2
        self.blocks = nn.ModuleDict({"input": _Convolution(shape.width_in, shape.first_width, input_kernel)})
        width_in = shape.first_width
        for number, width in enumerate(shape.widths):
            group = nn.ModuleDict()
            for block in range(shape.num_blocks):
                group[f"block_{block + 1}"] = _Block(width_in, width, kernels, gain)
                width_in = width
            self.blocks[f"group_{number + 1}"] = group
        self.blocks["output"] = nn.ModuleDict({"conv": _Convolution(width_in, shape.width_out, 1)})
        self._num_groups = len(shape.widths)

    def hidden(self, x: Tensor, resample: Any) -> Tensor:
        """Return what the last convolution is given."""
        x = self.blocks["input"](x)
        for number in range(1, self._num_groups + 1):
            for block in self.blocks[f"group_{number}"].values():  # type: ignore[operator]
                x = block(x)
            if number < self._num_groups:
                x = resample(x)
        return x.relu()

    @property
    def last(self) -> _Convolution:
        """The last convolution."""
        return self.blocks["output"]["conv"]  # type: ignore[index, return-value]


class _Both(nn.Module):
    """The tensors of both files, under `encoder.` and `decoder.`."""

    def __init__(self, encoder: HalfShape, decoder: HalfShape | None):
        super().__init__()
        self.encoder = _Half(encoder, _INPUT_KERNEL, _ENCODER_KERNELS)
        if decoder:
            self.decoder = _Half(decoder, 1, _DECODER_KERNELS)


class OpenAIDVAE(TokenizerNetwork):
    """Images to tokens and back."""

    def __init__(self, both: _Both, encoder: HalfShape, image_side: int, resize_recipe: str):
        super().__init__()
        self.both, self.shape = both, encoder
        self.image_side, self.resize_recipe = image_side, resize_recipe

    @property
    def spec(self) -> TokenizerSpec:
        """What a user of its tokens has to know."""
        grid_side = self.image_side // patch_side(self.shape)
        return TokenizerSpec(
            NAME, self.shape.width_out, grid_side, self.image_side, RANGES["dalle"], self.resize_recipe, any_side=True
        )

    def deciding_shape(self) -> dict[str, Any]:
        """Return the encoder's architecture."""
        return asdict(self.shape) | {"widths": list(self.shape.widths), "image_side": self.image_side}

    def decides_token(self, tensor_name: str) -> bool:
        """Whether a tensor belongs to the encoder."""
        return tensor_name.startswith("both.encoder.")

    def to_input(self, images: Tensor) -> Tensor:
        """Return float32 (B, 3, S, S), in [0.1, 0.9], for images uint8 (B, S, S, 3)."""
        return to_pixels(images, "dalle")

    def latents(self, inputs: Tensor) -> Tensor:
        """Return (B, I, K), what the last convolution makes logits of; the project too ran that in float32 always."""
        return self.both.encoder.hidden(inputs, _halve).flatten(2).transpose(1, 2)

    def quantize(self, latents: Tensor) -> Tensor:
        """Return tokens int64 (B, I), the largest logits."""
        last = self.both.encoder.last
        return most_likely(latents, last.w.flatten(1), last.b)  # type: ignore[arg-type]

    @property
    def has_decoder(self) -> bool:
        """Whether decoder.pkl lay beside encoder.pkl."""
        return hasattr(self.both, "decoder")

    def decode(self, tokens: Tensor) -> Tensor:
        """Return images (B, S, S, 3), in [0, 1] or a little outside; raises TokenizerError without a decoder."""
        if not self.has_decoder:
            raise TokenizerError("decoder.pkl: expected beside encoder.pkl to decode, found none; put it there")
        side = round(tokens.shape[1] ** 0.5)
        codes = F.one_hot(tokens, self.shape.width_out).float().transpose(1, 2).unflatten(2, (side, side))
        decoder = self.both.decoder
        statistics = decoder.last(decoder.hidden(codes, _double))
        return from_pixels(statistics[:, :3].sigmoid(), "dalle")


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def patch_side(encoder: HalfShape) -> int:
    """Return the pixels that a token covers along a side."""
    return 2 ** (len(encoder.widths) - 1)


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of encoder.pkl, or of it and decoder.pkl."""
    return "encoder." + _BLOCK.format(1) in tensors or (_BLOCK.format(1) in tensors)


def build(published: Published) -> OpenAIDVAE:
    """Return the tokenizer; raises TokenizerError."""
    refuse_choices(published, "image_side")
    path, choices = published.path, published.choices
    tensors = only(published.tensors, ("encoder.blocks.", "decoder.blocks."))
    encoder = _infer(tensors, "encoder.", path)
    decoder = _infer(tensors, "decoder.", path) if "decoder.blocks.input.w" in tensors else None
    if decoder and decoder.width_in != encoder.width_out:
        raise TokenizerError(
            f"{path}: expected a decoder of {encoder.width_out} codes, found {decoder.width_in}; take both "
            "files of one release"
        )
    image_side = choices.image_side or _IMAGE_SIDE
    refuse_remainder_of_side(path, image_side, patch_side(encoder))
    both = fit(lambda: _Both(encoder, decoder), tensors, path)
    return OpenAIDVAE(both, encoder, image_side, choices.resize_recipe or "dalle")


def _infer(tensors: Mapping[str, Tensor], half: str, path: str) -> HalfShape:
    first = tensor_named(tensors, f"{half}blocks.input.w", path)
    last = tensor_named(tensors, f"{half}blocks.output.conv.w", path)
    num_groups = count(tensors, half + _BLOCK, start=1)
    num_blocks = count(tensors, half + "blocks.group_1.block_{}.res_path.conv_1.w", start=1)
    refuse_many(path, f"groups of the {half[:-1]}", num_groups, MOST_LEVELS)
    refuse_many(path, f"blocks a group of the {half[:-1]}", num_blocks, MOST_BLOCKS)
    names = [f"{half}blocks.group_{n}.block_1.res_path.conv_4.w" for n in range(1, num_groups + 1)]
    tensor_named(tensors, f"{half}{_BLOCK.format(1)}", path)
    widths = tuple(tensor_named(tensors, name, path).shape[0] for name in names)
    return HalfShape(first.shape[1], first.shape[0], widths, num_blocks, last.shape[0])


OPENAI_DVAE = Family(NAME, recognises, lambda config: False, build)
