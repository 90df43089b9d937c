"""Several processes that train one tokenizer, mostly started by torchrun as a user would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from model.training.ranks import Ranks, _buckets, choose_device
from model.training.tokenizer_trainee import TokenizerTrainee
from model.training.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from parti_data.errors import ConfigError

AFTER_STEP = TokenizerTrainee.after_step
CONFIG = """
batch_size = 8
batch_parts = 2
ema_decay = 0.9
held_out_share = 0.2
augmentation = "dalle"
[architecture]
image_side = 32
patch_side = 8
codebook_size = 64
code_width = 8
positions = "sincos"
encoder = { num_layers = 1, num_heads = 2, width = 32, hidden = 64 }
decoder = { num_layers = 1, num_heads = 2, width = 32, hidden = 64 }
[loss_weights]
perceptual = 0.0
[codebook]
continuous_steps = 4
restart_every = 3
[schedule]
num_steps = 12
lr = 1e-3
warmup_steps = 5
checkpoint_every = 6
log_every = 1
precision = "float32"
"""


SCRIPT = Path(__file__).with_name("train_on_ranks.py")


def start(arguments: list[str], failure: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FAILURE": failure, "PYTHONPATH": root}
    return subprocess.run(
        [*command, str(SCRIPT), "train", "tokenizer", *arguments], env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def config_file(tmp_path, filtered) -> str:
    path = tmp_path / "config.toml"
    path.write_text(f'source = "{filtered}"\n{CONFIG}')
    return str(path)


def test_two_processes_go_on_as_one_would(tmp_path, config_file, metrics, monkeypatch):
    def config(name):
        return TrainTokenizerConfig.load(config_file, [f"output={tmp_path / name}"])

    train_tokenizer(config("one"))
    monkeypatch.setattr("model.training.tokenizer_trainee.TokenizerTrainee.after_step", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(config("two"))
    done = start([config_file, f"output={tmp_path / 'two'}"])
    assert done.returncode == 0, done.stderr
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for mine, other in zip(one, two, strict=True):
        for name in mine.keys() - {"steps_per_s"}:
            assert mine[name] == pytest.approx(other[name], abs=1e-5, rel=1e-5), (mine["step"], name)
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert done.stdout.count("train_tokenizer:") == 1


def test_two_processes_with_a_discriminator_in_bfloat16_stay_equal(tmp_path, config_file, metrics, run_on_ranks):
    size = "size={channel_base=128}"
    words = ["schedule.precision=bfloat16", f"adversarial={{start_step=2,r1_every=2,{size}}}", "schedule.num_steps=8"]
    run_on_ranks(SCRIPT, ARGUMENTS=["train", "tokenizer", config_file, f"output={tmp_path}", *words])
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert {name.partition(".")[0] for name in first} == {"tokenizer", "discriminator", "average"}
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    told = [line for line in metrics(tmp_path) if "discriminator_r1" in line]
    assert [line["step"] for line in told] == [3, 5, 7]


def stop_at_seven(self, step):
    if step == 7:
        raise KeyboardInterrupt
    return AFTER_STEP(self, step)


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        ("error", "error: cats.tar: expected an image, found a dog; mend it"),
        ("kill", "error: rank 0 of 2: expected all ranks at work, found one gone ("),
    ],
)
def test_a_rank_that_fails_ends_all_with_its_line(tmp_path, config_file, failure, line):
    done = start([config_file, f"output={tmp_path / 'out'}"], failure)
    assert done.returncode == 1
    assert [text for text in done.stderr.splitlines() if text.startswith("error:")] == [
        next(text for text in done.stderr.splitlines() if text.startswith(line))
    ]
    assert not (tmp_path / "out" / "manifest.json").exists()


TEXT = "{ width = 16, hidden = 32, num_heads = 2, num_encoder_layers = 1, max_text_length = 16 }"
ARCHITECTURES = {
    "prior": TEXT.replace("}", ", num_decoder_layers = 1 }"),
    "contrastive": TEXT.replace("}", ", num_image_layers = 1 }"),
    "text_encoder": TEXT,
    "tokenizer": "{ image_side = 32, encoder = { num_layers = 1 }, decoder = { num_layers = 1 } }",
    "dvae": "{ image_side = 32, width = 8 }",
    "upsampler": "{ num_blocks = 1, width = 8 }",
}


def test_ranks_that_do_not_share_their_output_are_refused_before_they_train(
    tmp_path, filtered, tokens, image_file, run_on_ranks
):
    """A relative output, and each rank in a folder of its own, as on machines without a disk in common."""
    trainings = []
    for job, architecture in ARCHITECTURES.items():
        path = tmp_path / f"{job}.toml"
        lines = [f'source = "{tokens if "max_text_length" in architecture else filtered}"']
        lines += [f'image_tokenizer = "{image_file}"'] if job == "upsampler" else []
        lines += ["batch_size = 8", "schedule = { num_steps = 2, lr = 1e-3 }", f"architecture = {architecture}"]
        path.write_text("\n".join(lines))
        trainings.append([job, str(path), f"output={job}", f"apart={tmp_path}"])
    run_on_ranks(Path(__file__).with_name("train_on_two_ranks.py"), TRAININGS=trainings)
    for job in ARCHITECTURES:
        told = [(tmp_path / str(rank) / job / f"error{rank}.txt").read_text() for rank in (0, 1)]
        line = "expected one begun.json on all ranks, found 1, 0; give them an output that all machines share"
        assert told == [f"{job}: {line}"] * 2
        assert sorted(path.name for path in (tmp_path / "0" / job).iterdir()) == ["begun.json", "error0.txt"]


def test_one_process_alone_is_every_rank(tmp_path):
    ranks, values = Ranks(), torch.arange(3.0)
    assert ranks.is_first
    assert torch.equal(ranks.mean(values), values)
    assert ranks.from_first({"a": 1}) == {"a": 1}


def test_gradients_are_averaged_in_bounded_pieces(monkeypatch):
    monkeypatch.setattr("model.training.ranks._BUCKET_VALUES", 10)
    sizes = [4, 6, 1, 12, 3, 3, 3]
    buckets = list(_buckets([torch.zeros(size) for size in sizes]))
    assert [[len(gradient) for gradient in bucket] for bucket in buckets] == [[4, 6], [1], [12], [3, 3, 3]]
    ranks, layer = Ranks(0, 2), nn.Linear(3, 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: tensor.mul_(6))
    layer.weight.grad, layer.bias.grad = torch.ones(2, 3), torch.arange(2.0)
    ranks.average_gradients(layer.parameters())
    assert torch.equal(layer.weight.grad, torch.full((2, 3), 3.0))
    assert torch.equal(layer.bias.grad, torch.tensor([0.0, 3.0]))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(
        ConfigError, match=r"^running\.device: .* GPU for process 1 .* found 1; .* set running\.device=cpu"
    ):
        choose_device("auto")
