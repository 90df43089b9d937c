"""The loop that every training job shares: networks in turn, accumulation, checkpoints, metrics, exact resume.

A job says what the losses of a step are; they must be a function of the networks and the step alone. A run that is
killed and started again ends with the same weights, bit for bit, on a CPU with the same number of threads.
"""

import ctypes
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model.training.adafactor import Adafactor
from model.training.checkpoint import Checkpoints, Progress
from model.training.event_files import EventFiles
from model.training.parameter_groups import parameter_groups
from model.training.ranks import Ranks, whole
from model.training.schedule import Running, Schedule
from model.training.throughput import Throughput, Work, throughput_line
from parti_data.errors import CheckpointError
from parti_data.images import to_png
from parti_data.progress import ProgressBar, print_line, show_progress
from parti_data.storage import join, publish_bytes

_SHOWN_KEYS = 4
_MALLOPT_TRIM_THRESHOLD, _MALLOPT_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
"""What glibc allows on 64 bits; larger blocks always come from the kernel."""
_TRIM_THRESHOLD = 1 << 30
_WARMUP = (
    "{title}: schedule.warmup_steps={warmup} are more than the {steps} steps of the run, whose rate reaches "
    "{steps}/{warmup} of schedule.lr"
)


class Evaluation(NamedTuple):
    """What is measured and drawn at a checkpoint."""

    figures: dict[str, float]
    pictures: dict[str, np.ndarray]
    """By name, uint8 (height, width, 3)."""


class Trainee(Protocol):
    """What the loop trains."""

    num_parts: int
    """Equal parts that a rank's slice of a batch is taken in; their gradients add up to those of the whole."""
    batch_size: int
    """Rows a step, of all ranks together."""
    work: Work | None
    """What a row asks for, where it is known: then the run tells its tokens a second and its MFU."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks in the order of their turns, each with an optimizer of its own; the first is the model."""
        ...

    def losses(self, network: str, step: int, part: int) -> dict[str, Tensor]:
        """Return the loss terms of a network's turn, `total` among them; scalars; none where it has no turn."""
        ...

    def after_step(self, step: int) -> None:
        """Do what follows an update."""
        ...

    def evaluate(self, step: int) -> Evaluation:
        """Return what is worth a line in the metrics; every rank is asked, the first one's answer counts."""
        ...

    def keys(self, step: int) -> list[str]:
        """Return the keys of this rank's rows of a step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and numbers that a resumed run needs beside networks and optimizers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take such a state."""
        ...


@dataclass
class _Player:
    """A network, what of it is trained, and its optimizer."""

    name: str
    prefix: str
    """Of its figures; the model's have none."""
    network: nn.Module
    optimizer: torch.optim.Optimizer
    parameters: list[nn.Parameter]


class _Watchers(NamedTuple):
    """Where a run tells how it goes."""

    bar: ProgressBar
    events: EventFiles


@dataclass
class _Run:
    """A run of the loop: what it trains, by which schedule, where."""

    trainee: Trainee
    schedule: Schedule
    ranks: Ranks
    directory: str
    players: list[_Player]
    unseen: list[tuple[int, str, Tensor]] = field(default_factory=list)
    """Losses and norms of gradients that have not been looked at, with their steps."""


def train(
    trainee: Trainee,
    schedule: Schedule,
    directory: str,
    title: str,
    running: Running | None = None,
    ranks: Ranks | None = None,
) -> None:
    """Train to the last step, going on from the directory's checkpoint where there is one.

    Meanwhile a GPU's convolutions in float32 are float32, as its other products are, and not TF32.
    """
    keep_freed_memory()
    ranks, running = ranks or Ranks(), running or Running()
    if ranks.is_first and schedule.warmup_steps > schedule.num_steps:
        print_line(_WARMUP.format(title=title, warmup=schedule.warmup_steps, steps=schedule.num_steps))
    networks = trainee.networks.items()
    players = [_player(name, network, schedule, not number) for number, (name, network) in enumerate(networks)]
    run = _Run(trainee, schedule, ranks, directory, players)
    with (
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        Checkpoints(directory, ranks, running.keep_checkpoints) as checkpoints,
    ):
        progress = checkpoints.resume(_stateful(run))
        with show_progress(title, schedule.num_steps, ranks.is_first) as bar, _events(run, running, progress) as events:
            _steps(run, running, checkpoints, progress, _Watchers(bar, events))


