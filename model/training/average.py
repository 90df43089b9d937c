"""The average of a network's weights over its last updates: what is measured, drawn and saved."""

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """An exponential moving average of a network's weights.

    The first updates count for more: otherwise the initial weights would stay for 1 / (1 - decay) of them.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the weights of a network after update number `step`, counted from 0."""
        rate = 1 - min(self._decay, (1 + step) / (10 + step))
        theirs = network.state_dict()
        for name, mine in self.network.state_dict().items():
            if mine.is_floating_point():
                mine.lerp_(theirs[name], rate)
            else:
                mine.copy_(theirs[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take averaged weights."""
        self.network.load_state_dict(state)
