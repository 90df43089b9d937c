"""Transformer layers that the tokenizers and the priors share: norms, attention, feed-forward, block."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import CausalMask, KeyValueCache, attend
from model.noble import NobleBranch, NobleLinear, NobleShape
from model.one_dnn import Linear
from model.rotary import Rotation, rotate

INIT_STD = 0.02
"""Standard deviation of weights at the start, as GPT-2 and its successors use."""
_RMS_EPSILON = 1e-6
"""As LLaMA has it."""

NormKind = Literal["layer", "rms"]
FeedForwardKind = Literal["relu", "gelu", "quick_gelu", "geglu", "swiglu"]


@dataclass(frozen=True)
class BlockShape:
    """The architecture of a block."""

    width: int
    hidden: int
    num_heads: int
    feed_forward: FeedForwardKind
    biases: bool = True
    """Of the feed-forward's layers; attention has none."""
    norm: NormKind = "layer"
    qk_norm: bool = False
    dropout: float = 0.0
    noble: NobleShape | None = None
    """The branch beside every linear layer; none: plain ones."""
    rms_epsilon: float = _RMS_EPSILON
    activation_dropout: float = 0.0
    """Inside the feed-forward."""


def make_linear(shape: BlockShape, inputs: int, outputs: int, bias: bool = False, num_parts: int = 1) -> nn.Module:
    """Return a linear layer of a block; its outputs may be several layers' in equal parts, each with its own branch."""
    if shape.noble:
        return NobleLinear(inputs, outputs, bias, shape.noble, num_parts)
    return Linear(inputs, outputs, bias)


def make_norm(kind: NormKind, width: int, rms_epsilon: float = _RMS_EPSILON) -> nn.Module:
    """Return a norm over the last dimension."""
    return nn.LayerNorm(width) if kind == "layer" else nn.RMSNorm(width, rms_epsilon)


