"""OpenAI's dVAE: convolutions to logits of codes, and from codes to the parameters of a distribution of pixels.

The published weights and those that are trained here are in the same modules, by the names that were published. The
convolutions at both ends of a half are float32 where the rest is bfloat16.
Source: "Zero-Shot Text-to-Image Generation", arXiv 2102.12092v2, appendix A; openai/DALL-E.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.tokenizers.families.pixels import RANGES, from_pixels, to_pixels
from model.tokenizers.network import TokenizerNetwork, TokenizerSpec
from model.tokenizers.quantize import most_likely
from parti_data.errors import TokenizerError

NAME = "openai_dvae"
_ENCODER_KERNELS, _DECODER_KERNELS = (3, 3, 3, 1), (1, 3, 3, 3)
_INPUT_KERNEL = 7


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


class Convolution(nn.Module):
    """A convolution that keeps the sides, whose tensors are called w and b.

    It begins as the project's own code has it: normal weights that keep a variance, biases of zero. With `exact` it is
    float32 under autocast too.
    """

    def __init__(self, width_in: int, width: int, kernel: int, exact: bool = False):
        super().__init__()
        deviation = (width_in * kernel**2) ** -0.5
        self.w = nn.Parameter(torch.empty(width, width_in, kernel, kernel).normal_(std=deviation))
        self.b = nn.Parameter(torch.zeros(width))
        self._padding, self._exact = (kernel - 1) // 2, exact

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, M, H, W) for (B, N, H, W)."""
        if not (self._exact and torch.is_autocast_enabled(x.device.type)):
            return F.conv2d(x, self.w, self.b, padding=self._padding)
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x.float(), self.w, self.b, padding=self._padding)


class _Block(nn.Module):
    """Four convolutions, each after a ReLU, a quarter as wide within, beside a shortcut."""

    def __init__(self, width_in: int, width: int, kernels: tuple[int, ...], gain: float):
        super().__init__()
        self.id_path = Convolution(width_in, width, 1) if width_in != width else nn.Identity()
        widths = (width_in, *(width // 4,) * 3, width)
        self.res_path = nn.ModuleDict(
            {f"conv_{n + 1}": Convolution(widths[n], widths[n + 1], kernel) for n, kernel in enumerate(kernels)}
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
        self.blocks = nn.ModuleDict({"input": Convolution(shape.width_in, shape.first_width, input_kernel, True)})
        width_in = shape.first_width
        for number, width in enumerate(shape.widths):
            group = nn.ModuleDict()
            for block in range(shape.num_blocks):
                group[f"block_{block + 1}"] = _Block(width_in, width, kernels, gain)
                width_in = width
            self.blocks[f"group_{number + 1}"] = group
        self.blocks["output"] = nn.ModuleDict({"conv": Convolution(width_in, shape.width_out, 1, True)})
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
    def last(self) -> Convolution:
        """The last convolution."""
        return self.blocks["output"]["conv"]  # type: ignore[index, return-value]


class Halves(nn.Module):
    """The tensors of both files, under `encoder.` and `decoder.`."""

    def __init__(self, encoder: HalfShape, decoder: HalfShape | None):
        super().__init__()
        self.encoder = _Half(encoder, _INPUT_KERNEL, _ENCODER_KERNELS)
        if decoder:
            self.decoder = _Half(decoder, 1, _DECODER_KERNELS)


class OpenAIDVAE(TokenizerNetwork):
    """Images to tokens and back."""

    def __init__(self, both: Halves, encoder: HalfShape, image_side: int, resize_recipe: str, path: str):
        super().__init__()
        self._path = path
        self.both, self.encoder_shape = both, encoder
        self.image_side, self.resize_recipe = image_side, resize_recipe

    @property
    def spec(self) -> TokenizerSpec:
        """What a user of its tokens has to know."""
        grid_side = self.image_side // patch_side(self.encoder_shape)
        return TokenizerSpec(
            NAME,
            self.encoder_shape.width_out,
            grid_side,
            self.image_side,
            RANGES["dalle"],
            self.resize_recipe,
            any_side=True,
        )

    def deciding_shape(self) -> dict[str, Any]:
        """Return the encoder's architecture."""
        return asdict(self.encoder_shape) | {"widths": list(self.encoder_shape.widths), "image_side": self.image_side}

    def decides_token(self, tensor_name: str) -> bool:
        """Whether a tensor belongs to the encoder."""
        return tensor_name.startswith("both.encoder.")

    def to_input(self, images: Tensor) -> Tensor:
        """Return float32 (B, 3, S, S), in [0.1, 0.9], for images uint8 (B, S, S, 3)."""
        return to_pixels(images, "dalle")

    def latents(self, inputs: Tensor) -> Tensor:
        """Return (B, I, K), what the last convolution makes logits of; the project too ran that in float32 always."""
        return self.hidden(inputs).flatten(2).transpose(1, 2)

    def hidden(self, inputs: Tensor) -> Tensor:
        """Return (B, K, H, W), what the encoder's last convolution is given, for inputs (B, C, S, S)."""
        return self.both.encoder.hidden(inputs, _halve)

    def quantize(self, latents: Tensor) -> Tensor:
        """Return tokens int64 (B, I), the largest logits."""
        last = self.both.encoder.last
        return most_likely(latents, last.w.flatten(1), last.b)  # type: ignore[arg-type]

    @property
    def has_decoder(self) -> bool:
        """Whether decoder.pkl lay beside encoder.pkl."""
        return hasattr(self.both, "decoder")

    def refuse_without_decoder(self) -> None:
        """Raise TokenizerError where decoder.pkl was not beside the encoder."""
        if not self.has_decoder:
            raise TokenizerError(f"{self._path}: expected decoder.pkl beside encoder.pkl, found none; put it there")

    def decode(self, tokens: Tensor) -> Tensor:
        """Return images (B, S, S, 3), in [0, 1] or a little outside; raises TokenizerError without a decoder."""
        self.refuse_without_decoder()
        side = round(tokens.shape[1] ** 0.5)
        codes = F.one_hot(tokens, self.encoder_shape.width_out).float().transpose(1, 2).unflatten(2, (side, side))
        return from_pixels(self.statistics(codes)[:, :3].sigmoid(), "dalle")

    def statistics(self, codes: Tensor) -> Tensor:
        """Return (B, 6, S, S), the means of the logits and then ln b, for weights of codes (B, V, H, W)."""
        decoder = self.both.decoder
        return decoder.last(decoder.hidden(codes, _double))


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def patch_side(encoder: HalfShape) -> int:
    """Return the pixels that a token covers along a side."""
    return 2 ** (len(encoder.widths) - 1)
