"""VIM, vector-quantized image modeling: image tokens in raster order, behind a class or a start.

Source: "Vector-quantized Image Modeling with Improved VQGAN", arXiv 2110.04627v3, sections 4 and 5.2: dense causal
attention, learned two-dimensional positions, a class token in front with a table of its own, a last norm.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model.attention import CausalMask
from model.layers import BlockShape, initialise, positions_2d
from model.masks import dense_mask
from model.priors.decoder_only import DecoderOnly, DecoderOnlyShape
from model.priors.prior import Read
from model.text_encoder import position_table
from parti_data.errors import ConfigError
from parti_data.token_directory import MOST_CLASSES


@dataclass(frozen=True, kw_only=True)
class VIMShape(DecoderOnlyShape):
    """The architecture; width, layers and heads default to VIM-Base (table 2)."""

    width: int = 1536
    hidden: int = 6144
    class_conditional: bool = False
    """Whether a class is told; the captions of the shards are their names."""
    classes: tuple[str, ...] = ()
    """The captions that training saw, in order; the shards tell them."""

    def __post_init__(self):
        super().__post_init__()
        told = self.classes if isinstance(self.classes, list | tuple) else [self.classes]  # a file's header has a list
        object.__setattr__(self, "classes", tuple(map(str, told)))

    @property
    def block(self) -> BlockShape:
        """The architecture of each block; activations are dropped too, as its section 4 says."""
        return replace(super().block, activation_dropout=self.dropout)

    def refuse_excess(self) -> None:
        """Raise ValueError for sizes in a file's header that would take memory beyond its weights."""
        super().refuse_excess()
        if len(self.classes) > MOST_CLASSES or bool(self.classes) != self.class_conditional:
            raise ValueError(f"a header of {len(self.classes)} classes")


class VIM(DecoderOnly):
    """The prior: a class number (B, 1), or nothing, and image tokens (B, I) to logits (B, I, V)."""

    def __init__(self, shape: VIMShape):
        super().__init__(shape, [CausalMask(dense_mask(shape.grid_side))] * shape.num_layers)
        self.shape = shape
        self.start = nn.Embedding(len(shape.classes) + 1, shape.width)
        """A vector a class, the last for none."""
        self.row_positions = position_table(shape.grid_side, shape.width)
        self.column_positions = position_table(shape.grid_side, shape.width)
        self._numbers = {name: number for number, name in enumerate(shape.classes)}
        initialise(self, shape.num_layers)

    @property
    def reads(self) -> Read:  # type: ignore[override]
        """A class where it was trained with some."""
        return "class" if self.shape.classes else "nothing"

    def condition(self, captions: Iterable[str], text_ids: Tensor) -> Tensor:
        """Return class numbers int64 (B, 1); raises ConfigError for a caption that is none of the classes."""
        if not self.shape.classes:
            return text_ids[:, :0]
        return torch.tensor([[self._number(caption)] for caption in captions])

    def without(self, condition: Tensor) -> Tensor:
        """Return the number that stands for no class. VIM has no guidance: without text_drop it is never learned."""
        return torch.full_like(condition, len(self.shape.classes))

    def embed_prefix(self, condition: Tensor) -> Tensor:
        """Return the class's vector, or the start's, with the first position's (B, 1, D)."""
        classes = condition if self.shape.classes else condition.new_zeros(len(condition), 1)
        return self.start(classes) + self._positions()[0]

    def read_positions(self) -> Tensor:
        """Return the position that each image token tells the token of, (I - 1, D)."""
        return self._positions()[1:]

    def _positions(self) -> Tensor:
        return positions_2d(self.row_positions, self.column_positions)

    def _number(self, caption: str) -> int:
        if (number := self._numbers.get(caption)) is not None:
            return number
        nearest = difflib.get_close_matches(caption, self._numbers, n=1, cutoff=0)[0]
        raise ConfigError(
            f"caption: expected one of the {len(self._numbers)} classes that training saw, found {caption!r}; did you "
            f"mean {nearest!r}?"
        )
