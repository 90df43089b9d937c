"""The text encoder of a prior, which may learn before the prior does: text ids to states.

Source: Parti, arXiv 2206.10789v1, section 2.2, with an extra norm behind it (section 3).
"""

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from model.layers import Block, make_norm
from model.rotary import RotaryPositions, rotation_1d
from model.shapes import refuse_below, refuse_remainder
from model.transformer_shape import TransformerShape
from parti_data.text import PAD

_MOST_LAYERS, _MOST_TEXT, _MOST_HEAD_WIDTH, _MOST_GRID_SIDE = 256, 1 << 16, 1024, 64
"""Of a file whose header asks for more nothing is built: masks and rotations are not in its weights."""


@dataclass(frozen=True, kw_only=True)
class TextEncoderShape(TransformerShape):
    """The architecture of the encoder, and of the blocks of what is trained with it; its size is Parti-350M's."""

    text_vocabulary_size: int = 16_000
    max_text_length: int = 128
    num_encoder_layers: int = 12
    positions: Literal["learned", "rotary", "both"] = "both"
    """Parti states none. `learned`: vectors added, for images rows plus columns as in DALL-E. `rotary`: queries and
    keys of self-attention turned, as priors have today, so that what is learned of a phrase or a shape in one place
    holds in all. Beside learned ones, those of the image halved the steps to a loss on synthetic scenes; those of the
    text raised right pictures of two objects from 21% to 54% after 2,000 steps."""

    def __post_init__(self):
        refuse_remainder("width", self.width, "4 * num_heads", 4 * self.num_heads)
        refuse_below("num_encoder_layers", self.num_encoder_layers, 1)
        refuse_below("max_text_length", self.max_text_length, 2)  # one id would always be END
        super().__post_init__()

    @property
    def most_text_ids(self) -> int:
        """Ids of a caption that are read at most."""
        return self.max_text_length

    @property
    def has_tables(self) -> bool:
        """Whether learned positions are added."""
        return self.positions != "rotary"

    @property
    def has_rotations(self) -> bool:
        """Whether queries and keys are turned."""
        return self.positions != "learned"

    @property
    def text_encoder(self) -> "TextEncoderShape":
        """The architecture of the encoder alone."""
        return TextEncoderShape(**{field.name: getattr(self, field.name) for field in fields(TextEncoderShape)})


class EncodedText(NamedTuple):
    """What the encoder makes of text."""

    states: Tensor  # (B, T, D)
    mask: Tensor  # bool (B, 1, 1, T), True where there is text


class TextEncoder(nn.Module):
    """Text ids (B, T), padded with PAD, to states (B, T, D), each of which sees all of its text.

    Its weights are left for the network to draw that it is part of.
    """

    def __init__(self, shape: TextEncoderShape):
        super().__init__()
        self.embedding = nn.Embedding(shape.text_vocabulary_size, shape.width)
        self.positions = position_table(shape.max_text_length, shape.width) if shape.has_tables else None
        self.blocks = nn.ModuleList(Block(shape.block) for _ in range(shape.num_encoder_layers))
        self.norm = make_norm(shape.norm, shape.width)
        self.dropout = nn.Dropout(shape.dropout)
        rotation = rotation_1d(shape.max_text_length, shape.head_width) if shape.has_rotations else None
        self.rotation = RotaryPositions(rotation) if rotation else None

    def forward(self, text_ids: Tensor, embedded: Tensor | None = None) -> EncodedText:
        """Return the states; `embedded` (B, T, D) are read in place of the ids' embeddings where they are given."""
        mask, length = (text_ids != PAD)[:, None, None, :], text_ids.shape[1]
        x = self.embedding(text_ids) if embedded is None else embedded
        if self.positions is not None:
            x = x + self.positions[:length]
        x = self.dropout(x)
        rotation = self.rotation(0, length) if self.rotation else None
        for block in self.blocks:
            x = block(x, mask, rotation)
        return EncodedText(self.norm(x), mask)


def position_table(length: int, width: int) -> nn.Parameter:
    """Return vectors (N, D) to learn, yet to be drawn."""
    return nn.Parameter(torch.empty(length, width))


def refuse_excess(shape: TextEncoderShape, num_layers: int, grid_side: int = 1) -> None:
    """Raise ValueError for sizes in a file's header that would take memory beyond its weights."""
    is_long = shape.max_text_length > _MOST_TEXT or shape.head_width > _MOST_HEAD_WIDTH
    if is_long or num_layers > _MOST_LAYERS or grid_side > _MOST_GRID_SIDE:
        raise ValueError(
            f"a header of {num_layers} layers, {shape.max_text_length} text positions, a grid side of {grid_side}, "
            f"heads of {shape.head_width} channels"
        )
