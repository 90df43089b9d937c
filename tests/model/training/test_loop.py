import ctypes
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from model.training.average import WeightAverage
from model.training.checkpoint import METRICS
from model.training.checkpoint_files import INDEX
from model.training.loop import Evaluation, make_optimizer, train
from model.training.ranks import Ranks
from model.training.schedule import Running, Schedule
from parti_data.errors import CheckpointError, ConfigError, RankError

SHORT = Schedule(num_steps=12, lr=0.05, warmup_steps=3, checkpoint_every=4, log_every=2, precision="float32")


class Line:
    """Fits a line to noisy points; the points and the dropout of a step are a function of the step."""

    batch_size, work = 16, None

    def __init__(self, fail_at: int = -1, bad_at: int = -1, num_parts: int = 1, dropout: float = 0.2):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(dropout), nn.Linear(8, 1))
        self.networks = {"line": self.model}
        self.seen, self.calls, self.num_parts = 0, [], num_parts
        self._fail_at, self._bad_at = fail_at, bad_at

    def losses(self, network, step, part):
        if step == self._fail_at:
            raise KeyboardInterrupt
        self.calls.append(step)
        x = torch.from_numpy(np.random.default_rng(step).random((16, 3), np.float32)).chunk(self.num_parts)[part]
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        return {"total": loss * (float("nan") if step == self._bad_at else 1)}

    def keys(self, step):
        return [f"row{step}-{number}" for number in range(16)]

    def after_step(self, step):
        self.seen += step

    def evaluate(self, step):
        return Evaluation({"seen": float(self.seen)}, {"square": np.full((4, 4, 3), step, np.uint8)})

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


@pytest.mark.parametrize("moment", [1, 4, 5, 8, 11])
def test_a_run_stopped_anywhere_ends_with_the_same_weights_bit_for_bit(tmp_path, moment):
    whole = Line()
    train(whole, SHORT, str(tmp_path / "whole"), "x")
    with pytest.raises(KeyboardInterrupt):
        train(Line(fail_at=moment), SHORT, str(tmp_path / "parts"), "x")
    resumed = Line()
    train(resumed, SHORT, str(tmp_path / "parts"), "x")
    assert resumed.calls == list(range(moment // 4 * 4, 12))
    assert resumed.seen == whole.seen
    for mine, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def newest(directory) -> dict:
    """What the newest checkpoint says of itself."""
    return json.loads(sorted(directory.glob(f"checkpoints/*/{INDEX}"))[-1].read_text())


def test_metrics_hold_every_logged_step_once_after_a_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Line(fail_at=7), SHORT, str(tmp_path), "x")
    train(Line(), SHORT, str(tmp_path), "x")
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if "total" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "seen" in line] == [4, 8, 12]


def test_weight_decay_spares_vectors():
    optimizer = make_optimizer(nn.Linear(3, 2), SHORT)
    assert [(group["weight_decay"] > 0, group["params"][0].dim()) for group in optimizer.param_groups] == [
        (True, 2),
        (False, 1),
    ]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"found nan at step 5, a batch of row5-0, .*row5-3 and 12 more; lower"):
        train(Line(bad_at=5), SHORT, str(tmp_path), "x")
    assert newest(tmp_path)["step"] == 4


class Steep(Line):
    """A loss that is finite where its gradient is not, at one step."""

    steep_at = -1

    def losses(self, network, step, part):
        terms = super().losses(network, step, part)
        zero = 0 * self.model[0].weight.sum()
        return {"total": terms["total"] + (zero.abs().sqrt() if step == self.steep_at else 0)}


@pytest.mark.parametrize("bad_at", [5, 11])
def test_a_gradient_that_is_not_finite_leaves_no_checkpoint_of_what_it_made(tmp_path, bad_at):
    line = Steep()
    line.steep_at = bad_at
    with pytest.raises(CheckpointError, match=rf"expected a finite gradient, found nan at step {bad_at}, a batch of"):
        train(line, SHORT, str(tmp_path), "x")
    assert newest(tmp_path)["step"] == bad_at // 4 * 4


class Seldom(Line):
    """A term of its loss comes every third step."""

    def losses(self, network, step, part):
        terms = super().losses(network, step, part)
        return terms | ({"seldom": torch.tensor(step / 7)} if step % 3 == 0 else {})


