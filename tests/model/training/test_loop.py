import ctypes
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from model.training.loop import CHECKPOINT, METRICS, Schedule, make_optimizer, train
from parti_data.errors import CheckpointError

SHORT = Schedule(num_steps=12, lr=0.05, warmup_steps=3, checkpoint_every=4, log_every=2, precision="float32")


class Line:
    """Fits a line to noisy points; the points and the dropout of a step are a function of the step."""

    def __init__(self, fail_at: int = -1, bad_at: int = -1):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.seen, self.calls = 0, []
        self._fail_at, self._bad_at = fail_at, bad_at

    def losses(self, step):
        if step == self._fail_at:
            raise KeyboardInterrupt
        self.calls.append(step)
        x = torch.from_numpy(np.random.default_rng(step).random((16, 3), np.float32))
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        return {"total": loss * (float("nan") if step == self._bad_at else 1)}

    def after_step(self, step):
        self.seen += step

    def evaluate(self, step):
        return {"seen": float(self.seen)}

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


def test_metrics_hold_every_logged_step_once_after_a_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Line(fail_at=7), SHORT, str(tmp_path), "x")
    train(Line(), SHORT, str(tmp_path), "x")
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if "total" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "seen" in line] == [4, 8, 12]


def test_the_schedule_warms_up_and_falls_along_a_cosine():
    schedule = Schedule(num_steps=110, lr=2.0, warmup_steps=10, final_lr_ratio=0.1)
    assert schedule.lr_at(0) == pytest.approx(0.2)
    assert schedule.lr_at(9) == pytest.approx(2.0)
    assert schedule.lr_at(10) == pytest.approx(2.0)
    assert schedule.lr_at(60) == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert schedule.lr_at(110) == pytest.approx(0.2)


def test_weight_decay_spares_vectors():
    optimizer = make_optimizer(nn.Linear(3, 2), SHORT)
    assert [(group["weight_decay"] > 0, group["params"][0].dim()) for group in optimizer.param_groups] == [
        (True, 2),
        (False, 1),
    ]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a finite loss, found nan at step 5; lower schedule\.lr"):
        train(Line(bad_at=5), SHORT, str(tmp_path), "x")
    assert (tmp_path / CHECKPOINT).is_file()


def test_a_checkpoint_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="expected this run's checkpoint, found"):
        train(Line(), SHORT, str(tmp_path), "x")


def test_a_checkpoint_runs_nobodys_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"step": Evil()}, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match="expected this run's checkpoint"):
        train(Line(), SHORT, str(tmp_path), "x")
    assert not (tmp_path / "owned").exists()


def test_metrics_are_there_whenever_a_checkpoint_says_that_all_is_done(tmp_path, monkeypatch):
    from model.training import loop

    publish = loop.publish_bytes

    def die_before_the_checkpoint(path, content):
        if (
            path.endswith(CHECKPOINT)
            and (tmp_path / METRICS).is_file()
            and b'"step": 12' in (tmp_path / METRICS).read_bytes()
        ):
            raise KeyboardInterrupt
        publish(path, content)

    monkeypatch.setattr(loop, "publish_bytes", die_before_the_checkpoint)
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
@pytest.mark.parametrize(("keeps", "mapped_blocks"), [(True, 0), (False, 1)])
def test_large_blocks_come_from_memory_that_is_kept(keeps, mapped_blocks):
    program = f"""
import ctypes
from model.training.loop import keep_freed_memory
if {keeps}:
    keep_freed_memory()
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (*"abc", "mapped_blocks", *"efghij")]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype, libc.malloc.argtypes = Info, ctypes.c_void_p, [ctypes.c_size_t]
before = libc.mallinfo2().mapped_blocks
assert libc.malloc(20 << 20)
print(libc.mallinfo2().mapped_blocks - before)
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(printed) == mapped_blocks
