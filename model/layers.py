"""Transformer layers that the tokenizers and the priors share: attention with a cache, feed-forward, block."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.one_dnn import product

INIT_STD = 0.02
"""Standard deviation of weights at the start, as GPT-2 and its successors use."""

LONG_SEQUENCE = 256
"""Positions from which attention is done in parts on a CPU."""
_SCORE_BYTES = 1 << 20
"""Of scores held at a time: as much as stays in a core's cache."""


class KeyValueCache:
    """Keys and values of one self-attention layer, filled position by position; float (B, H, I, D/H)."""

    def __init__(self, batch_size: int, num_heads: int, length: int, head_width: int, like: Tensor):
        shape = (batch_size, num_heads, length, head_width)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of the next positions; return those of all positions so far."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end], self.values[:, :, self.length : end] = keys, values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(q k^T / sqrt(D/H)) v over (B, H, ., D/H); `mask` is boolean, True where q may see k.

    Written out on a CPU: for the short sequences trained there, bf16 with 64 positions took half the time of
    torch's fused kernel on two Zen 5 cores; adding minus infinity took a quarter less than filling it in. On a GPU the
    fused kernel wins, and other libraries know it by its name.
    """
    if queries.is_cuda or torch.jit.is_tracing():
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    if mask is None and not torch.is_grad_enabled() and keys.shape[2] >= LONG_SEQUENCE:
        return attend_in_parts(queries, keys, values)
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    if mask is not None:
        scores = scores + scores.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
    return scores.softmax(-1).to(values.dtype) @ values


def attend_in_parts(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return what `attend` does, on a CPU without gradients, so few rows of one head at a time that they stay in cache.

    Of 1,024 positions and a width of 64 a head, on one Zen 5 core: 1.6 times as fast as torch's fused kernel in
    float32, 2.6 times in bf16.
    """
    batch, heads, length, width = queries.shape
    attended = values.new_empty(batch, length, heads, width).transpose(1, 2)
    rows = max(1, _SCORE_BYTES // (keys.shape[2] * queries.element_size()))
    for image in range(batch):
        for head in range(heads):
            scaled = queries[image, head] * width**-0.5
            all_keys, all_values = keys[image, head].contiguous(), values[image, head].T.contiguous()
            for start in range(0, length, rows):
                scores = product(scaled[start : start + rows], all_keys)
                torch.softmax(scores, -1, out=scores)
                attended[image, head, start : start + rows] = product(scores, all_values)
    return attended


class Rotation(NamedTuple):
    """Cosines and sines (N, D/H) by which queries and keys at N positions are turned."""

    cos: Tensor
    sin: Tensor  # negative where a channel's partner is taken away


class RotaryPositions(nn.Module):
    """Holds a rotation where the network is, apart from its weights."""

    def __init__(self, rotation: Rotation):
        super().__init__()
        self.register_buffer("cos", rotation.cos, persistent=False)
        self.register_buffer("sin", rotation.sin, persistent=False)

    def forward(self, start: int, end: int) -> Rotation:
        """Return the rotation of some neighbouring positions."""
        return Rotation(self.cos[start:end], self.sin[start:end])  # type: ignore[index]


def rotation_2d(grid_side: int, head_width: int, base: float = 100.0) -> Rotation:
    """Return rotary positions of a grid in raster order: the first half of a head turns by the row, the second by the
    column, so that attention depends on how far two patches are apart, wherever they lie.

    Source: RoFormer, arXiv 2104.09864; the split of axes as in LlamaGen. The base is small because a grid is short.
    """
    frequencies = base ** -(torch.arange(head_width // 4) / (head_width // 4))
    places = torch.arange(grid_side, dtype=torch.float32)[:, None] * frequencies
    rows, columns = places.repeat_interleave(grid_side, 0), places.repeat(grid_side, 1)
    return _rotation(rows, columns)


def rotation_1d(length: int, head_width: int, base: float = 100.0) -> Rotation:
    """Return rotary positions of a sequence. The base is small because a caption is short."""
    frequencies = base ** -(torch.arange(head_width // 2) / (head_width // 2))
    fast, slow = (torch.arange(length, dtype=torch.float32)[:, None] * frequencies).chunk(2, -1)
    return _rotation(fast, slow)


def _rotation(first: Tensor, second: Tensor) -> Rotation:
    """Return the rotation of channel pairs in the two halves of a head by their angles (N, D/H/4) each."""
    angles = torch.cat([first, first, second, second], dim=-1)
    signs = torch.tensor([-1.0, 1, -1, 1]).repeat_interleave(first.shape[-1])
    return Rotation(angles.cos(), angles.sin() * signs)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Return queries or keys (B, H, N, D/H) turned by their positions.

    The first quarter of a head is paired with the second, the third with the fourth.
    """
    swapped = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return x * rotation.cos.to(x.dtype) + swapped * rotation.sin.to(x.dtype)


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence (B, N, D) to itself."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Return (B, N, D); with a cache, x and the rotation hold only the positions that follow those in the cache."""
        queries, keys, values = (_split_heads(part, self.num_heads) for part in self.to_qkv(x).chunk(3, -1))
        if rotation:
            queries, keys = rotate(queries, rotation), rotate(keys, rotation)
        if cache:
            keys, values = cache.append(keys, values)
        return self.to_out(attend(queries, keys, values, mask).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention of a sequence (B, N, D) to another (B, T, D)."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def project(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values (B, H, T, D/H) of the context: the same for every query."""
        keys, values = self.to_kv(context).chunk(2, -1)
        return _split_heads(keys, self.num_heads), _split_heads(values, self.num_heads)

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """Return (B, N, D) for the context's projected keys and values."""
        queries = _split_heads(self.to_q(x), self.num_heads)
        return self.to_out(attend(queries, *context, mask).transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: Literal["relu", "gelu"]):
        super().__init__(
            nn.Linear(width, hidden),
            nn.ReLU() if activation == "relu" else nn.GELU(),
            nn.Linear(hidden, width),
        )


class Block(nn.Module):
    """A pre-norm transformer block: self-attention, cross-attention where there is a context, feed-forward."""

    def __init__(
        self,
        width: int,
        hidden: int,
        num_heads: int,
        activation: Literal["relu", "gelu"],
        dropout: float = 0.0,
        has_context: bool = False,
    ):
        super().__init__()
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = SelfAttention(width, num_heads)
        self.cross_norm = nn.LayerNorm(width) if has_context else None
        self.cross_attention = CrossAttention(width, num_heads) if has_context else None
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        context: tuple[Tensor, Tensor] | None = None,
        context_mask: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Return (B, N, D); masks are boolean and broadcast to (B, H, N, keys)."""
        x = x + self.dropout(self.self_attention(self.self_norm(x), mask, cache, rotation))
        if self.cross_attention and self.cross_norm and context:
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), context, context_mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def initialise(module: nn.Module, num_layers: int) -> None:
    """Draw all weights anew: normal, those that end a residual branch smaller by sqrt(2 layers)."""
    for name, parameter in module.named_parameters():
        if parameter.dim() < 2:
            continue
        std = INIT_STD if "positions" in name else parameter.shape[1] ** -0.5
        ends_branch = name.endswith(("to_out.weight", "feed_forward.2.weight"))
        nn.init.normal_(parameter, std=std / (2 * num_layers) ** 0.5 if ends_branch else std)


def positions_2d(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the sums of row and column embeddings (G, D) in raster order, (G * G, D)."""
    return (rows[:, None] + columns[None, :]).flatten(0, 1)
