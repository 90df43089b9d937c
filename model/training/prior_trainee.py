"""A prior in training: its losses, its average, and what is measured of it.

What is drawn for a row (whether its text is dropped, which values dropout takes) is a function of seed, step and the
row's place in the global batch, so that ranks and parts of a batch change sums by their rounding alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.priors.parti import Parti, drop_text
from model.training.average import WeightAverage
from model.training.loop import Evaluation
from model.training.prior_config import TrainPriorConfig
from model.training.ranks import Ranks
from model.training.row_dropout import RowKeys, drop_by_row
from model.training.sharding import shard
from model.training.throughput import Work, count_work
from model.training.token_batches import StepBatches, TensorBatch, as_tensors, on_device
from parti_data.keyed_random import stream_key
from parti_data.token_dataset import TokenDataset

_TEXT_DROP, _DROPOUT = 2, 4
"""What a stream of random numbers is for."""


class PriorData(NamedTuple):
    """What a rank learns from, and what it measures."""

    tokens: TokenDataset
    held_out: TokenDataset | None


class PriorTrainee:
    """A prior with its data."""

    def __init__(self, config: TrainPriorConfig, network: Parti, data: PriorData, ranks: Ranks):
        self._config, self._ranks, self._held_out = config, ranks, data.held_out
        self.batch_size, self.num_parts = config.batch_size, config.batch_parts
        self.model = network.to(ranks.device)
        self._batches = StepBatches(data.tokens, ranks.device)
        self._batch: tuple[int, TensorBatch | None] = -1, None
        first = self._step_batch(0)
        self.work: Work | None = count_work(self.model, first.text_ids[:1], first.image_tokens[:1])
        self._average = WeightAverage(self.model, config.ema_decay) if config.ema_decay else None
        self._row_keys = RowKeys()
        drop_by_row(self.model, self._row_keys)  # after the average is copied: it is about this network's forwards
        self._prepare_blocks()
        if config.running.parallel == "shard" and ranks.world_size > 1:
            for held in [self.model, *([self._average.network] if self._average else [])]:
                shard(held, ranks)  # type: ignore[arg-type]
        self.networks: dict[str, nn.Module] = {"model": self.model}

    def _prepare_blocks(self) -> None:
        for block in (*self.model.text_encoder.blocks, *self.model.decoder):
            if self._config.recompute_blocks:
                block.forward = _recomputed(block.forward)  # type: ignore[method-assign]
            if self._config.running.compile:
                block.compile()

    @property
    def trained(self) -> Parti:
        """What is measured and saved: the average of the weights where one is kept."""
        return self._average.network if self._average else self.model  # type: ignore[return-value]

    def losses(self, network: str, step: int, part: int) -> dict[str, Tensor]:
        """Return the cross-entropy of a part of the step's batch, some of its rows without text."""
        batch = self._step_batch(step)
        size = len(batch.keys) // self.num_parts
        mine = slice(part * size, (part + 1) * size)
        rows = np.arange(self._ranks.rank, self.batch_size, self._ranks.world_size)[mine]
        self._row_keys.take(stream_key(self._config.seed, step, _DROPOUT), rows, self._ranks.device)
        luck = np.random.default_rng([self._config.seed, step, _TEXT_DROP]).random(self.batch_size)[rows]
        dropped = torch.from_numpy(luck < self._config.text_drop).to(self._ranks.device)
        return {"total": self.model.loss(drop_text(batch.text_ids[mine], dropped), batch.image_tokens[mine])}

    def _step_batch(self, step: int) -> TensorBatch:
        """Return this rank's slice of a step's batch."""
        if self._batch[0] != step or self._batch[1] is None:
            self._batch = step, self._batches.get(step)
        return self._batch[1]  # type: ignore[return-value]

    def after_step(self, step: int) -> None:
        """Move the average."""
        if self._average:
            self._average.update(self.model, step)

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """Return the loss on the held-out rows, in nats a token: the mean over all of them, each once."""
        if self._held_out is None:
            return Evaluation({}, {})
        network = self.trained.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self._ranks.device)
        filler = self._held_out[0]
        batches = self._held_out.epoch(0)
        for _ in range(len(self._held_out)):
            batch = next(batches, None)  # none on a rank that has no row of the last batch
            found = on_device(as_tensors(batch or filler), self._ranks.device)
            loss = network.loss(found.text_ids, found.image_tokens)  # by every rank, where weights are gathered
            if batch:
                sums += torch.stack([loss.double() * len(batch.keys), loss.new_tensor(len(batch.keys)).double()])
        total, count = self._ranks.sum(sums).tolist()
        return Evaluation({"held_out_loss": round(total / count, 4)}, {})

    def keys(self, step: int) -> list[str]:
        """Return the keys of this rank's rows of a step."""
        return list(self._step_batch(step).keys)

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