def test_a_term_that_comes_now_and_then_is_told_in_the_next_line(tmp_path):
    schedule = SHORT.model_copy(update={"log_every": 5})
    train(Seldom(), schedule, str(tmp_path / "whole"), "x")
    with pytest.raises(KeyboardInterrupt):  # after step 4's checkpoint: the term of step 3 comes in step 5's line
        train(Seldom(fail_at=4), schedule, str(tmp_path / "parts"), "x")
    train(Seldom(), schedule, str(tmp_path / "parts"), "x")
    ends = []
    for name in ("whole", "parts"):
        lines = [json.loads(line) for line in (tmp_path / name / METRICS).read_text().splitlines()]
        ends.append([{**line, "steps_per_s": 0} for line in lines])
    assert ends[0] == ends[1]
    told = {line["step"]: line["seldom"] for line in ends[0] if "seldom" in line}
    assert told == {5: pytest.approx(3 / 7), 10: pytest.approx(9 / 7)}


class Looking(Line):
    """Remembers how a GPU would convolve."""

    def losses(self, network, step, part):
        self.has_tf32 = torch.backends.cudnn.allow_tf32
        return super().losses(network, step, part)


def test_convolutions_are_float32_while_a_run_lasts(tmp_path):
    looking, before = Looking(), torch.backends.cudnn.allow_tf32
    train(looking, SHORT, str(tmp_path), "x")
    assert (before, looking.has_tf32, torch.backends.cudnn.allow_tf32) == (True, False, True)


@pytest.mark.parametrize(("warmup_steps", "is_told"), [(12, False), (13, True)])
def test_a_warm_up_longer_than_the_run_is_told(tmp_path, capsys, warmup_steps, is_told):
    train(Line(), SHORT.model_copy(update={"warmup_steps": warmup_steps}), str(tmp_path), "train x")
    line = "train x: schedule.warmup_steps=13 are more than the 12 steps of the run, whose rate reaches 12/13 of schedu"
    assert capsys.readouterr().err.count(line) == is_told


