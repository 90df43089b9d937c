"""Priors of one stream: a prefix, which may be a class or a text, and the image tokens behind it.

A stream has P + I - 1 positions: P of the prefix, then each image token but the last. Position P - 1 + i tells token i.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.attention import CausalMask, KeyValueCache, Seen
from model.layers import Block, make_norm
from model.one_dnn import Linear
from model.priors.prior import KeysAndValues, Prior, PriorShape
from model.shapes import refuse_below
from model.transformer_shape import TransformerShape

_MOST_LAYERS, _MOST_HEAD_WIDTH, _MOST_POSITIONS = 256, 1024, 1 << 13
"""Of a file whose header asks for more nothing is built: masks are not in its weights."""


@dataclass(frozen=True, kw_only=True)
class DecoderOnlyShape(TransformerShape, PriorShape):
    """The architecture of the blocks, and how many there are."""

    num_layers: int = 24

    def __post_init__(self):
        super().__post_init__()
        refuse_below("num_layers", self.num_layers, 1)

    @property
    def num_prefix(self) -> int:
        """Positions of the prefix."""
        return 1

    @property
    def num_positions(self) -> int:
        """Positions of the stream."""
        return self.num_prefix + self.num_tokens - 1

    def refuse_excess(self) -> None:
        """Raise ValueError for sizes in a file's header that would take memory beyond its weights."""
        is_long = self.grid_side > _MOST_POSITIONS or self.num_positions > _MOST_POSITIONS
        if is_long or self.num_layers > _MOST_LAYERS or self.head_width > _MOST_HEAD_WIDTH:
            raise ValueError(
                f"a header of {self.num_layers} layers, {self.num_prefix} positions before a grid side of "
                f"{self.grid_side}, heads of {self.head_width} channels"
            )


class DecoderOnly(Prior):
    """Blocks over the stream; a family says what the prefix is, where tokens are, and how weights begin."""

    def __init__(self, shape: DecoderOnlyShape, masks: list[CausalMask]):
        super().__init__()
        self.shape, self.num_before = shape, shape.num_prefix - 1
        self.token_embedding = nn.Embedding(shape.codebook_size, shape.width)
        self.decoder = nn.ModuleList(Block(shape.block) for _ in range(shape.num_layers))
        self.decoder_norm = make_norm(shape.norm, shape.width, shape.block.rms_epsilon)
        self.to_logits = Linear(shape.width, shape.codebook_size, bias=False)
        self.dropout = nn.Dropout(shape.dropout)
        self.masks = nn.ModuleList(masks)
        """Of each block."""

    @abstractmethod
    def embed_prefix(self, condition: Tensor) -> Tensor:
        """Return what is read at the positions of the prefix, (B, P, D)."""

    @abstractmethod
    def read_positions(self) -> Tensor:
        """Return what is added to each image token but the last when it is read, (I - 1, D)."""

    def forward(self, condition: Tensor, image_tokens: Tensor) -> Tensor:
        """Return logits float32 (B, N, V): position i is told by the prefix and, of the tokens before i, what the masks
        allow.

        The tokens (B, N) may be only the first of an image.
        """
        return self.tell(self.states(condition, image_tokens)[:, self.num_before :])

    def states(self, condition: Tensor, image_tokens: Tensor) -> Tensor:
        """Return what the last block makes of the stream up to the last of the tokens (B, N), (B, P + N - 1, D)."""
        return deque(self._made(condition, image_tokens), maxlen=1).pop()

    def tell(self, states: Tensor) -> Tensor:
        """Return logits float32 (..., V) of image tokens."""
        return self.to_logits(self.decoder_norm(states)).float()

    def features(self, condition: Tensor, image_tokens: Tensor) -> Tensor:
        """Return what a linear probe reads of images (B, I): of the first block's input and of each block's output,
        float32 (L + 1, B, D), the mean over the positions that tell image tokens.

        The last token is read at none of them. Source: "Vector-quantized Image Modeling with Improved VQGAN", arXiv
        2110.04627v3, section 4.2.
        """
        made = enumerate(self._made(condition, image_tokens))
        pooled = [self._feature(x[:, self.num_before :], layer).mean(1, dtype=torch.float32) for layer, x in made]
        return torch.stack(pooled)

    def begin(self, condition: Tensor, caches: list[KeysAndValues]) -> Tensor:
        """Return the embedded prefix (B, P, D); the caches hold all of it but the last position."""
        prefix = self.embed_prefix(condition)
        if self.num_before:
            self._fill(prefix[:, :-1], caches)
        return prefix

    def prefill(self, image_tokens: Tensor, context: Tensor, caches: list[KeysAndValues]) -> None:
        """Leave in the caches what a step at each of the first positions would, given their tokens (B, N), N > 0."""
        self._fill(self._stream(context, image_tokens), caches)

    def step(self, last_tokens: Tensor, position: Tensor, context: Tensor, caches: list[KeysAndValues]) -> Tensor:
        """Return logits float32 (B, V) of a position, int64 (1), given the token before it (B); before position 0 any.

        The caches hold what the steps before have left there.
        """
        before = self.read_positions()[(position - 1).clamp_min(0)]
        x = torch.where(position == 0, context[:, -1], self.token_embedding(last_tokens) + before)[:, None]
        place, num_keys = position + self.num_before, caches[0][0].shape[2]
        seen = self._seen(lambda mask: mask.seen_from(place, num_keys))
        for block, (keys, values), sees in zip(self.decoder, caches, seen, strict=True):
            x = block(x, cache=KeyValueCache(keys, values, sees))
        return self.tell(x)[:, 0]

    def _feature(self, x: Tensor, layer: int) -> Tensor:
        """Return what features are the mean of, (B, N, D), given what so many blocks have made of the stream."""
        return x

    def _made(self, condition: Tensor, image_tokens: Tensor) -> Iterator[Tensor]:
        """Yield the stream as the first block reads it, then what each block makes of it."""
        x = self._stream(self.embed_prefix(condition), image_tokens)
        yield x
        for block, mask in zip(self.decoder, self.masks, strict=True):
            x = block(x, mask)
            yield x

    def _stream(self, prefix: Tensor, image_tokens: Tensor) -> Tensor:
        """Return what the blocks read up to the last of the tokens (B, N), (B, P + N - 1, D)."""
        before = self.token_embedding(image_tokens[:, :-1]) + self.read_positions()[: image_tokens.shape[1] - 1]
        return self.dropout(torch.cat([prefix, before], 1))

    def _fill(self, x: Tensor, caches: list[KeysAndValues]) -> None:
        """Leave in the caches the keys and values of the stream's first positions, (B, N, D)."""
        end = x.shape[1]
        seen = self._seen(lambda mask: mask.seen_from_first(end))
        for block, (keys, values), sees in zip(self.decoder, caches, seen, strict=True):
            x = block(x, cache=KeyValueCache(keys[:, :, :end], values[:, :, :end], sees))

    def _seen(self, look: Any) -> list[Seen]:
        """Return what is seen under the mask of each block; equal masks are asked once."""
        found = {id(mask): look(mask) for mask in self.masks}
        return [found[id(mask)] for mask in self.masks]
