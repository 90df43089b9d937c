"""Attention for every mask: which computation is used, what of the keys a mask lets be left out, and a cache of them.

Of a causal mask a block of queries reads only the keys between the first and the last that any of them sees, and those
of a prefix that all see; a single query, which is a step of decoding, reads only its neighbours. Both follow from the
mask's boolean array, from how long the prefix is, and in which order the positions are taken.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from model.block_plan import Blocks, plan_blocks
from model.one_dnn import product

LONG_SEQUENCE = 256
"""Positions from which attention is done in parts on a CPU."""
_BLOCK = 128
"""Queries of a sparse causal mask that are done together there."""
_SCORE_BYTES = 1 << 20
"""Of scores held at a time: as much as stays in a core's cache."""
_MANY_KEYS = 128
"""Of a single query, from which torch's kernel is its again when compiled: what torch.compile makes of the sum over so
many values of a cache reads them across, not along, their channels."""
_SPARSE_SHARE = 0.5
"""Of the positions: a mask under which none sees more has its neighbours gathered in decoding."""


class Seen(NamedTuple):
    """What one position, or each of the first ones, sees of a cache."""

    position: Tensor  # int64 (1), or (N) where it is the first ones
    neighbours: Tensor | None  # int64 (N), the positions that are read; None where all are
    allowed: "Tensor | CausalMask"  # bool (1, N), False for those that are not seen; of the first ones the mask itself


class CausalMask(nn.Module):
    """Holds a causal mask (I, I) where the network is, and what of the keys it lets be left out."""

    allowed: Tensor
    neighbours: Tensor | None
    is_neighbour: Tensor | None

    def __init__(self, allowed: np.ndarray, num_prefix: int = 0, order: np.ndarray | None = None):
        """`num_prefix`: the first positions, which all after them see. `order`, int64 (N,): in which order the others
        are taken, counted from the first of them, where those that see one another should stand side by side; the mask
        must be causal in it too.
        """
        super().__init__()
        self.register_buffer("allowed", torch.from_numpy(allowed), persistent=False)
        self.is_dense = bool(np.array_equal(allowed, np.tri(len(allowed), dtype=bool)))
        self.num_prefix, self.order = num_prefix, order
        self._blocks: dict[int, Blocks] = {}
        is_sparse = allowed.sum(1).max() <= _SPARSE_SHARE * len(allowed)
        neighbours, is_neighbour = neighbours_under(allowed) if is_sparse else (None, None)
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("is_neighbour", is_neighbour, persistent=False)

    def seen_from(self, position: Tensor, num_keys: int) -> Seen:
        """Return what a position, int64 (1), sees of the first keys; it is among them."""
        if self.neighbours is None or self.is_neighbour is None:
            return Seen(position, None, self.allowed[:, :num_keys].index_select(0, position))
        return Seen(position, self.neighbours.index_select(0, position)[0], self.is_neighbour.index_select(0, position))

    def seen_from_first(self, count: int) -> Seen:
        """Return what each of the first positions sees of the keys of as many."""
        return Seen(torch.arange(count, device=self.allowed.device), None, self)

    def blocks(self, length: int) -> Blocks:
        """Return how attention of the first positions is done in blocks, worked out once for each length."""
        if length not in self._blocks:
            allowed = self.allowed[:length, :length].cpu().numpy()
            self._blocks[length] = plan_blocks(allowed, min(self.num_prefix, length), self.order, _BLOCK)
        return self._blocks[length]