class HeadNorm(nn.RMSNorm):
    """The norm of each head's queries or keys (B, H, N, D/H), in the precision of its weight."""

    def __init__(self, head_width: int):
        super().__init__(head_width, _RMS_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Return x, each head with a mean square of one, times a learned scale a channel."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def _head_norm(shape: BlockShape) -> nn.Module | None:
    return HeadNorm(shape.width // shape.num_heads) if shape.qk_norm else None


def _normed(x: Tensor, norm: nn.Module | None) -> Tensor:
    return norm(x) if norm else x


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence (B, N, D) to itself."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        self.num_heads = shape.num_heads
        self.to_qkv = make_linear(shape, shape.width, 3 * shape.width, num_parts=3)
        self.query_norm, self.key_norm = _head_norm(shape), _head_norm(shape)
        self.to_out = make_linear(shape, shape.width, shape.width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | CausalMask | None = None,
        rotation: Rotation | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Return (B, N, D); with a cache, x and the rotation hold the positions in turn alone, and the mask is its."""
        queries, keys, values = (_split_heads(part, self.num_heads) for part in self.to_qkv(x).chunk(3, -1))
        queries, keys = _normed(queries, self.query_norm), _normed(keys, self.key_norm)
        if rotation:
            queries, keys = rotate(queries, rotation), rotate(keys, rotation)
        if cache:
            keys, values = cache.extend(keys, values)
            mask = cache.seen.allowed
        return self.to_out(attend(queries, keys, values, mask).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention of a sequence (B, N, D) to another (B, T, D)."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        self.num_heads = shape.num_heads
        self.to_q = make_linear(shape, shape.width, shape.width)
        self.to_kv = make_linear(shape, shape.width, 2 * shape.width, num_parts=2)
        self.query_norm, self.key_norm = _head_norm(shape), _head_norm(shape)
        self.to_out = make_linear(shape, shape.width, shape.width)

    def project(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values (B, H, T, D/H) of the context: the same for every query."""
        keys, values = self.to_kv(context).chunk(2, -1)
        return _normed(_split_heads(keys, self.num_heads), self.key_norm), _split_heads(values, self.num_heads)

    def forward(self, x: Tensor, context: Tensor | tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """Return (B, N, D) for a context (B, T, D), or for its projected keys and values."""
        keys, values = self.project(context) if isinstance(context, Tensor) else context
        queries = _normed(_split_heads(self.to_q(x), self.num_heads), self.query_norm)
        return self.to_out(attend(queries, keys, values, mask).transpose(1, 2).flatten(2))


class Gate(nn.Module):
    """One half of the channels, activated, times the other. Source: "GLU Variants", arXiv 2002.05202."""

    def __init__(self, kind: Literal["geglu", "swiglu"]):
        super().__init__()
        self.activation = F.gelu if kind == "geglu" else F.silu

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., N) for (..., 2 N)."""
        gate, value = x.chunk(2, -1)
        return self.activation(gate) * value


class QuickGELU(nn.Module):
    """GELU by a sigmoid. Source: "Gaussian Error Linear Units", arXiv 1606.08415, section 2; iGPT's and CLIP's code."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x sigmoid(1.702 x)."""
        return x * torch.sigmoid(1.702 * x)


def _activation(kind: FeedForwardKind) -> nn.Module:
    if kind == "geglu" or kind == "swiglu":
        return Gate(kind)
    return {"relu": nn.ReLU, "gelu": nn.GELU, "quick_gelu": QuickGELU}[kind]()


class FeedForward(nn.Sequential):
    """Two linear layers with an activation between them; the first gives a gate twice the channels."""

    def __init__(self, shape: BlockShape):
        activation = _activation(shape.feed_forward)
        num_parts = 2 if isinstance(activation, Gate) else 1
        super().__init__(
            make_linear(shape, shape.width, num_parts * shape.hidden, shape.biases, num_parts),
            nn.Sequential(activation, nn.Dropout(inner)) if (inner := shape.activation_dropout) else activation,
            make_linear(shape, shape.hidden, shape.width, shape.biases),
        )


class Block(nn.Module):
    """A pre-norm transformer block: self-attention, cross-attention where there is a context, feed-forward."""

    def __init__(self, shape: BlockShape, has_context: bool = False):
        super().__init__()
        self.self_norm = make_norm(shape.norm, shape.width, shape.rms_epsilon)
        self.self_attention = SelfAttention(shape)
        self.cross_norm = make_norm(shape.norm, shape.width, shape.rms_epsilon) if has_context else None
        self.cross_attention = CrossAttention(shape) if has_context else None
        self.feed_forward_norm = make_norm(shape.norm, shape.width, shape.rms_epsilon)
        self.feed_forward = FeedForward(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | CausalMask | None = None,
        rotation: Rotation | None = None,
        cache: KeyValueCache | None = None,
        context: Tensor | tuple[Tensor, Tensor] | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Return (B, N, D); masks are boolean and broadcast to (B, H, N, keys)."""
        x = x + self.dropout(self.self_attention(self.self_norm(x), mask, rotation, cache))
        if self.cross_attention and self.cross_norm and context is not None:
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), context, context_mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def initialise(module: nn.Module, num_layers: int) -> None:
    """Draw all weights anew: normal, those that end a residual branch smaller by sqrt(2 layers)."""

    def std_of(name: str, weight: nn.Parameter) -> float:
        std = INIT_STD if "positions" in name else weight.shape[1] ** -0.5
        return std / (2 * num_layers) ** 0.5 if name.endswith(("to_out.weight", "feed_forward.2.weight")) else std

    draw_matrices(module, std_of)


def draw_matrices(module: nn.Module, std_of: Callable[[str, nn.Parameter], float]) -> None:
    """Draw all of two dimensions or more anew, normal, each with the standard deviation that its name tells.

    NOBLE's branches stay as they were drawn, and what they stand beside, of the plain layer's name, begins smaller by
    its factor.
    """
    branches = [child for child in module.modules() if isinstance(child, NobleBranch)]
    drawn = {id(parameter) for branch in branches for parameter in branch.parameters()}
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 and id(parameter) not in drawn:
            nn.init.normal_(parameter, std=std_of(name.replace(".main.", "."), parameter))
    for layer in module.modules():
        if isinstance(layer, NobleLinear):
            layer.shrink_main()


def positions_2d(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the sums of row and column embeddings (G, D) in raster order, (G * G, D)."""
    return (rows[:, None] + columns[None, :]).flatten(0, 1)
