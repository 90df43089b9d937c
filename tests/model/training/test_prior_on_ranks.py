"""A prior that two processes train, each with all weights or with a share: as one process would."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.training.prior_trainee import PriorTrainee
from model.training.train_prior import TrainPriorConfig, train_prior
from parti_data import TokenDataset

CONFIG = """
batch_size = 32
seed = 1
ema_decay = 0.9
[architecture]
max_text_length = 16
width = 16
hidden = 32
num_heads = 2
num_encoder_layers = 1
num_decoder_layers = 1
dropout = 0.2
[schedule]
num_steps = 24
lr = 1e-2
warmup_steps = 5
clip_norm = 0.5
checkpoint_every = 4
log_every = 1
precision = "float32"
"""
DALLE = """
family = "dalle"
batch_size = 32
[architecture]
max_text_length = 16
width = 16
hidden = 32
num_heads = 2
num_layers = 3
kernel_side = 3
[schedule]
num_steps = 4
lr = 1e-2
checkpoint_every = 4
log_every = 1
precision = "float32"
"""
ADAFACTOR = ["schedule.optimizer=adafactor", "schedule.beta2=0.96", "schedule.num_steps=8"]
NOBLE = [*ADAFACTOR, 'architecture.noble={preset = "paper", rank = 4}']
SHARD = ["running.parallel=shard"]
STOPS = {"one": 7, "two": 5, "shares": 6, "noble": 5, "moved": 4}
"""Steps that end a run, drawn once; those since its checkpoint are done again, and 20 follow in all."""


def stop_at(step: int):
    after_step = PriorTrainee.after_step

    def stop(self, done):
        if done == step:
            raise KeyboardInterrupt
        after_step(self, done)

    return stop


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tokens, run_on_ranks):
    """The folder of all runs: by one process, by two, stopped and gone on with, also by the other number."""
    folder = tmp_path_factory.mktemp("priors")
    config = folder / "config.toml"
    data = f'source = "{tokens}"\nheld_out = "{tokens}"\n'
    config.write_text(data + CONFIG)
    dalle = folder / "dalle.toml"
    dalle.write_text(data + DALLE)
    alone, together = alone_in(config, folder), []

    def output(name, *words, config=config):
        return ["prior", str(config), f"output={folder / name}", *words]

    alone("one")
    alone("one_stopped", stop=STOPS["one"])
    alone("one_stopped")
    alone("one_parts", *ADAFACTOR, "batch_parts=2", "recompute_blocks=true")
    alone("one_adafactor", *ADAFACTOR)
    alone("one_noble", *NOBLE)
    alone("one_to_two", *ADAFACTOR, stop=STOPS["moved"])
    together += [output("two"), output("two_stopped", f"stop={STOPS['two']}"), output("two_stopped")]
    together += [output("shares", *SHARD, "batch_parts=2", "recompute_blocks=true")]
    together += [output("shares_adafactor", *SHARD, *ADAFACTOR)]
    together += [
        output("shares_noble", *SHARD, *NOBLE, f"stop={STOPS['noble']}"),
        output("shares_noble", *SHARD, *NOBLE),
    ]
    together += [output("shares_stopped", *SHARD, *ADAFACTOR, f"stop={STOPS['shares']}")]
    together += [output("shares_stopped", *SHARD, *ADAFACTOR), output("one_to_two", *SHARD, *ADAFACTOR)]
    together += [output("two_to_one", *SHARD, *ADAFACTOR, f"stop={STOPS['moved']}"), output("bad", "bad=3")]
    together += [output("dalle_two", config=dalle), output("dalle_shares", *SHARD, config=dalle)]
    run_on_ranks(Path(__file__).with_name("train_on_two_ranks.py"), TRAININGS=together)
    alone("two_to_one", *ADAFACTOR)
    return folder


def alone_in(config: Path, folder: Path):
    def train(name, *words, stop=-1):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(PriorTrainee, "after_step", stop_at(stop))
            try:
                train_prior(TrainPriorConfig.load(str(config), [f"output={folder / name}", *words]))
            except KeyboardInterrupt:
                assert stop >= 0

    return train


LEARNED = ("step", "lr", "total", "gradient_norm", "held_out_loss")


@pytest.fixture
def learned(runs, metrics):
    """What a run learned: its metrics but for those of its speed."""

    def read(name):
        return [{key: line[key] for key in LEARNED if key in line} for line in metrics(runs / name)]

    return read


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("one", "two"), ("one", "shares"), ("one_adafactor", "one_parts"), ("one_adafactor", "shares_adafactor"),
        ("one_adafactor", "one_to_two"), ("one_adafactor", "two_to_one"), ("one_noble", "shares_noble"),
    ],
)  # fmt: skip
def test_ranks_and_parts_change_rounding_alone(learned, one, other):
    lines = learned(one), learned(other)
    assert len(lines[0]) == len(lines[1]) == (24 + 6 if one == "one" else 8 + 2)
    for mine, its in zip(*lines, strict=True):
        rounding = 1e-4 if "held_out_loss" in mine else 0.0  # it is told to so many digits
        assert its == pytest.approx(mine, abs=1e-5 + rounding, rel=1e-5), (mine, its)
    losses = [line["held_out_loss"] for line in lines[0] if "held_out_loss" in line]
    assert losses[-1] < losses[0]


def test_a_dalle_of_which_ranks_hold_shares_learns_as_one_of_which_they_hold_all(learned):
    """One process alone counts the ids of the text over the whole batch, so that its text weighs otherwise."""
    lines = learned("dalle_two"), learned("dalle_shares")
    assert len(lines[0]) == len(lines[1]) == 4 + 1
    for whole, shared in zip(*lines, strict=True):
        assert shared == pytest.approx(whole, abs=1e-4, rel=1e-5)


@pytest.mark.parametrize(
    ("whole", "stopped"),
    [("one", "one_stopped"), ("two", "two_stopped"), ("shares_adafactor", "shares_stopped")],
)
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(runs, learned, whole, stopped):
    assert learned(stopped) == learned(whole)
    name = "prior.safetensors"
    assert (runs / stopped / name).read_bytes() == (runs / whole / name).read_bytes()


def test_what_is_saved_is_the_average_whole(runs):
    saved = [load_file(runs / name / "prior.safetensors") for name in ("one", "shares")]
    folder = runs / "one" / "checkpoints" / "step-00000024"
    stored = load_file(folder / "rank-00000.safetensors")
    for name, tensor in saved[0].items():
        assert torch.equal(tensor, stored[f"extra.average.{name}"])
        assert torch.allclose(tensor, saved[1][name], atol=1e-5)
    assert not torch.equal(saved[0]["to_logits.weight"], stored["model.to_logits.weight"])


def test_each_rank_writes_its_share(runs):
    folder = runs / "shares_adafactor" / "checkpoints" / "step-00000008"
    shares = [load_file(folder / f"rank-0000{rank}.safetensors")["model.to_logits.weight"] for rank in (0, 1)]
    assert [share.shape for share in shares] == [(32, 16), (32, 16)]


def test_a_loss_of_one_rank_that_is_not_finite_stops_all_and_names_its_rows(runs, tokens):
    told = [(runs / "bad" / f"error{rank}.txt").read_text() for rank in (0, 1)]
    keys = TokenDataset(tokens, 32, 1, rank=1, world_size=2).batch(3).keys
    assert told[0] == told[1]
    found = f"found inf at step 3, a batch of {', '.join(keys[:4])} and 12 more; lower schedule.lr"
    assert f"expected a finite loss, {found}" in told[0]