def _steps(run: _Run, running: Running, checkpoints: Checkpoints, progress: Progress, watchers: _Watchers) -> None:
    schedule, saved = run.schedule, time.monotonic()
    figures = {name: torch.tensor(value, device=run.ranks.device) for name, value in progress.figures.items()}
    throughput = Throughput(
        run.trainee.work, run.trainee.batch_size, run.ranks, schedule.product_dtype(run.ranks.device)
    )
    for step in range(progress.step, schedule.num_steps):
        figures |= _update(run, step)
        done = progress.step = step + 1
        throughput.count()
        is_last = done == schedule.num_steps
        is_late = False
        if done % schedule.log_every == 0 or is_last:
            _log(run, progress, figures, throughput, watchers)
            figures.clear()
            minutes = running.checkpoint_minutes
            is_late = bool(minutes) and run.ranks.from_first(time.monotonic() - saved >= 60 * minutes)
        is_due = done % schedule.checkpoint_every == 0 or is_last
        if is_due or is_late:
            with throughput.paused():
                _refuse_nonfinite(run)
                if is_due:
                    _evaluate(run, progress, watchers.events)
                progress.figures = _mean_over_ranks(run, figures)
                checkpoints.save(_stateful(run), progress)
            saved = time.monotonic()


def _log(
    run: _Run, progress: Progress, figures: dict[str, Tensor], throughput: Throughput, watchers: _Watchers
) -> None:
    """Add a line to the metrics: the means over ranks of the newest figures, and how fast it goes."""
    step, schedule = progress.step, run.schedule
    values = _mean_over_ranks(run, figures)
    _refuse_nonfinite(run)
    speed = throughput.tell(schedule.num_steps - step)
    progress.metrics.append({"step": step, "lr": schedule.lr_at(step - 1), **values, **speed})
    watchers.events.add_figures(step, progress.metrics[-1])
    learned = f"loss {values['total']:.4f}  gradient {values['gradient_norm']:.3g}  lr {schedule.lr_at(step - 1):.2e}"
    watchers.bar.update(step, f"{learned}  {throughput_line(speed, run.trainee.batch_size)}")


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step instead of asking the kernel for it anew, page by page.

    A step of a small prior faulted in 9,000 pages on a CPU, and takes a tenth to a fifth less time without. Does
    nothing where the C library is another. Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_MALLOPT_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_MALLOPT_TRIM_THRESHOLD, _TRIM_THRESHOLD)


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Return the schedule's optimizer, whose groups tell what the schedule's rate is multiplied by for each."""
    groups = parameter_groups(model, schedule.lr, schedule.weight_decay)
    betas = schedule.beta1, schedule.beta2
    if schedule.optimizer == "adafactor":
        moments = torch.bfloat16 if schedule.first_moments == "bfloat16" else torch.float32
        return Adafactor(groups, schedule.lr, betas, first_moments=moments)
    return torch.optim.AdamW(groups, lr=schedule.lr, betas=betas, fused=True)


def _player(name: str, network: nn.Module, schedule: Schedule, is_model: bool) -> _Player:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return _Player(name, "" if is_model else f"{name}_", network, make_optimizer(network, schedule), parameters)


def _stateful(run: _Run) -> dict[str, Any]:
    """Return what a checkpoint holds, by its name there."""
    networks = {player.name: player.network for player in run.players}
    optimizers = {f"{player.name}_optimizer": player.optimizer for player in run.players}
    return {**networks, **optimizers, "extra": run.trainee}


def _update(run: _Run, step: int) -> dict[str, Tensor]:
    """Do one update of each network; return the losses and each gradient's norm before clipping."""
    torch.manual_seed(step + run.ranks.rank * run.schedule.num_steps)  # dropout is a function of the step
    figures: dict[str, Tensor] = {}
    for player in run.players:
        with _alone(player, run.players):
            terms = _accumulate(run, player, step)
        if terms:
            figures |= {player.prefix + name: value for name, value in terms.items()}
            norm = _apply(run, player, step)
            run.unseen += [(step, "loss", terms["total"]), (step, "gradient", norm)]
            figures[f"{player.prefix}gradient_norm"] = norm
    run.trainee.after_step(step)
    return figures