def neighbours_under(allowed: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the positions that each sees, int64 (I, N), N the most that one sees, and bool (I, N), False past them."""
    counts = allowed.sum(1)
    is_neighbour = np.arange(counts.max()) < counts[:, None]
    neighbours = np.zeros(is_neighbour.shape, np.int64)
    neighbours[is_neighbour] = np.nonzero(allowed)[1]
    return torch.from_numpy(neighbours), torch.from_numpy(is_neighbour)


class _Reordered(torch.autograd.Function):
    """Positions (B, H, I, D/H) in another order. Torch's own gradient adds into zeros, one position after another."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x.index_select(2, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(2, ctx.saved_tensors[0].argsort()), None


class KeyValueCache(NamedTuple):
    """Keys and values of one self-attention layer, float (B, H, I, D/H), and which of them the position in turn sees.

    Its shape never changes and positions are tensors, so that a step is compiled once.
    """

    keys: Tensor
    values: Tensor
    seen: Seen

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, H, N, D/H) of the position in turn, or of the first ones; return what it reads."""
        self.keys.index_copy_(2, self.seen.position, keys)
        self.values.index_copy_(2, self.seen.position, values)
        if self.seen.neighbours is None:
            return self.keys, self.values
        return self.keys.index_select(2, self.seen.neighbours), self.values.index_select(2, self.seen.neighbours)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | CausalMask | None) -> Tensor:
    """Return softmax(q k^T / sqrt(D/H)) v over (B, H, ., D/H); `mask` is boolean, True where q may see k.

    Torch's fused kernel on a GPU: forward and backward of 16 images of 1,024 positions and 16 heads of 64 in bf16 took
    0.9 ms on an H100, under an 11x11 square 1.2, by FlexAttention 1.4 and 1.9.

    Written out for short sequences on a CPU: bf16 with 64 positions took half the time of that kernel on two Zen 5
    cores; adding minus infinity took a quarter less than filling it in. From 256 positions on a dense causal mask is
    the kernel's again in float32, a sparse one is done in blocks, and from 512 on bf16 under any. On one core with
    AVX2, forward and backward of 1,024 positions and 4 heads of 64 in float32 took 32 ms so under an 11x11 square, 80
    where the kernel was given the mask, 120 written out, 390 where each position's neighbours were copied together;
    dense 55. Compiled, a single query of few keys, as in a step of decoding, is multiplied out.
    """
    is_long = keys.shape[2] >= LONG_SEQUENCE
    is_causal = isinstance(mask, CausalMask)
    if queries.is_meta:  # where products are counted
        return attend_written_out(queries, keys, values, _allowed(mask, keys.shape[2]))
    if torch.compiler.is_compiling() and queries.shape[2] == 1 and keys.shape[2] < _MANY_KEYS:
        return attend_one_query(queries, keys, values, _allowed(mask, keys.shape[2]))
    is_narrow = queries.itemsize == 2
    is_kernels = is_long and is_causal and mask.is_dense and not is_narrow
    if queries.is_cuda or torch.jit.is_tracing() or is_kernels:
        return attend_fused(queries, keys, values, mask)
    if is_causal and keys.shape[2] >= (2 if is_narrow else 1) * LONG_SEQUENCE:
        return attend_in_blocks(queries, keys, values, mask)
    if is_long and mask is None and not torch.is_grad_enabled():
        return attend_in_parts(queries, keys, values)
    return attend_written_out(queries, keys, values, _allowed(mask, keys.shape[2]))


def attend_written_out(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return what `attend` does, with all scores at once."""
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    if mask is not None:
        scores = scores + scores.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
    return scores.softmax(-1).to(values.dtype) @ values


def attend_one_query(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return what `attend` does for queries (B, H, 1, D/H), as products and sums alone, which are float32.

    Compiled, they take keys and values from where these are chosen from a cache, so that none is copied or read twice;
    otherwise each product would be held.
    """
    scores = (queries.float() * keys.float()).sum(-1)[:, :, None] * queries.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1).transpose(-1, -2)
    return (weights * values.float()).sum(2, keepdim=True).to(values.dtype)


def attend_in_blocks(queries: Tensor, keys: Tensor, values: Tensor, mask: CausalMask) -> Tensor:
    """Return what `attend` does, a block of queries at a time with the prefix and the span of keys that they see.

    Of 256 text positions and 32x32 image positions, forward and backward of 4 heads of 64 on one Zen 5 core: in float32
    24 ms under a row's mask, 26 under a column's, 30 under an 11x11 square, where torch's dense kernel took 46. In bf16
    a block is written out, since that kernel's gradients are twice as slow: 11, 13 and 13 ms, dense so 17, by the
    kernel 34. It keeps what each position gives to each that it may see for the backward pass, two bytes a head.
    """
    is_written_out = queries.itemsize == 2 and not queries.is_cuda
    attend_block = attend_written_out if is_written_out else F.scaled_dot_product_attention
    plan = mask.blocks(queries.shape[2])
    order = None if plan.order is None else plan.order.to(queries.device)
    if order is not None:
        queries, keys, values = (_Reordered.apply(each, order) for each in (queries, keys, values))
    key_pieces, value_pieces = keys.split(plan.key_sizes, 2), values.split(plan.key_sizes, 2)
    attended = []
    for block, asking in zip(plan.blocks, queries.split(plan.query_sizes, 2), strict=True):
        near_keys = torch.cat([key_pieces[piece] for piece in block.pieces], 2)
        near_values = torch.cat([value_pieces[piece] for piece in block.pieces], 2)
        allowed = block.allowed.to(queries.device)
        attended.append(attend_block(asking, near_keys, near_values, allowed))
    whole = torch.cat(attended, 2)
    return whole if order is None else _Reordered.apply(whole, order.argsort())


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


def attend_fused(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | CausalMask | None) -> Tensor:
    """Return what `attend` does by torch's kernel, whose fastest form knows the dense causal mask by name alone."""
    if isinstance(mask, CausalMask) and mask.is_dense:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=_allowed(mask, keys.shape[2]))


def _allowed(mask: Tensor | CausalMask | None, length: int) -> Tensor | None:
    return mask.allowed[:length, :length] if isinstance(mask, CausalMask) else mask
