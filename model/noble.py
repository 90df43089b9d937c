"""NOBLE: linear layers with a nonlinear branch of low rank beside them, y = x W + b + cosnet(x W_down) W_up.

The branch is part of the network from its first step to its last and cannot be merged into W.

Source: Smith, "NOBLE: Accelerating Transformers with Nonlinear Low-Rank Branches", arXiv 2603.06492v1, and its code,
noble_simple.py. Its settings are there twice: the code has one set, two readers took another from section 3.3 and
appendix A. They differ in every multiplier of the learning rate, so both are presets.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.one_dnn import Linear
from model.shapes import refuse_below


@dataclass(frozen=True, kw_only=True)
class NobleShape:
    """The branch beside every linear layer of a block, how it begins and how fast it learns; the defaults are the
    code's.

    A multiplier of the rate by a power is (d / rank)^power, where d is the smaller side of the layer.
    """

    rank: int = 32
    """Channels of the branch."""
    main_scale: float = 0.5
    """What the weights of the layer itself begin smaller by."""
    down_bias: bool = True
    mixing_init: Literal["normal", "xavier"] = "normal"
    """Of the matrix between the cosines: normal, of standard deviation 0.5 / sqrt(rank), or Xavier's uniform."""
    mixing_bias: bool = True
    frequency_spread: float = 0.2
    """Frequencies begin evenly spread over 1 - spread to 1 + spread."""
    phase_std: float = 0.1
    up_scale: float = 0.01
    """The branch adds so much at the start, beside outputs of the layer near `main_scale`."""
    up_power: float = 0.4
    mixing_power: float = 0.5
    frequency_multiplier: float = 2.0
    phase_multiplier: float = 4.0

    PRESETS: ClassVar[dict[str, "NobleShape"]] = {}

    def __post_init__(self):
        for name, value in vars(self).items():
            if not isinstance(value, str):
                refuse_below(f"noble.{name}", value, int(name == "rank"))


NobleShape.PRESETS.update(
    code=NobleShape(),
    paper=NobleShape(
        rank=64, down_bias=False, mixing_init="xavier", mixing_bias=False,
        up_power=0.6, mixing_power=0.45, frequency_multiplier=3.0, phase_multiplier=5.0,
    ),
)  # fmt: skip


class Cosine(nn.Module):
    """cos(frequency * h + phase), both learned for each of the K channels; float32 or more."""

    def __init__(self, channels: int, shape: NobleShape):
        super().__init__()
        self.frequency = nn.Parameter(torch.empty(channels))
        self.phase = nn.Parameter(torch.empty(channels))
        nn.init.uniform_(self.frequency, 1 - shape.frequency_spread, 1 + shape.frequency_spread)
        nn.init.normal_(self.phase, std=shape.phase_std)

    def forward(self, h: Tensor) -> Tensor:
        """Return (..., K) for (..., K)."""
        return torch.cos(self.frequency * h + self.phase)


class NobleBranch(nn.Module):
    """What is added to a linear layer: cos(w2 (M cos(w1 h + p1)) + p2) W_up for h = x W_down.

    Where the layer is several in one, as that of queries, keys and values, so is the branch: equal parts of its
    channels are a branch each, for equal parts of the outputs.
    """

    def __init__(self, inputs: int, outputs: int, shape: NobleShape, num_parts: int = 1):
        super().__init__()
        channels, part = num_parts * shape.rank, outputs // num_parts
        self.down = Linear(inputs, channels, shape.down_bias)
        self.first = Cosine(channels, shape)
        self.mixing = nn.ModuleList(Linear(shape.rank, shape.rank, shape.mixing_bias) for _ in range(num_parts))
        self.second = Cosine(channels, shape)
        self.up = nn.ModuleList(Linear(shape.rank, part, bias=False) for _ in range(num_parts))
        self.lr_multipliers = _lr_multipliers(self, min(inputs, part) / shape.rank, shape)
        self._draw(shape)

    def _draw(self, shape: NobleShape) -> None:
        nn.init.normal_(self.down.weight, std=self.down.in_features**-0.5)
        if self.down.bias is not None:
            nn.init.zeros_(self.down.bias)
        for mixing in self.mixing:
            if shape.mixing_init == "xavier":
                nn.init.xavier_uniform_(mixing.weight)  # type: ignore[arg-type]
            else:
                nn.init.normal_(mixing.weight, std=0.5 * shape.rank**-0.5)  # type: ignore[arg-type]
        for up in self.up:
            nn.init.normal_(up.weight, std=shape.up_scale * shape.rank**-0.5)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., M) for (..., N)."""
        return _by_part(self.up, self.second(_by_part(self.mixing, self.first(self.down(x)))))


def _by_part(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Return equal parts of the last dimension, each through a layer of its own.

    In training several are one product, with the layers on a diagonal: with rank 8, a layer of queries, keys and values
    of 128 channels took a tenth less time so, on a core of an EPYC. A step of decoding has too few rows to write that
    diagonal for.
    """
    if len(layers) == 1:
        return layers[0](x)
    if not torch.is_grad_enabled():
        parts = x.chunk(len(layers), -1)
        return torch.cat([layer(part) for layer, part in zip(layers, parts, strict=True)], -1)
    weights: list[Any] = [layer.weight for layer in layers]
    biases: list[Any] = [layer.bias for layer in layers if layer.bias is not None]
    return F.linear(x, torch.block_diag(*weights), torch.cat(biases) if biases else None)


def _lr_multipliers(branch: NobleBranch, ratio: float, shape: NobleShape) -> dict[str, float]:
    """Return what the learning rate of each parameter is multiplied by, by its name; the optimizer is made with it."""
    multipliers = {
        "down": 1.0, "mixing": ratio**shape.mixing_power, "up": ratio**shape.up_power,
        "frequency": shape.frequency_multiplier, "phase": shape.phase_multiplier,
    }  # fmt: skip
    names = [name for name, _ in branch.named_parameters()]
    return {name: next(multipliers[word] for word in name.split(".") if word in multipliers) for name in names}


class NobleLinear(nn.Module):
    """A linear layer with a branch beside it, as many in one as it is."""

    def __init__(self, inputs: int, outputs: int, bias: bool, shape: NobleShape, num_parts: int = 1):
        super().__init__()
        self._main_scale = shape.main_scale
        self.main = Linear(inputs, outputs, bias)
        self.branch = NobleBranch(inputs, outputs, shape, num_parts)
        nn.init.normal_(self.main.weight, std=inputs**-0.5)
        if bias:
            nn.init.zeros_(self.main.bias)
        self.shrink_main()

    @torch.no_grad()
    def shrink_main(self) -> None:
        """Make the weights of the layer itself, as a plain one begins, those that it begins with beside a branch."""
        self.main.weight.mul_(self._main_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., M) for (..., N)."""
        return self.main(x) + self.branch(x)