def test_a_norm_of_zero_clips_nothing(tmp_path):
    ends = []
    for clip_norm in (0.0, 1e9, 1e-9):
        line = Line()
        train(line, SHORT.model_copy(update={"clip_norm": clip_norm}), str(tmp_path / str(clip_norm)), "x")
        ends.append(line.model[0].weight.detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_ranks_that_found_other_checkpoints_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.broadcast_object_list", lambda *_, **__: None)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda steps: steps.add_(torch.tensor([[0], [8]])))
    with pytest.raises(RankError, match=r"expected one checkpoint on all ranks, found 0, 8; give them an output that"):
        train(Line(), SHORT, str(tmp_path), "x", ranks=Ranks(0, 2))


def test_metrics_are_there_whenever_a_checkpoint_says_that_all_is_done(tmp_path, monkeypatch):
    from model.training import checkpoint_files

    publish = checkpoint_files.publish_bytes

    def die_before_the_checkpoint(path, content):
        if path.endswith(INDEX) and b'"step": 12' in (tmp_path / METRICS).read_bytes():
            raise KeyboardInterrupt
        publish(path, content)

    monkeypatch.setattr(checkpoint_files, "publish_bytes", die_before_the_checkpoint)
    with pytest.raises(KeyboardInterrupt):
        train(Line(), SHORT, str(tmp_path), "x")
    monkeypatch.undo()
    resumed = Line()
    train(resumed, SHORT, str(tmp_path), "x")
    assert resumed.calls == [8, 9, 10, 11]
    assert '"step": 12' in (tmp_path / METRICS).read_text()


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is another"
)
def test_large_blocks_come_from_memory_that_is_kept():
    program = """
import ctypes
from model.training.loop import keep_freed_memory
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (*"abc", "mapped_blocks", *"efghij")]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype, libc.malloc.argtypes = Info, ctypes.c_void_p, [ctypes.c_size_t]
def newly_mapped():
    before = libc.mallinfo2().mapped_blocks
    assert libc.malloc(20 << 20)
    return libc.mallinfo2().mapped_blocks - before
print(newly_mapped())
keep_freed_memory()
print(newly_mapped())
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["1", "0"]


class Duel(Line):
    """Two networks: the second learns to tell what the first answered from the truth, and has no turn at step 0."""

    def __init__(self, **named):
        super().__init__(**named)
        self.judge = nn.Linear(1, 1)
        self.networks = {"line": self.model, "judge": self.judge}

    def losses(self, network, step, part):
        x = torch.from_numpy(np.random.default_rng(step).random((16, 3), np.float32)).chunk(self.num_parts)[part]
        answer, truth = self.model(x), x.sum(1, keepdim=True)
        if network == "line":
            assert not any(parameter.requires_grad for parameter in self.judge.parameters())
            fooled = -self.judge(answer).mean()
            return {"total": (answer - truth).square().mean() + fooled, "fooled": fooled}
        if step == 0:
            return {}
        return {"total": (self.judge(answer.detach()) - self.judge(truth)).tanh().mean()}


def test_networks_take_turns_each_with_its_own_optimizer(tmp_path):
    duel = Duel()
    before = [parameter.detach().clone() for parameter in duel.judge.parameters()]
    train(duel, SHORT.model_copy(update={"num_steps": 1, "log_every": 1}), str(tmp_path / "one"), "x")
    assert all(torch.equal(mine, old) for mine, old in zip(duel.judge.parameters(), before, strict=True))
    train(duel, SHORT, str(tmp_path / "all"), "x")
    assert not any(torch.equal(mine, old) for mine, old in zip(duel.judge.weight, before[0], strict=True))
    lines = [json.loads(line) for line in (tmp_path / "all" / METRICS).read_text().splitlines()]
    assert {"total", "fooled", "gradient_norm", "judge_total", "judge_gradient_norm"} <= lines[0].keys()


def test_two_networks_stopped_and_resumed_end_with_the_same_weights(tmp_path):
    whole, stopped, resumed = Duel(), Duel(), Duel()
    train(whole, SHORT, str(tmp_path / "whole"), "x")
    stopped.after_step = lambda step: 1 / (6 - step)
    with pytest.raises(ZeroDivisionError):
        train(stopped, SHORT, str(tmp_path / "parts"), "x")
    assert "judge_optimizer.0.exp_avg" in newest(tmp_path / "parts")["tensors"]
    train(resumed, SHORT, str(tmp_path / "parts"), "x")
    for name, network in whole.networks.items():
        for mine, other in zip(resumed.networks[name].parameters(), network.parameters(), strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize("num_parts", [2, 4, 16])
def test_the_parts_of_a_batch_together_are_the_batch(tmp_path, num_parts):
    whole, parted = Line(dropout=0.0), Line(dropout=0.0, num_parts=num_parts)
    train(whole, SHORT, str(tmp_path / "whole"), "x")
    train(parted, SHORT, str(tmp_path / "parted"), "x")
    for mine, other in zip(parted.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


def test_pictures_are_drawn_at_the_first_and_last_checkpoint_and_at_few_between(tmp_path):
    schedule = SHORT.model_copy(update={"num_steps": 41, "checkpoint_every": 2})
    assert schedule.drawn_steps() == [2, 8, 14, 20, 24, 30, 36, 41]
    assert SHORT.drawn_steps() == [4, 8, 12]
    train(Line(), SHORT, str(tmp_path), "x")
    drawn = [f"square-{step:08d}.png" for step in (4, 8, 12)]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [*drawn, "square.png"]


def test_the_newest_picture_has_always_one_name(tmp_path):
    schedule = SHORT.model_copy(update={"num_steps": 41, "checkpoint_every": 2})
    with pytest.raises(KeyboardInterrupt):
        train(Line(fail_at=7), schedule, str(tmp_path), "x")
    with Image.open(tmp_path / "square.png") as newest:
        assert newest.getpixel((0, 0)) == (6, 6, 6)
    assert not (tmp_path / "square-00000006.png").exists()


def test_a_checkpoint_by_time_lies_between_those_by_steps_and_measures_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Line(fail_at=3), SHORT, str(tmp_path), "x", Running(checkpoint_minutes=1e-9))
    assert newest(tmp_path)["step"] == 2
    resumed = Line()
    train(resumed, SHORT, str(tmp_path), "x", Running(checkpoint_minutes=1e-9))
    assert resumed.calls[0] == 2
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if "seen" in line] == [4, 8, 12]


@pytest.mark.parametrize("stop", [None, 3, 7])
def test_figures_and_pictures_are_there_once_for_tensorboard_wherever_a_run_was_stopped(tmp_path, stop):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if stop:
        with pytest.raises(KeyboardInterrupt):
            train(Line(fail_at=stop), SHORT, str(tmp_path), "x", Running(tensorboard=True))
    train(Line(), SHORT, str(tmp_path), "x", Running(tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("total")] == [2, 4, 6, 8, 10, 12]
    assert [event.step for event in events.Images("square")] == [4, 8, 12]


def test_tensorboard_that_is_not_installed_or_not_on_disk_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="expected an output on this machine's disk for TensorBoard, found another"):
        train(Line(), SHORT, "memory://x", "x", Running(tensorboard=True))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="expected the package tensorboard, found none; pip install"):
        train(Line(), SHORT, str(tmp_path), "x", Running(tensorboard=True))


def test_an_average_of_weights_forgets_the_first_ones_and_follows():
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    average = WeightAverage(network, 0.9)
    network.weight.data.fill_(1.0)
    distances = []
    for step in range(200):
        average.update(network, step)
        distances.append(1 - float(average.network.weight))
    assert distances[0] == pytest.approx(0.1)
    assert distances[1] == pytest.approx(0.1 * 2 / 11)
    assert distances[-1] == pytest.approx(0, abs=1e-6)
    network.weight.data.fill_(2.0)
    average.update(network, 200)
    assert float(average.network.weight) == pytest.approx(1.1, abs=1e-6)
