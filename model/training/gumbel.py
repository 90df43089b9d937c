"""Gumbel noise that is a function of (seed, step, row), whichever process and whichever part of a batch has the row."""

import numpy as np
import torch
from torch import Tensor

from parti_data.keyed_random import draw, stream_key

_NOISE = 5
"""What a stream of random numbers is for, beside those of the jobs."""


class GumbelNoise:
    """Standard Gumbel noise for the rows of a training's batches; another device draws other noise."""

    def __init__(self, seed: int, row_shape: tuple[int, ...], device: torch.device):
        self._seed, self._row_shape = seed, row_shape
        self._generator = torch.Generator(device)

    def rows(self, step: int, numbers: np.ndarray) -> Tensor:
        """Return float32 (B, ...) for the rows of a step by their numbers in its global batch, (B,)."""
        keys = draw(numbers, stream_key(self._seed, step, _NOISE))
        return torch.stack([self._row(int(key)) for key in keys])

    def _row(self, key: int) -> Tensor:
        generator = self._generator.manual_seed(key)
        even = torch.rand(
            self._row_shape, generator=generator, device=generator.device
        )  # a third of exponential_'s time
        return even.clamp_(min=torch.finfo(torch.float32).tiny).log_().neg_().log_().neg_()  # a 0 may be drawn
