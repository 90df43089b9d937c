"""The contrastive model: a prior's text encoder and a tower of image tokens, each with a vector for all of its input.

Source: Parti, arXiv 2206.10789v1, section 2.2, trains the text encoder so, states nothing more, and discards the image
tower. The embeddings and their temperature are CLIP's, arXiv 2103.00020, section 2.3. Means of states are taken, not
the state of one position as CLIP does: a prior's decoder reads all of them, so all learn.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import Block, initialise, make_norm, positions_2d
from model.rotary import RotaryPositions, rotation_2d
from model.shapes import refuse_below
from model.text_encoder import TextEncoder, TextEncoderShape, position_table

_FIRST_TEMPERATURE, _MOST_SCALE = 0.07, 100.0
"""Source: CLIP, section 2.5."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveShape(TextEncoderShape):
    """The architecture: that of the text encoder, whose blocks the image tower has too."""

    codebook_size: int = 8192
    grid_side: int = 32
    num_image_layers: int = 12
    embedding_width: int = 512
    """Of the vectors that are compared. Source: CLIP's of ViT-B (table 20)."""

    def __post_init__(self):
        super().__post_init__()
        refuse_below("num_image_layers", self.num_image_layers, 1)
        refuse_below("embedding_width", self.embedding_width, 1)


class ImageTower(nn.Module):
    """Image tokens (B, I) to states (B, I, D), each of which sees all of its image."""

    def __init__(self, shape: ContrastiveShape):
        super().__init__()
        self.embedding = nn.Embedding(shape.codebook_size, shape.width)
        self.row_positions = position_table(shape.grid_side, shape.width) if shape.has_tables else None
        self.column_positions = position_table(shape.grid_side, shape.width) if shape.has_tables else None
        self.blocks = nn.ModuleList(Block(shape.block) for _ in range(shape.num_image_layers))
        self.norm = make_norm(shape.norm, shape.width)
        self.dropout = nn.Dropout(shape.dropout)
        rotation = rotation_2d(shape.grid_side, shape.head_width) if shape.has_rotations else None
        self.rotation = RotaryPositions(rotation) if rotation else None

    def forward(self, image_tokens: Tensor) -> Tensor:
        """Return the states of all tokens of each image."""
        x = self.embedding(image_tokens)
        if self.row_positions is not None and self.column_positions is not None:
            x = x + positions_2d(self.row_positions, self.column_positions)
        x = self.dropout(x)
        rotation = self.rotation(0, image_tokens.shape[1]) if self.rotation else None
        for block in self.blocks:
            x = block(x, rotation=rotation)
        return self.norm(x)


class Embeddings(NamedTuple):
    """What is compared: float32 (B, E) both, of length one."""

    texts: Tensor
    images: Tensor


class Contrastive(nn.Module):
    """Text ids (B, T) and image tokens (B, I) to embeddings (B, E), near each other where they are a pair."""

    def __init__(self, shape: ContrastiveShape):
        super().__init__()
        self.shape = shape
        self.text_encoder = TextEncoder(shape)
        self.image_tower = ImageTower(shape)
        self.text_projection = nn.Linear(shape.width, shape.embedding_width, bias=False)
        self.image_projection = nn.Linear(shape.width, shape.embedding_width, bias=False)
        initialise(self.text_encoder, shape.num_encoder_layers)
        initialise(self.image_tower, shape.num_image_layers)
        for projection in (self.text_projection, self.image_projection):
            initialise(projection, 1)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(_FIRST_TEMPERATURE)))
        """Of what similarities are multiplied by: the inverse of the temperature."""

    def embed_texts(self, text_ids: Tensor) -> Tensor:
        """Return embeddings (B, E) of text ids (B, T), padded with PAD: of the mean of their states."""
        states, mask = self.text_encoder(text_ids)
        weights = mask[:, 0, 0, :, None].float()
        return _unit(self.text_projection((states.float() * weights).sum(1) / weights.sum(1)))

    def embed_images(self, image_tokens: Tensor) -> Tensor:
        """Return embeddings (B, E) of image tokens (B, I): of the mean of their states."""
        return _unit(self.image_projection(self.image_tower(image_tokens).float().mean(1)))

    def forward(self, text_ids: Tensor, image_tokens: Tensor) -> Embeddings:
        """Return the embeddings of both."""
        return Embeddings(self.embed_texts(text_ids), self.embed_images(image_tokens))

    def scores(self, text_ids: Tensor, image_tokens: Tensor) -> Tensor:
        """Return the cosine similarity float32 (B) of each text with the image of its row."""
        texts, images = self(text_ids, image_tokens)
        return (texts * images).sum(-1)

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Keep similarities from being multiplied by more than 100, as CLIP does.

        The parameter itself is cut, after a step: cut where it is used, it would have no gradient to come back by.
        """
        self.log_scale.clamp_(max=math.log(_MOST_SCALE))


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)
