"""A contrastive model in training: its loss, and how well captions and images that it has not seen find each other."""

from typing import NamedTuple

import torch
from torch import Tensor

from model.contrastive import Contrastive, Embeddings
from model.training.contrastive_config import TrainContrastiveConfig
from model.training.contrastive_loss import contrastive_loss, mark_rows, retrieval_accuracy
from model.training.loop import Evaluation
from model.training.ranks import Ranks
from model.training.row_trainee import RowTrainee
from model.training.throughput import Work, count_work
from model.training.token_batches import StepBatches, on_device
from parti_data.row_texts import Texts
from parti_data.token_dataset import TokenBatch, TokenDataset


class PairBatch(NamedTuple):
    """What a contrastive model learns from."""

    keys: Texts
    text_ids: Tensor
    """int64 (B, T)."""
    image_tokens: Tensor
    """int64 (B, I)."""
    marks: Tensor
    """int64 (B, 2), of its captions and images."""


def make_pairs(batch: TokenBatch) -> PairBatch:
    """Return a batch in the machine's memory, its ids as narrow as they lie in the shards."""
    marks = torch.tensor(mark_rows(batch.captions, batch.keys))
    return PairBatch(batch.keys, torch.from_numpy(batch.text_ids), torch.from_numpy(batch.image_tokens), marks)


class ContrastiveTrainee(RowTrainee[Contrastive]):
    """A contrastive model with its data; its batch has one part, as each row is told from all others."""

    def __init__(
        self,
        config: TrainContrastiveConfig,
        network: Contrastive,
        tokens: TokenDataset,
        held_out: TokenDataset | None,
        ranks: Ranks,
    ):
        self._held_out, self._measured_rows = held_out, config.measured_rows
        self._batches = StepBatches(lambda step: make_pairs(tokens.batch(step)), ranks.device)
        first = self._batches.get(0)
        num_tokens = first.image_tokens.shape[1]
        self.work: Work | None = count_work(network, num_tokens, first.text_ids[:1], first.image_tokens[:1])
        super().__init__(config, network, [*network.text_encoder.blocks, *network.image_tower.blocks], ranks)

    def losses(self, network: str, step: int, part: int) -> dict[str, Tensor]:
        """Return the loss of this rank's rows, and what similarities are multiplied by."""
        batch = self._batches.get(step)
        self._take(step, part)
        embeddings = self.model(batch.text_ids, batch.image_tokens)
        loss = contrastive_loss(embeddings, batch.marks, self.model.log_scale, self._ranks)
        return {"total": loss, "scale": self.model.log_scale.exp()}

    def after_step(self, step: int) -> None:
        """Bound the temperature, then move the average."""
        self.model.clamp_scale()
        super().after_step(step)

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """Return how many held-out rows find each other, on the first rank."""
        if self._held_out is None or not self._ranks.is_first:
            return Evaluation({}, {})
        network, found, marks, num_rows = self.trained.eval(), [], [], 0
        for batch in self._held_out.epoch(0):
            pairs = on_device(make_pairs(batch), self._ranks.device)
            found.append(network(pairs.text_ids, pairs.image_tokens))
            marks.append(pairs.marks)
            num_rows += len(pairs.keys)
            if num_rows >= self._measured_rows:
                break
        texts, images = (torch.cat(side)[: self._measured_rows] for side in zip(*found, strict=True))
        figures = retrieval_accuracy(Embeddings(texts, images), torch.cat(marks)[: self._measured_rows])
        return Evaluation(figures, {})
