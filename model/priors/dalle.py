"""DALL-E's prior: one stream of text ids and image tokens, of which both are told.

Source: "Zero-Shot Text-to-Image Generation", arXiv 2102.12092v2, section 2.2 and appendix B.1. It states no dropout and
no activation, and draws its embeddings in a picture alone (figure 10): here text has a learned vector a position.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import CausalMask
from model.layers import FeedForwardKind, initialise, positions_2d
from model.masks import MaskKind, column_order, layer_masks, make_mask, stream_mask
from model.one_dnn import Linear
from model.priors.decoder_only import DecoderOnly, DecoderOnlyShape
from model.priors.prior import Read
from model.shapes import refuse_below, refuse_even
from model.text_encoder import position_table
from parti_data.text import PAD

_TEXT_SHARE = 1 / 8
"""Of the loss; the image has the rest. Source: section 2.2."""


@dataclass(frozen=True, kw_only=True)
class DALLEShape(DecoderOnlyShape):
    """The architecture; its defaults are those of the one size that the paper prints, 12 billion weights."""

    text_vocabulary_size: int = 16_384
    max_text_length: int = 256
    width: int = 3968
    hidden: int = 15_872
    num_heads: int = 62
    num_layers: int = 64
    dropout: float = 0.0
    feed_forward: FeedForwardKind = "gelu"
    """As in the sparse transformer that it is one of (arXiv 1904.10509)."""
    image_attention: Literal["sparse", "dense"] = "sparse"
    """What a token sees of the image before it: in each layer what `layer_masks` says, or all, for small grids."""
    kernel_side: int = 11
    """Of the square that the last layer sees."""

    def __post_init__(self):
        super().__post_init__()
        refuse_below("max_text_length", self.max_text_length, 2)
        refuse_even("kernel_side", self.kernel_side)

    @property
    def num_prefix(self) -> int:
        """Positions of the prefix, which is the text, padded."""
        return self.max_text_length

    @property
    def most_text_ids(self) -> int:
        """Ids of a caption that are read at most."""
        return self.max_text_length


class DALLE(DecoderOnly):
    """The prior: text ids (B, T) and image tokens (B, I) to logits (B, I, V).

    A position of the text tells the id behind it; the first id is told by nothing.
    """

    reads: Read = "text"

    def __init__(self, shape: DALLEShape):
        super().__init__(shape, _masks_of(shape))
        self.shape = shape
        self.text_embedding = nn.Embedding(shape.text_vocabulary_size, shape.width)
        self.text_positions = position_table(shape.max_text_length, shape.width)
        self.padding = position_table(shape.max_text_length, shape.width)
        """What is read at each position of the text where there is no id."""
        self.row_positions = position_table(shape.grid_side, shape.width)
        self.column_positions = position_table(shape.grid_side, shape.width)
        self.to_text_logits = Linear(shape.width, shape.text_vocabulary_size, bias=False)
        initialise(self, shape.num_layers)

    def condition(self, captions: Iterable[str], text_ids: Tensor) -> Tensor:
        """Return the text ids."""
        return text_ids

    def without(self, condition: Tensor) -> Tensor:
        """Return padding alone. DALL-E has no guidance: without text_drop it is never learned."""
        return torch.full_like(condition, PAD)

    def embed_prefix(self, condition: Tensor) -> Tensor:
        """Return what is read at every position of the text, (B, P, D), for the first ids of it, (B, T)."""
        room = self.shape.max_text_length - condition.shape[1]
        assert room >= 0, (condition.shape, self.shape.max_text_length)  # F.pad would cut what is too long
        ids = F.pad(condition, (0, room), value=PAD)
        read = torch.where((ids == PAD)[..., None], self.padding, self.text_embedding(ids))
        return read + self.text_positions

    def read_positions(self) -> Tensor:
        """Return the place of each image token but the last, (I - 1, D): its row's vector and its column's."""
        return positions_2d(self.row_positions, self.column_positions)[:-1]

    def losses(self, condition: Tensor, image_tokens: Tensor) -> dict[str, Tensor]:
        """Return the mean cross-entropies in nats over the image tokens and over the text ids that are told, and an
        eighth of that of the text with the rest of that of the image, which is `total`.

        END is told, padding is not. Ranks and parts of a batch count alike, however many ids each of them has.
        """
        states, told = self.states(condition, image_tokens), condition[:, 1:]
        is_told = told != PAD
        text_logits = self.to_text_logits(self.decoder_norm(states[:, : told.shape[1]][is_told])).float()
        text = F.cross_entropy(text_logits, told[is_told], reduction="sum") / is_told.sum().clamp_min(1)
        image = F.cross_entropy(self.tell(states[:, self.num_before :]).flatten(0, 1), image_tokens.flatten())
        return {"total": _TEXT_SHARE * text + (1 - _TEXT_SHARE) * image, "text": text, "image": image}


def _masks_of(shape: DALLEShape) -> list[CausalMask]:
    """Return the mask of each layer, over the text and each image token but the last; equal ones are one."""
    kinds: list[MaskKind] = ["dense"] * shape.num_layers
    if shape.image_attention == "sparse":
        kinds = layer_masks(shape.num_layers)
    masks: dict[MaskKind, CausalMask] = {}
    for kind in set(kinds):
        image = make_mask(kind, shape.grid_side, shape.kernel_side)[:-1, :-1]
        order = column_order(shape.grid_side) if kind == "column" else None
        masks[kind] = CausalMask(stream_mask(image, shape.num_prefix), shape.num_prefix, order)
    return [masks[kind] for kind in kinds]
