"""How many tokens another way to run the encoder changes, against the record: float32, torch, a CPU."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.tokenizers.execution import RECORD, Execution
from model.tokenizers.network import TokenizerNetwork
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


def measure_precision(network: TokenizerNetwork, images: np.ndarray | Tensor, execution: Execution) -> PrecisionMeasure:
    """Return the tokens of images uint8 (B, S, S, 3) in both ways; the network ends on the CPU."""
    images = torch.as_tensor(images)
    return PrecisionMeasure(*(ImageTokenizer(network, way).encode(images) for way in (execution, RECORD)))
