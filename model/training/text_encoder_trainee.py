"""A text encoder in training: what it is to tell of each row, its loss, and what is measured of it.

What is hidden of a row is a function of seed, step and the row's place in the global batch.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.training.loop import Evaluation
from model.training.masked_text import MaskedText
from model.training.masking import mask_text
from model.training.ranks import Ranks
from model.training.row_trainee import RowTrainee
from model.training.text_encoder_config import TrainTextEncoderConfig
from model.training.text_source import TextBatch, TextRows
from model.training.throughput import Work, count_work
from model.training.token_batches import StepBatches, on_device
from parti_data.keyed_random import stream_key

_MASK, _MEASURED = 5, 6
"""What a stream of random numbers is for."""


class MaskedBatch(NamedTuple):
    """What a text encoder learns from: all (B, T)."""

    keys: Any
    text_ids: Tensor
    """int64, what is to be told."""
    read_ids: Tensor
    """int64, what is read."""
    is_masked: Tensor
    is_chosen: Tensor


def hide(batch: TextBatch, rows: np.ndarray, vocabulary_size: int, key: np.uint64) -> MaskedBatch:
    """Return a batch whose rows have these numbers, in the machine's memory, some of its ids hidden."""
    masked = mask_text(batch.text_ids, rows, vocabulary_size, key)
    return MaskedBatch(batch.keys, *(torch.from_numpy(part) for part in (batch.text_ids, *masked)))


def _places(is_chosen: Tensor) -> Tensor:
    """Return the numbers of the chosen places of a batch (B, T), row after row, int64 (N)."""
    return is_chosen.flatten().nonzero()[:, 0]


class TextEncoderTrainee(RowTrainee[MaskedText]):
    """A text encoder with its data."""

    def __init__(
        self,
        config: TrainTextEncoderConfig,
        network: MaskedText,
        text: TextRows,
        held_out: TextRows | None,
        ranks: Ranks,
    ):
        self._held_out, self._measured_rows = held_out, config.measured_rows
        self.num_parts, self._vocabulary_size = config.batch_parts, network.shape.text_vocabulary_size
        rows = np.arange(ranks.rank, config.batch_size, ranks.world_size)

        def load(step: int) -> MaskedBatch:
            key = stream_key(config.seed, step, _MASK)
            return hide(text.batch(step), rows, self._vocabulary_size, key)

        self._batches = StepBatches(load, ranks.device)
        first = self._batches.get(0)
        inputs = first.read_ids, first.is_masked, _places(first.is_chosen)  # all, as rows have unlike numbers of those
        self.work: Work | None = count_work(network, first.read_ids.shape[1], *inputs)
        super().__init__(config, network, network.text_encoder.blocks, ranks)
        self._num_chosen: tuple[int, Tensor] | None = None

    def losses(self, network: str, step: int, part: int) -> dict[str, Tensor]:
        """Return the cross-entropy of a part's chosen ids; the mean over parts and ranks is that of the batch's."""
        batch = self._batches.get(step)
        mine, _ = self._take(step, part)
        if self._num_chosen is None or self._num_chosen[0] != step:
            of_all = self._ranks.sum(batch.is_chosen.sum().double()).clamp_min(1)
            self._num_chosen = step, of_all / self._ranks.world_size
        places = _places(batch.is_chosen[mine])
        logits = self.model(batch.read_ids[mine], batch.is_masked[mine], places)
        nats = F.cross_entropy(logits, batch.text_ids[mine].flatten()[places], reduction="sum")
        return {"total": nats * self.num_parts / self._num_chosen[1].float()}

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """Return the loss on held-out rows, in nats an id, and the share of ids that are told; on the first rank.

        The same ids are hidden at each checkpoint.
        """
        if self._held_out is None or not self._ranks.is_first:
            return Evaluation({}, {})
        network, num_rows, told = self.trained.eval(), 0, []
        for batch in self._held_out.epoch(0):
            rows = np.arange(num_rows, num_rows + len(batch.text_ids))
            found = hide(batch, rows, self._vocabulary_size, stream_key(0, 0, _MEASURED))
            found = MaskedBatch(*(part[: self._measured_rows - num_rows] for part in found))
            found = on_device(found, self._ranks.device)
            places = _places(found.is_chosen)
            logits, wanted = network(found.read_ids, found.is_masked, places), found.text_ids.flatten()[places]
            nats = F.cross_entropy(logits, wanted, reduction="none")
            told.append(torch.stack([nats.double(), (logits.argmax(-1) == wanted).double()], 1))
            num_rows += len(batch.text_ids)
            if num_rows >= self._measured_rows:
                break
        figures = torch.cat(told)
        if not len(figures):  # texts without an id that could be hidden
            return Evaluation({}, {})
        loss, accuracy = figures.mean(0).tolist()
        return Evaluation({"held_out_loss": round(loss, 4), "held_out_accuracy": round(accuracy, 4)}, {})
