"""The loop that every training job shares: schedule, clipping, checkpoints, metrics, exact resume.

A job says what the loss of a step is; it must be a function of the model and the step alone. A run that is killed and
started again ends with the same weights, bit for bit, on a CPU with the same number of threads.
"""

import ctypes
import io
import json
import math
import pickle
import sys
import time
from typing import Any, Literal, Protocol

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from parti_data.config import StrictModel
from parti_data.errors import CheckpointError
from parti_data.progress import show_progress
from parti_data.storage import is_file, join, publish_bytes, read_bytes

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
_MALLOPT_TRIM_THRESHOLD, _MALLOPT_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
"""What glibc allows on 64 bits; larger blocks always come from the kernel."""
_TRIM_THRESHOLD = 1 << 30


class Schedule(StrictModel):
    """How long to train, and AdamW's settings: linear warm-up, then cosine to a share of the rate."""

    num_steps: PositiveInt
    lr: PositiveFloat
    final_lr_ratio: float = 0.0
    warmup_steps: NonNegativeInt = 100
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the matrix products. The quantizer and the losses are float32 always."""
    checkpoint_every: PositiveInt = 500
    log_every: PositiveInt = 50

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(self.num_steps - self.warmup_steps, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * (self.final_lr_ratio + (1 - self.final_lr_ratio) * cosine)


class Trainee(Protocol):
    """What the loop trains."""

    @property
    def model(self) -> nn.Module:
        """The network."""
        ...

    def losses(self, step: int) -> dict[str, Tensor]:
        """Return the terms of the loss of a step, `total` among them; scalars."""
        ...

    def after_step(self, step: int) -> None:
        """Do what follows an update."""
        ...

    def evaluate(self, step: int) -> dict[str, float]:
        """Return figures worth a line in the metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and numbers that a resumed run needs beside model and optimizer."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take such a state."""
        ...


def train(trainee: Trainee, schedule: Schedule, directory: str, title: str) -> None:
    """Train to the last step, going on from the directory's checkpoint where there is one."""
    keep_freed_memory()
    optimizer = make_optimizer(trainee.model, schedule)
    metrics: list[dict[str, Any]] = []
    first = _resume(trainee, optimizer, metrics, directory)
    started = time.monotonic()
    with show_progress(title, schedule.num_steps) as bar:
        for step in range(first, schedule.num_steps):
            figures = _update(trainee, optimizer, schedule, step)
            done = step + 1
            if done % schedule.log_every == 0 or done == schedule.num_steps:
                rate = (done - first) / (time.monotonic() - started)
                values = {name: float(value) for name, value in figures.items()}
                _refuse_nonfinite(values, directory, step)
                metrics.append({"step": done, "lr": schedule.lr_at(step), **values, "steps_per_s": round(rate, 2)})
                bar.update(done, f"loss {values['total']:.4f}  {rate:.1f} steps/s")
            if done % schedule.checkpoint_every == 0 or done == schedule.num_steps:
                metrics.append({"step": done, **trainee.evaluate(done)})
                _save(trainee, optimizer, metrics, done, directory)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step instead of asking the kernel for it anew, page by page.

    A step of a small prior faulted in 9,000 pages on a CPU, and takes a tenth to a fifth less time without. Does
    nothing where the C library is another. Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_MALLOPT_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_MALLOPT_TRIM_THRESHOLD, _TRIM_THRESHOLD)


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """Return AdamW; weight decay spares everything with fewer than two dimensions."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.lr, betas=(schedule.beta1, schedule.beta2), fused=True)


def _update(trainee: Trainee, optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> dict[str, Tensor]:
    """Do one optimizer update; return the losses and the gradient's norm before clipping."""
    trainee.model.train()
    torch.manual_seed(step)  # dropout is a function of the step
    device = next(trainee.model.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=schedule.precision == "bfloat16"):
        losses = trainee.losses(step)
    losses["total"].backward()
    norm = nn.utils.clip_grad_norm_(trainee.model.parameters(), schedule.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = schedule.lr_at(step)
    optimizer.step()
    optimizer.zero_grad()
    trainee.after_step(step)
    return {name: value.detach() for name, value in losses.items()} | {"gradient_norm": norm}


def _refuse_nonfinite(values: dict[str, float], directory: str, step: int) -> None:
    if not math.isfinite(values["total"]):
        raise CheckpointError(
            f"{directory}: expected a finite loss, found {values['total']} at step {step}; lower schedule.lr, in a "
            "new output"
        )


def _save(
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    metrics: list[dict[str, Any]],
    step: int,
    directory: str,
) -> None:
    content = io.BytesIO()
    state = {"step": step, "metrics": json.dumps(metrics), "extra": trainee.state_dict()}
    state |= {"model": trainee.model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, content)
    publish_bytes(join(directory, METRICS), "".join(json.dumps(line) + "\n" for line in metrics).encode())
    publish_bytes(join(directory, CHECKPOINT), content.getvalue())  # last: what it says is done is on disk


def _resume(trainee: Trainee, optimizer: torch.optim.Optimizer, metrics: list[dict[str, Any]], directory: str) -> int:
    """Load the directory's checkpoint, if any; return the first step to do."""
    path = join(directory, CHECKPOINT)
    if not is_file(path):
        return 0
    try:
        state = torch.load(io.BytesIO(read_bytes(path)), weights_only=True)
        trainee.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        trainee.load_state_dict(state["extra"])
        metrics += json.loads(state["metrics"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{path}: expected this run's checkpoint, found {first_line}; remove it to start anew"
        ) from None
    return state["step"]
