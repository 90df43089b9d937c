"""What a prior is to training, sampling and evaluation, whatever its family."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysAndValues = tuple[Tensor, Tensor]
"""Of one layer, each (B, H, N, D/H)."""
Read = Literal["text", "class", "nothing"]
"""What a prior is conditioned on."""


@dataclass(frozen=True, kw_only=True)
class PriorShape(ABC):
    """What the token shards decide of an architecture."""

    codebook_size: int = 8192
    grid_side: int = 32

    @property
    def num_tokens(self) -> int:
        """Tokens an image."""
        return self.grid_side**2

    @property
    def most_text_ids(self) -> int | None:
        """Ids of a caption that are read at most; None where none are."""
        return None

    @abstractmethod
    def refuse_excess(self) -> None:
        """Raise ValueError for sizes in a file's header that would take memory beyond its weights."""


class Prior(nn.Module, ABC):
    """Predicts image tokens, each from those before it and a condition.

    A condition is int64 (B, T): text ids padded with PAD, or a class number, or nothing with T = 0.
    """

    shape: Any
    decoder: nn.ModuleList
    """The blocks that a step of decoding runs through."""
    to_logits: nn.Linear
    reads: Read = "nothing"
    has_likelihood: bool = True
    """Whether the losses of a row's tokens add up to its image's negative log-likelihood."""
    num_before = 0
    """Positions of the caches that come before the image's first."""

    def condition(self, captions: Iterable[str], text_ids: Tensor) -> Tensor:
        """Return what is read of rows' captions, given them and their ids (B, T), in the machine's memory."""
        return text_ids[:, :0]

    def without(self, condition: Tensor) -> Tensor:
        """Return, in the shape of a condition, what stands for none."""
        return condition

    def refuse_drawing(self) -> None:
        """Raise ConfigError where it cannot draw images, a token after the other."""

    @property
    def blocks(self) -> list[nn.Module]:
        """All blocks: each may be compiled, sharded, computed twice."""
        return list(self.decoder)

    @abstractmethod
    def forward(self, condition: Tensor, image_tokens: Tensor) -> Tensor:
        """Return logits float32 (B, N, V): position i is told by the condition and the tokens before i.

        The tokens (B, N) may be only the first of an image.
        """

    def losses(self, condition: Tensor, image_tokens: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss, `total` among them: the mean cross-entropy in nats over the image tokens."""
        logits = self(condition, image_tokens)
        return {"total": F.cross_entropy(logits.flatten(0, 1), image_tokens.flatten())}

    def row_losses(self, condition: Tensor, image_tokens: Tensor) -> Tensor:
        """Return the mean loss of each row's image tokens, float64 (B,), in nats."""
        logits = self(condition, image_tokens).float()
        nats = F.cross_entropy(logits.flatten(0, 1), image_tokens.flatten(), reduction="none")
        return nats.double().reshape(image_tokens.shape).mean(1)

    def make_caches(self, batch_size: int) -> list[KeysAndValues]:
        """Return room for the keys and values of all positions, for each block, of the products' type."""
        s, like = self.shape, self.to_logits.weight
        sides = (batch_size, s.num_heads, self.num_before + s.num_tokens, s.head_width)
        return [(like.new_zeros(sides), like.new_zeros(sides)) for _ in self.decoder]

    @abstractmethod
    def begin(self, condition: Tensor, caches: list[KeysAndValues]) -> Any:
        """Return the condition as steps read it; the caches hold what comes before the image's first position."""

    @abstractmethod
    def prefill(self, image_tokens: Tensor, context: Any, caches: list[KeysAndValues]) -> None:
        """Leave in the caches what a step at each of the first positions would, given their tokens (B, N), N > 0."""

    @abstractmethod
    def step(self, last_tokens: Tensor, position: Tensor, context: Any, caches: list[KeysAndValues]) -> Tensor:
        """Return logits float32 (B, V) of a position, int64 (1), given the token before it (B); before position 0 any.

        The caches hold what the steps before have left there. No shape depends on the position: a compiled step is
        compiled once.
        """


def drop_condition(prior: Prior, condition: Tensor, dropped: Tensor) -> Tensor:
    """Return a condition with none in the rows where `dropped` (B) is True: for classifier-free guidance."""
    return torch.where(dropped[:, None], prior.without(condition), condition)
