"""iGPT: image tokens without any condition, in raster order, or as BERT hidden ones by all others.

Source: "Generative Pretraining from Pixels", Chen et al. 2020, sections 2.1, 2.2 and 3.3; where the paper is silent,
openai/image-gpt, src/model.py: norms that take no mean and add nothing, GELU by a sigmoid, no biases, positions added
where a token is told, and the weights' beginnings. Its pixels are tokens of a palette.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import CausalMask
from model.layers import INIT_STD, Block, BlockShape, FeedForwardKind, NormKind, draw_matrices
from model.masks import dense_mask
from model.priors.decoder_only import DecoderOnly, DecoderOnlyShape
from model.text_encoder import position_table
from parti_data.errors import ConfigError
from parti_data.keyed_random import mix, uniform

HIDDEN_SHARE = 0.15
"""Of the positions, each by itself. Source: section 2.1."""
_POSITIONS_STD, _RMS_EPSILON = 0.01, 1e-5
"""Source: src/model.py."""
_ROW_KEY = np.uint64(0)
"""The stream of what is hidden by rows themselves."""


@dataclass(frozen=True, kw_only=True)
class IGPTShape(DecoderOnlyShape):
    """The architecture; width, layers and heads default to iGPT-S (section 3.3; the heads are the README's)."""

    codebook_size: int = 512
    width: int = 512
    hidden: int = 2048
    num_heads: int = 8
    dropout: float = 0.0
    feed_forward: FeedForwardKind = "quick_gelu"
    biases: bool = False
    norm: NormKind = "rms"
    objective: Literal["autoregressive", "bert"] = "autoregressive"
    """What is learned: a token by those before it, or hidden tokens by the others, which draws no images."""

    @property
    def is_bert(self) -> bool:
        """Whether hidden tokens are learned."""
        return self.objective == "bert"

    @property
    def block(self) -> BlockShape:
        """The architecture of each block."""
        return replace(super().block, rms_epsilon=_RMS_EPSILON)


class HiddenPositions(nn.Module):
    """Draws which positions are hidden as dropout is drawn: in a training job a function of seed, step and row."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(HIDDEN_SHARE)

    def forward(self, image_tokens: Tensor) -> Tensor:
        """Return bool (B, N), True where a position is hidden, in training alone."""
        return self.dropout(torch.ones_like(image_tokens, dtype=torch.float32)) == 0


class IGPT(DecoderOnly):
    """The prior: image tokens (B, I) to logits (B, I, V); a condition says nothing."""

    def __init__(self, shape: IGPTShape):
        masks = [] if shape.is_bert else [CausalMask(dense_mask(shape.grid_side))] * shape.num_layers
        super().__init__(shape, masks)
        self.shape = shape
        self.positions = position_table(shape.num_tokens, shape.width)
        self.start = None if shape.is_bert else nn.Parameter(torch.empty(shape.width))
        self.hide = HiddenPositions() if shape.is_bert else None
        self._begin_weights()

    def _begin_weights(self) -> None:
        width, num_layers = self.shape.width, self.shape.num_layers
        stds = {"to_qkv": width**-0.5, "to_out": (width * num_layers) ** -0.5, "positions": _POSITIONS_STD}

        def std_of(name: str, _: nn.Parameter) -> float:
            return next((std for part, std in stds.items() if part in name), INIT_STD)

        draw_matrices(self, std_of)
        if self.start is not None:
            nn.init.normal_(self.start, std=INIT_STD)
        nn.init.zeros_(self.to_logits.weight)

    @property
    def has_likelihood(self) -> bool:  # type: ignore[override]
        """Not as BERT, whose tokens are told by each other."""
        return not self.shape.is_bert

    def refuse_drawing(self) -> None:
        """Raise ConfigError for one that was trained as BERT."""
        if self.shape.is_bert:
            raise ConfigError(
                "prior: expected one that tells a token by those before it, found one trained with "
                "architecture.objective=bert, which tells hidden tokens by all others; train another to draw images"
            )

    def embed_prefix(self, condition: Tensor) -> Tensor:
        """Return the start with the first position's vector, (B, 1, D)."""
        assert self.start is not None, "a BERT has no start"
        return (self.start + self.positions[0]).expand(len(condition), 1, -1)

    def read_positions(self) -> Tensor:
        """Return the position that each image token tells the token of, (I - 1, D)."""
        return self.positions[1:]

    def forward(self, condition: Tensor, image_tokens: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return logits float32 (B, N, V): position i is told by the tokens before i.

        As BERT by all tokens but those that are `hidden`, bool (B, N).
        """
        if not self.shape.is_bert:
            return super().forward(condition, image_tokens)
        x = self.token_embedding(image_tokens)
        if hidden is not None:
            x = x.masked_fill(hidden[..., None], 0.0)
        x = self.dropout(x + self.positions)
        for block in self.decoder:
            x = block(x)
        return self.tell(x)

    def tell(self, states: Tensor) -> Tensor:
        """Return logits float32 (..., V) of image tokens, by a product in float32 in training."""
        with torch.autocast("cpu" if states.is_meta else states.device.type, enabled=False):
            return self.to_logits(self.decoder_norm(states.float()).to(self.to_logits.weight.dtype)).float()

    def _feature(self, x: Tensor, layer: int) -> Tensor:
        """Return the stream after so many blocks as it is normed for what follows."""
        if layer == len(self.decoder):
            return self.decoder_norm(x)
        following = self.decoder[layer]
        assert isinstance(following, Block), following
        return following.self_norm(x)

    def _made(self, condition: Tensor, image_tokens: Tensor) -> Iterator[Tensor]:
        """Yield what the first block reads, then what each block makes of it; as BERT with no token hidden."""
        if not self.shape.is_bert:
            yield from super()._made(condition, image_tokens)
            return
        x = self.token_embedding(image_tokens) + self.positions
        yield x
        for block in self.decoder:
            x = block(x)
            yield x

    def losses(self, condition: Tensor, image_tokens: Tensor) -> dict[str, Tensor]:
        """Return `total`, the mean cross-entropy in nats over the image tokens, as BERT over each row's hidden ones."""
        if self.hide is None:
            return super().losses(condition, image_tokens)
        return {"total": self._hidden_losses(condition, image_tokens, self.hide(image_tokens)).mean()}

    def row_losses(self, condition: Tensor, image_tokens: Tensor) -> Tensor:
        """Return the mean loss of each row's image tokens, float64 (B,), in nats; as BERT of those that a function of
        the row hides.
        """
        if self.hide is None:
            return super().row_losses(condition, image_tokens)
        return self._hidden_losses(condition, image_tokens, hidden_by_tokens(image_tokens)).double()

    def _hidden_losses(self, condition: Tensor, image_tokens: Tensor, hidden: Tensor) -> Tensor:
        """Return the mean loss of each row's hidden tokens (B,), 0 where there are none."""
        logits = self(condition, image_tokens, hidden)
        nats = F.cross_entropy(logits.flatten(0, 1), image_tokens.flatten(), reduction="none").view(hidden.shape)
        return (nats * hidden).sum(1) / hidden.sum(1).clamp(min=1)


def hidden_by_tokens(image_tokens: Tensor) -> Tensor:
    """Return bool (B, N), True where a position is hidden: a function of the row's own tokens, whatever its batch."""
    places = np.arange(image_tokens.shape[1], dtype=np.uint64)
    tokens = image_tokens.cpu().numpy().astype(np.uint64)
    keys = mix(mix((tokens << np.uint64(32)) + places).sum(1))
    return torch.from_numpy(uniform(keys[:, None] + places, _ROW_KEY) < HIDDEN_SHARE).to(image_tokens.device)
