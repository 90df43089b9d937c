"""A prior in training: its loss, which of its rows have no condition, and what is measured of it."""

import numpy as np
import torch
from torch import Tensor

from model.priors.prior import Prior, drop_condition
from model.training.branch_cost import measure_branches
from model.training.loop import Evaluation
from model.training.prior_config import TrainPriorConfig
from model.training.ranks import Ranks
from model.training.row_trainee import RowTrainee
from model.training.sharding import shard
from model.training.step_parts import to_device
from model.training.throughput import Work, count_work
from model.training.token_batches import StepBatches, as_tensors, on_device
from parti_data.token_dataset import TokenDataset

_TEXT_DROP = 2
"""What a stream of random numbers is for."""


class PriorTrainee(RowTrainee[Prior]):
    """A prior with its data."""

    def __init__(
        self,
        config: TrainPriorConfig,
        network: Prior,
        tokens: TokenDataset,
        held_out: TokenDataset | None,
        ranks: Ranks,
    ):
        self._held_out, self._text_drop = held_out, config.text_drop
        self.num_parts = config.batch_parts
        self._batches = StepBatches(lambda step: as_tensors(tokens.batch(step), network), ranks.device)
        first = self._batches.get(0)
        num_tokens = first.image_tokens.shape[1]
        self.work: Work | None = count_work(network, num_tokens, first.condition[:1], first.image_tokens[:1])
        part = len(first.keys) // self.num_parts
        self.branch_cost = measure_branches(
            network.to(ranks.device), first.condition[:part], first.image_tokens[:part],
            config.schedule.product_dtype(ranks.device), config.running.compile,
        )  # fmt: skip
        super().__init__(config, network, network.blocks, ranks)
        if config.running.parallel == "shard" and ranks.world_size > 1:
            for held in [self.model, *([self._average.network] if self._average else [])]:
                shard(held, ranks)  # type: ignore[arg-type]

    def losses(self, network: str, step: int, part: int) -> dict[str, Tensor]:
        """Return the terms of the loss of a part of the step's batch, some of its rows without a condition."""
        batch = self._batches.get(step)
        mine, rows = self._take(step, part)
        luck = np.random.default_rng([self._seed, step, _TEXT_DROP]).random(self.batch_size)[rows]
        dropped = to_device(luck < self._text_drop, self._ranks.device)
        return self.model.losses(drop_condition(self.model, batch.condition[mine], dropped), batch.image_tokens[mine])

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
            found = on_device(as_tensors(batch or filler, network), self._ranks.device)
            nats = network.row_losses(found.condition, found.image_tokens)  # by every rank, where weights are gathered
            if batch:
                sums += torch.stack([nats.sum(), nats.new_tensor(len(nats))])
        total, count = self._ranks.sum(sums).tolist()
        return Evaluation({"held_out_loss": round(total / count, 4)}, {})
