"""What is in training on rows of ids, whatever it learns: its network, the average of its weights, its dropout.

What is drawn for a row is a function of seed, step and the row's place in the global batch, so that ranks and parts of
a batch change sums by their rounding alone.
"""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from model.training.average import WeightAverage
from model.training.ranks import Ranks
from model.training.row_config import TrainOnRowsConfig
from model.training.row_dropout import RowKeys, drop_by_row
from model.training.throughput import Work
from model.training.token_batches import StepBatches
from parti_data.keyed_random import stream_key

_DROPOUT = 4
"""What a stream of random numbers is for, beside those of the jobs."""
M = TypeVar("M", bound=nn.Module)


class RowTrainee(Generic[M]):
    """A network that learns from rows."""

    num_parts = 1
    work: Work | None = None
    _batches: StepBatches[Any]
    """Of this rank, each with the keys of its rows."""

    def __init__(self, config: TrainOnRowsConfig, network: M, blocks: Iterable[nn.Module], ranks: Ranks):
        self._ranks, self._seed = ranks, config.seed
        self.batch_size = config.batch_size
        self.model = network.to(ranks.device)
        self._average = WeightAverage(self.model, config.ema_decay) if config.ema_decay else None
        self._row_keys = RowKeys()
        drop_by_row(self.model, self._row_keys)  # after the average is copied: it is about this network's forwards
        for block in blocks:
            if config.running.compile:  # first: inside checkpoint the counting of dropout's calls would end the graph
                block.forward = torch.compile(block.forward)  # type: ignore[method-assign]
            if config.recompute_blocks:
                block.forward = _recomputed(block.forward)  # type: ignore[method-assign]
        self.networks: dict[str, nn.Module] = {"model": self.model}

    @property
    def trained(self) -> M:
        """What is measured and saved: the average of the weights where one is kept."""
        return self._average.network if self._average else self.model  # type: ignore[return-value]

    def _take(self, step: int, part: int) -> tuple[slice, np.ndarray]:
        """Return which of this rank's rows of a step are in a part, and their numbers, and have dropout go by these."""
        rows = np.arange(self._ranks.rank, self.batch_size, self._ranks.world_size)
        size = len(rows) // self.num_parts
        mine = slice(part * size, (part + 1) * size)
        self._row_keys.take(stream_key(self._seed, step, _DROPOUT), rows[mine], self._ranks.device)
        return mine, rows[mine]

    def after_step(self, step: int) -> None:
        """Move the average."""
        if self._average:
            self._average.update(self.model, step)

    def keys(self, step: int) -> list[str]:
        """Return the keys of this rank's rows of a step."""
        return list(self._batches.get(step).keys)

    def state_dict(self) -> dict[str, Any]:
        """Return the average of the weights."""
        return {"average": self._average.state_dict() if self._average else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take such a state."""
        if self._average:
            self._average.load_state_dict(state["average"])


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward that keeps its inputs alone and is done again in the backward pass; its dropout is keyed."""
    return lambda *inputs, **named: checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)
