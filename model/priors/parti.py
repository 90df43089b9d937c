"""Parti: a text encoder and a causal decoder that predicts image tokens in raster order.

Source: "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation", arXiv 2206.10789v1, section 2.2:
encoder-decoder, ReLU feed-forward without gate (figure 5), an extra LayerNorm after both (section 3). Positions are
not stated there: learned ones, for the image rows plus columns as in DALL-E, and rotary ones in self-attention, as
priors have today, so that what is learned of a phrase or a shape in one place holds in all. On synthetic scenes those
of the image halved the steps to a loss; those of the text raised right pictures of two objects from 21% to 54% after
2,000 steps. Self-attention in the decoder is dense here.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import Block, KeyValueCache, RotaryPositions, initialise, positions_2d, rotation_1d, rotation_2d
from model.shapes import refuse_remainder
from parti_data.text import END, PAD


@dataclass(frozen=True)
class PartiShape:
    """The architecture; width, layers and heads default to Parti-350M (table 1)."""

    text_vocabulary_size: int = 16_000
    max_text_length: int = 128
    codebook_size: int = 8192
    grid_side: int = 32
    width: int = 1024
    hidden: int = 4096
    num_heads: int = 16
    num_encoder_layers: int = 12
    num_decoder_layers: int = 12
    dropout: float = 0.1

    def __post_init__(self):
        refuse_remainder("width", self.width, "4 * num_heads", 4 * self.num_heads)

    @property
    def num_tokens(self) -> int:
        """Tokens an image."""
        return self.grid_side**2


class EncodedText(NamedTuple):
    """What the decoder needs of the text."""

    projected: list[tuple[Tensor, Tensor]]  # keys and values (B, H, T, D/H) for each decoder layer
    mask: Tensor  # bool (B, 1, 1, T), True where there is text


class Parti(nn.Module):
    """The prior: text ids (B, T) and image tokens (B, I) to logits (B, I, V)."""

    def __init__(self, shape: PartiShape):
        super().__init__()
        self.shape = shape
        self.text_embedding = nn.Embedding(shape.text_vocabulary_size, shape.width)
        self.text_positions = nn.Parameter(torch.empty(shape.max_text_length, shape.width))
        self.encoder = nn.ModuleList(self._block(has_context=False) for _ in range(shape.num_encoder_layers))
        self.encoder_norm = nn.LayerNorm(shape.width)
        self.token_embedding = nn.Embedding(shape.codebook_size, shape.width)
        self.start_positions = nn.Parameter(torch.empty(1, shape.width))
        self.row_positions = nn.Parameter(torch.empty(shape.grid_side, shape.width))
        self.column_positions = nn.Parameter(torch.empty(shape.grid_side, shape.width))
        self.decoder = nn.ModuleList(self._block(has_context=True) for _ in range(shape.num_decoder_layers))
        self.decoder_norm = nn.LayerNorm(shape.width)
        self.to_logits = nn.Linear(shape.width, shape.codebook_size, bias=False)
        self.dropout = nn.Dropout(shape.dropout)
        initialise(self, shape.num_encoder_layers + shape.num_decoder_layers)
        causal = torch.ones(shape.num_tokens, shape.num_tokens, dtype=torch.bool).tril()
        self.register_buffer("causal", causal, persistent=False)
        head_width = shape.width // shape.num_heads
        self.text_rotation = RotaryPositions(rotation_1d(shape.max_text_length, head_width))
        self.image_rotation = RotaryPositions(rotation_2d(shape.grid_side, head_width))

    def _block(self, has_context: bool) -> Block:
        s = self.shape
        return Block(s.width, s.hidden, s.num_heads, "relu", s.dropout, has_context)

    def encode_text(self, text_ids: Tensor) -> EncodedText:
        """Return what the decoder needs of text ids (B, T), padded with PAD."""
        mask = (text_ids != PAD)[:, None, None, :]
        x = self.dropout(self.text_embedding(text_ids) + self.text_positions[: text_ids.shape[1]])
        rotation = self.text_rotation(0, text_ids.shape[1])
        for block in self.encoder:
            x = block(x, mask, rotation=rotation)
        x = self.encoder_norm(x)
        projected = [block.cross_attention.project(x) for block in self.decoder]  # type: ignore[union-attr]
        return EncodedText(projected, mask)

    def forward(self, text_ids: Tensor, image_tokens: Tensor) -> Tensor:
        """Return logits float32 (B, I, V): position i sees the text and the tokens before i."""
        text = self.encode_text(text_ids)
        return self._decode(image_tokens[:, :-1], 0, text, self.causal, None)  # type: ignore[arg-type]

    def loss(self, text_ids: Tensor, image_tokens: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats over the image tokens; text carries no loss (section 5.4)."""
        return F.cross_entropy(self(text_ids, image_tokens).flatten(0, 1), image_tokens.flatten())

    def step(self, last_tokens: Tensor | None, text: EncodedText, caches: list[KeyValueCache]) -> Tensor:
        """Return logits float32 (B, V) of the next position, given the token before it (B); None at the start."""
        if last_tokens is None:
            last_tokens = torch.empty(len(text.mask), 0, dtype=torch.long)
        tokens_before = last_tokens.reshape(len(text.mask), -1)
        return self._decode(tokens_before, caches[0].length, text, None, caches)[:, 0]

    def make_caches(self, batch_size: int) -> list[KeyValueCache]:
        """Return an empty cache for each decoder layer."""
        s, like = self.shape, self.row_positions
        return [
            KeyValueCache(batch_size, s.num_heads, s.num_tokens, s.width // s.num_heads, like) for _ in self.decoder
        ]

    def _decode(
        self,
        tokens_before: Tensor,
        first: int,
        text: EncodedText,
        mask: Tensor | None,
        caches: list[KeyValueCache] | None,
    ) -> Tensor:
        """Return logits of the positions from `first` on, given the token before each; position 0 has none."""
        x = self.token_embedding(tokens_before)
        if first == 0:
            x = torch.cat([self.start_positions.expand(len(x), 1, -1), x], dim=1)
        last = first + x.shape[1]
        x = self.dropout(x + positions_2d(self.row_positions, self.column_positions)[first:last])
        rotation = self.image_rotation(first, last)
        for layer, block in enumerate(self.decoder):
            cache = caches[layer] if caches else None
            x = block(x, mask, cache, text.projected[layer], text.mask, rotation)
        return self.to_logits(self.decoder_norm(x)).float()


def no_text(batch_size: int, length: int) -> Tensor:
    """Return text ids (B, T) that stand for no text: END, then padding. Parti does not state its null condition."""
    ids = torch.full((batch_size, length), PAD, dtype=torch.long)
    ids[:, 0] = END
    return ids


def drop_text(text_ids: Tensor, dropped: Tensor) -> Tensor:
    """Return text ids (B, T) with no text in the rows where `dropped` (B) is True: classifier-free guidance."""
    return torch.where(dropped[:, None], no_text(*text_ids.shape).to(text_ids.device), text_ids)
