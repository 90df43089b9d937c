"""Parti: a text encoder and a causal decoder that predicts image tokens in raster order.

Source: "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation", arXiv 2206.10789v1, section 2.2:
encoder-decoder, an extra norm after both (section 3). Where the paper is silent, and where this project's own scenes
showed another choice to be better, `PartiShape` names the choices.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from model.attention import CausalMask, KeyValueCache
from model.layers import Block, initialise, make_norm, positions_2d
from model.masks import make_mask
from model.one_dnn import Linear
from model.priors.prior import KeysAndValues, Prior, PriorShape
from model.rotary import RotaryPositions, Rotation, rotation_2d
from model.shapes import refuse_below, refuse_even
from model.text_encoder import EncodedText, TextEncoder, TextEncoderShape, position_table, refuse_excess
from parti_data.text import END, PAD


@dataclass(frozen=True, kw_only=True)
class PartiShape(TextEncoderShape, PriorShape):
    """The architecture; width, layers and heads default to Parti-350M (table 1), the rest to what scenes took best."""

    num_decoder_layers: int = 12
    image_attention: Literal["dense", "conv"] = "dense"
    """What a position sees of the image before it. `conv`, the paper's choice for every layer (section 2.2): a square
    around it. `dense`: all, which costs little at up to 1,024 positions, and a scene's objects lie far apart."""
    kernel_side: int = 11
    """Of that square. Parti states none; DALL-E's, which it refers to, is 11 (arXiv 2102.12092v2, appendix B.1)."""

    def __post_init__(self):
        super().__post_init__()
        refuse_below("num_decoder_layers", self.num_decoder_layers, 1)
        refuse_even("kernel_side", self.kernel_side)

    def refuse_excess(self) -> None:
        """Raise ValueError for sizes in a file's header that would take memory beyond its weights."""
        refuse_excess(self, max(self.num_encoder_layers, self.num_decoder_layers), self.grid_side)


class ProjectedText(NamedTuple):
    """Text as the decoder reads it, the same for every step."""

    layers: list[KeysAndValues]  # (B, H, T, D/H) for each decoder layer
    mask: Tensor  # bool (B, 1, 1, T), True where there is text


class Parti(Prior):
    """The prior: text ids (B, T) and image tokens (B, I) to logits (B, I, V)."""

    reads = "text"

    def __init__(self, shape: PartiShape):
        super().__init__()
        self.shape = shape
        self.text_encoder = TextEncoder(shape)
        self.token_embedding = nn.Embedding(shape.codebook_size, shape.width)
        self.start_positions = position_table(1, shape.width)
        self.row_positions = position_table(shape.grid_side, shape.width) if shape.has_tables else None
        self.column_positions = position_table(shape.grid_side, shape.width) if shape.has_tables else None
        self.decoder = nn.ModuleList(Block(shape.block, has_context=True) for _ in range(shape.num_decoder_layers))
        self.decoder_norm = make_norm(shape.norm, shape.width)
        self.to_logits = Linear(shape.width, shape.codebook_size, bias=False)
        self.dropout = nn.Dropout(shape.dropout)
        initialise(self, shape.num_encoder_layers + shape.num_decoder_layers)
        self.mask = CausalMask(make_mask(shape.image_attention, shape.grid_side, shape.kernel_side))
        rotation = rotation_2d(shape.grid_side, shape.head_width) if shape.has_rotations else None
        self.image_rotation = RotaryPositions(rotation) if rotation else None

    def condition(self, captions: Iterable[str], text_ids: Tensor) -> Tensor:
        """Return the text ids."""
        return text_ids

    def without(self, condition: Tensor) -> Tensor:
        """Return text ids (B, T) that stand for no text: END, then padding. Parti does not state its null condition."""
        ids = torch.full_like(condition, PAD)
        ids[:, 0] = END
        return ids

    @property
    def blocks(self) -> list[nn.Module]:
        """Those of the text encoder, then those of the decoder."""
        return [*self.text_encoder.blocks, *self.decoder]

    def forward(self, condition: Tensor, image_tokens: Tensor) -> Tensor:
        """Return logits float32 (B, N, V): position i sees the text and, of the tokens before i, what the mask allows.

        The tokens (B, N) may be only the first of an image.
        """
        text: EncodedText = self.text_encoder(condition)
        x, rotation = self._embed(image_tokens)
        for block in self.decoder:
            x = block(x, self.mask, rotation, context=text.states, context_mask=text.mask)
        return self._logits(x)

    def begin(self, condition: Tensor, caches: list[KeysAndValues]) -> ProjectedText:
        """Return text as each layer of the decoder reads it; the caches stay as they are."""
        text = self.text_encoder(condition)
        return ProjectedText([block.cross_attention.project(text.states) for block in self.decoder], text.mask)  # type: ignore[union-attr]

    def prefill(self, image_tokens: Tensor, context: ProjectedText, caches: list[KeysAndValues]) -> None:
        """Leave in the caches what a step at each of the first positions would, given their tokens (B, N), N > 0."""
        x, rotation = self._embed(image_tokens)
        end = image_tokens.shape[1]
        seen = self.mask.seen_from_first(end)
        for block, (keys, values), text in zip(self.decoder, caches, context.layers, strict=True):
            cache = KeyValueCache(keys[:, :, :end], values[:, :, :end], seen)
            x = block(x, None, rotation, cache, text, context.mask)

    def step(
        self, last_tokens: Tensor, position: Tensor, context: ProjectedText, caches: list[KeysAndValues]
    ) -> Tensor:
        """Return logits float32 (B, V) of a position, int64 (1), given the token before it (B); before position 0 any.

        The caches hold what the steps before have left there.
        """
        x = torch.where(position == 0, self.start_positions, self.token_embedding(last_tokens))
        if self.row_positions is not None and self.column_positions is not None:
            row, column = position // self.shape.grid_side, position % self.shape.grid_side
            x = x + (self.row_positions[row] + self.column_positions[column])
        rotation: Rotation | None = self.image_rotation.at(position) if self.image_rotation else None
        seen = self.mask.seen_from(position, caches[0][0].shape[2])
        x = x[:, None]
        for block, (keys, values), text in zip(self.decoder, caches, context.layers, strict=True):
            x = block(x, None, rotation, KeyValueCache(keys, values, seen), text, context.mask)
        return self._logits(x)[:, 0]

    def _embed(self, image_tokens: Tensor) -> tuple[Tensor, Rotation | None]:
        """Return what the decoder reads at the positions of tokens (B, N), the token before each, and their turns."""
        before, length = self.token_embedding(image_tokens[:, :-1]), image_tokens.shape[1]
        x = torch.cat([self.start_positions.expand(len(before), 1, -1), before], dim=1)
        if self.row_positions is not None and self.column_positions is not None:
            x = x + positions_2d(self.row_positions, self.column_positions)[:length]
        return self.dropout(x), self.image_rotation(0, length) if self.image_rotation else None

    def _logits(self, x: Tensor) -> Tensor:
        return self.to_logits(self.decoder_norm(x)).float()
