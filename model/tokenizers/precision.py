"""How many tokens another way to run the encoder changes, against the record: float32, torch, a CPU."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from model.tokenizers.execution import RECORD
from model.tokenizers.tokenizer import ImageTokenizer


class PrecisionMeasure(NamedTuple):
    """What an execution gave, held against the record."""

    tokens: Tensor  # int64 (B, I), as the execution gave them
    record: Tensor  # int64 (B, I)

    @property
    def differing_tokens(self) -> float:
        """The share of tokens that differ."""
        return float((self.tokens != self.record).float().mean()) if len(self.record) else 0.0

    @property
    def differing_rows(self) -> float:
        """The share of images with a token that differs."""
        return float((self.tokens != self.record).any(-1).float().mean()) if len(self.record) else 0.0


def measure_precision(tokenizer: ImageTokenizer, images: np.ndarray | Tensor) -> PrecisionMeasure:
    """Return the tokens of images uint8 (B, S, S, 3) by a tokenizer as it runs, and as the record."""
    return PrecisionMeasure(tokenizer.encode(images), tokenizer.executed(RECORD).encode(images))
