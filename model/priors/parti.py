"""Parti: a text encoder and a causal decoder that predicts image tokens in raster order.

Source: "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation", arXiv 2206.10789v1, section 2.2:
encoder-decoder, an extra norm after both (section 3). Where the paper is silent, and where this project's own scenes
showed another choice to be better, `PartiShape` names the choices.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import CausalMask, KeyValueCache
from model.layers import Block, initialise, make_norm, positions_2d
from model.masks import make_mask
from model.one_dnn import Linear
from model.rotary import RotaryPositions, Rotation, rotation_2d
from model.shapes import refuse_even
from model.text_encoder import EncodedText, TextEncoder, TextEncoderShape, position_table
from parti_data.text import END, PAD

KeysAndValues = tuple[Tensor, Tensor]
"""Of one layer, each (B, H, N, D/H)."""


@dataclass(frozen=True, kw_only=True)
class PartiShape(TextEncoderShape):
    """The architecture; width, layers and heads default to Parti-350M (table 1), the rest to what scenes took best."""

    codebook_size: int = 8192
    grid_side: int = 32
    num_decoder_layers: int = 12
    image_attention: Literal["dense", "conv"] = "dense"
    """What a position sees of the image before it. `conv`, the paper's choice for every layer (section 2.2): a square
    around it. `dense`: all, which costs little at up to 1,024 positions, and a scene's objects lie far apart."""
    kernel_side: int = 11
    """Of that square. Parti states none; DALL-E's, which it refers to, is 11 (arXiv 2102.12092v2, appendix B.1)."""

    def __post_init__(self):
        super().__post_init__()
        refuse_even("kernel_side", self.kernel_side)

    @property
    def num_tokens(self) -> int:
        """Tokens an image."""
        return self.grid_side**2


class ProjectedText(NamedTuple):
    """Text as the decoder reads it, the same for every step."""

    layers: list[KeysAndValues]  # (B, H, T, D/H) for each decoder layer
    mask: Tensor  # bool (B, 1, 1, T), True where there is text


class Parti(nn.Module):
    """The prior: text ids (B, T) and image tokens (B, I) to logits (B, I, V)."""

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

    def encode_text(self, text_ids: Tensor) -> EncodedText:
        """Return what the encoder makes of text ids (B, T), padded with PAD."""
        return self.text_encoder(text_ids)

    def forward(self, text_ids: Tensor, image_tokens: Tensor) -> Tensor:
        """Return logits float32 (B, I, V): position i sees the text and, of the tokens before i, what the mask allows.

        The tokens may be only the first of an image.
        """
        text = self.encode_text(text_ids)
        x, rotation = self._embed(image_tokens)
        for block in self.decoder:
            x = block(x, self.mask, rotation, context=text.states, context_mask=text.mask)
        return self._logits(x)

    def loss(self, text_ids: Tensor, image_tokens: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats over the image tokens; text carries no loss (section 5.4)."""
        return F.cross_entropy(self(text_ids, image_tokens).flatten(0, 1), image_tokens.flatten())

    def project_text(self, text: EncodedText) -> ProjectedText:
        """Return text as each layer of the decoder reads it."""
        return ProjectedText([block.cross_attention.project(text.states) for block in self.decoder], text.mask)  # type: ignore[union-attr]

    def make_caches(self, batch_size: int) -> list[KeysAndValues]:
        """Return room for the keys and values of all positions, for each decoder layer, of the products' type."""
        s, like = self.shape, self.to_logits.weight
        sides = (batch_size, s.num_heads, s.num_tokens, s.head_width)
        return [(like.new_zeros(sides), like.new_zeros(sides)) for _ in self.decoder]

    def prefill(self, image_tokens: Tensor, text: ProjectedText, caches: list[KeysAndValues]) -> None:
        """Leave in the caches what a step at each of the first positions would, given their tokens (B, N), N > 0."""
        x, rotation = self._embed(image_tokens)
        end = image_tokens.shape[1]
        seen = self.mask.seen_from_first(end)
        for block, (keys, values), context in zip(self.decoder, caches, text.layers, strict=True):
            cache = KeyValueCache(keys[:, :, :end], values[:, :, :end], seen)
            x = block(x, None, rotation, cache, context, text.mask)

    def step(self, last_tokens: Tensor, position: Tensor, text: ProjectedText, caches: list[KeysAndValues]) -> Tensor:
        """Return logits float32 (B, V) of a position, int64 (1), given the token before it (B); before position 0 any.

        The caches hold what the steps before have left there. No shape depends on the position: a compiled step is
        compiled once.
        """
        x = torch.where(position == 0, self.start_positions, self.token_embedding(last_tokens))
        if self.row_positions is not None and self.column_positions is not None:
            row, column = position // self.shape.grid_side, position % self.shape.grid_side
            x = x + (self.row_positions[row] + self.column_positions[column])
        rotation: Rotation | None = self.image_rotation.at(position) if self.image_rotation else None
        seen = self.mask.seen_from(position, caches[0][0].shape[2])
        x = x[:, None]
        for block, (keys, values), context in zip(self.decoder, caches, text.layers, strict=True):
            x = block(x, None, rotation, KeyValueCache(keys, values, seen), context, text.mask)
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


def no_text(batch_size: int, length: int) -> Tensor:
    """Return text ids (B, T) that stand for no text: END, then padding. Parti does not state its null condition."""
    ids = torch.full((batch_size, length), PAD, dtype=torch.long)
    ids[:, 0] = END
    return ids


def drop_text(text_ids: Tensor, dropped: Tensor) -> Tensor:
    """Return text ids (B, T) with no text in the rows where `dropped` (B) is True: classifier-free guidance."""
    return torch.where(dropped[:, None], no_text(*text_ids.shape).to(text_ids.device), text_ids)