@contextmanager
def _alone(player: _Player, players: list[_Player]) -> Iterator[None]:
    """Keep gradients from the other networks while one has its turn."""
    others = [parameter for other in players if other is not player for parameter in other.parameters]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _accumulate(run: _Run, player: _Player, step: int) -> dict[str, Tensor]:
    """Add up the gradients of all parts of a step; return the means of the loss terms."""
    player.network.train()
    parts, device = run.trainee.num_parts, run.ranks.device
    dtype = run.schedule.product_dtype(device)
    terms: dict[str, Tensor] = {}
    for part in range(parts):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = run.trainee.losses(player.name, step, part)
        if losses:
            (losses["total"] / parts).backward()
        for name, value in losses.items():
            share = value.detach() / parts
            terms[name] = terms[name] + share if name in terms else share
    return terms


def _apply(run: _Run, player: _Player, step: int) -> Tensor:
    """Move a network along its gradient; return the gradient's norm before clipping."""
    run.ranks.average_gradients(player.parameters)
    norm = whole(nn.utils.clip_grad_norm_(player.parameters, run.schedule.clip_norm or math.inf))
    for group in player.optimizer.param_groups:
        group["lr"] = run.schedule.lr_at(step) * group["lr_multiplier"]
    player.optimizer.step()
    player.optimizer.zero_grad()
    return norm


def _mean_over_ranks(run: _Run, figures: dict[str, Tensor]) -> dict[str, float]:
    if not figures:
        return {}
    values = run.ranks.mean(torch.stack([value.float() for value in figures.values()]))
    return dict(zip(figures, values.tolist(), strict=True))


def _refuse_nonfinite(run: _Run) -> None:
    """Raise CheckpointError, on every rank, for the first loss or gradient since the last call that is not finite."""
    if not run.unseen:
        return
    values = run.ranks.each(torch.stack([value.float() for _, _, value in run.unseen])).cpu()
    places = [(step, name) for step, name, _ in run.unseen]
    run.unseen.clear()
    for (step, name), column in zip(places, values.T, strict=True):
        bad = ~column.isfinite()
        if bad.any():
            of_ranks = run.ranks.gather(run.trainee.keys(step))
            keys = [key for keys, is_bad in zip(of_ranks, bad.tolist(), strict=True) if is_bad for key in keys]
            shown = ", ".join(keys[:_SHOWN_KEYS]) + (f" and {len(keys) - _SHOWN_KEYS} more" * (len(keys) > _SHOWN_KEYS))
            raise CheckpointError(
                f"{run.directory}: expected a finite {name}, found {column[bad][0].item()} at step {step}, a batch of "
                f"{shown}; lower schedule.lr, in a new output"
            )


def _evaluate(run: _Run, progress: Progress, events: EventFiles) -> None:
    """Measure and draw; what is drawn is on disk before a checkpoint says so.

    The newest picture has always the same name; some stay under the name of their step.
    """
    step = progress.step
    found = run.trainee.evaluate(step)
    if not run.ranks.is_first:
        return
    progress.metrics.append({"step": step, **found.figures})
    events.add_figures(step, found.figures)
    for name, pixels in found.pictures.items():
        events.add_picture(step, name, pixels)
        if step in run.schedule.drawn_steps():
            publish_bytes(join(run.directory, drawn_name(name, step)), to_png(pixels))
        publish_bytes(join(run.directory, f"{name}.png"), to_png(pixels))


def drawn_name(name: str, step: int) -> str:
    """Return the name of the file of a picture that was drawn at a step."""
    return f"{name}-{step:08d}.png"


@contextmanager
def _events(run: _Run, running: Running, progress: Progress) -> Iterator[EventFiles]:
    with EventFiles(run.directory if running.tensorboard and run.ranks.is_first else None, progress.step) as events:
        yield events
