import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.text_encoder import TextEncoderShape
from model.training.masked_text import MaskedText
from model.training.ranks import Ranks
from model.training.schedule import Schedule
from model.training.text_encoder_config import TrainTextEncoderConfig
from model.training.text_encoder_trainee import TextEncoderTrainee
from parti_data.line_dataset import LineBatch
from parti_data.text import END, PAD

VOCABULARY, LENGTH, WIDTH, HIDDEN = 50, 41, 16, 32
SHAPE = TextEncoderShape(
    text_vocabulary_size=VOCABULARY, max_text_length=LENGTH, width=WIDTH, hidden=HIDDEN, num_heads=2,
    num_encoder_layers=3, dropout=0.0,
)  # fmt: skip


class Rows:
    """The same rows at each step, of so many ids and END."""

    num_rows = 4

    def __init__(self, *lengths: int):
        places, ends = np.arange(LENGTH), np.array(lengths)[:, None]
        ids = np.where(places < ends, 3 + places % 7, np.where(places == ends, END, PAD))
        self._batch = LineBatch([f"{number}" for number in range(len(lengths))], ids.astype(np.uint16))

    def batch(self, step: int) -> LineBatch:
        return self._batch

    def epoch(self, number: int):
        yield self._batch


class WithoutOthers(Ranks):
    """A rank whose others have no ids at all."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values


def make(rows: Rows, ranks: Ranks, batch_size: int, held_out: Rows | None = None) -> TextEncoderTrainee:
    torch.manual_seed(0)
    config = TrainTextEncoderConfig(
        source="", output="x", batch_size=batch_size, schedule=Schedule(num_steps=1, lr=1.0)
    )
    return TextEncoderTrainee(config, MaskedText(SHAPE), rows, held_out, ranks)


def test_held_out_texts_of_which_nothing_can_be_hidden_have_no_loss():
    assert make(Rows(5), Ranks(), 1, held_out=Rows(0, 0)).evaluate(0).figures == {}
    assert make(Rows(5), Ranks(), 1, held_out=Rows(0, 40)).evaluate(0).figures.keys() == {
        "held_out_loss", "held_out_accuracy"
    }  # fmt: skip


def test_the_work_of_a_row_is_the_mean_of_the_batchs_whatever_its_first_row_is():
    found = make(Rows(0, 40, 20, 0), Ranks(), 4).work
    layer = (4 * WIDTH**2 + 2 * WIDTH * HIDDEN) * LENGTH + 2 * WIDTH * LENGTH**2
    told = (6 + 3) / 4  # 15% of 40 and of 20 ids, a row
    assert found is not None
    assert found.tokens == LENGTH
    assert found.flops == pytest.approx(6 * (3 * layer + told * (WIDTH**2 + WIDTH * VOCABULARY)))


@pytest.mark.parametrize("lengths", [(40, 0), (1, 0)])
def test_the_mean_over_ranks_is_the_cross_entropy_of_all_chosen_ids(lengths):
    trainee = make(Rows(*lengths), WithoutOthers(0, 2), 4)
    loss = trainee.losses("model", 0, 0)["total"]
    batch = trainee._batches.get(0)
    places = batch.is_chosen.flatten().nonzero()[:, 0]
    logits = trainee.model(batch.read_ids, batch.is_masked, places)
    wanted = F.cross_entropy(logits.double(), batch.text_ids.flatten()[places])
    assert loss.item() / 2 == pytest.approx(wanted.item(), rel=1e-5)
