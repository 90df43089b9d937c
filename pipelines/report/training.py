"""What a training job left: its curves, its figures, and for an image tokenizer its reconstructions."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from parti_data.charts import Axes, Chart, Scale, Series, draw_curves
from parti_data.errors import ShardError
from parti_data.figures import say_count, say_figure, say_share
from parti_data.storage import join
from pipelines.report.pictures import Picture, embed, read_picture
from pipelines.report.stages import FinishedStage, read_stage_file
from pipelines.report.told import TokenizerShape, ToldOfPrior, ToldOfTokenizer, read_told

STEPS = "metrics.jsonl"
"""As the training loop calls it, whose module would import torch."""
RECONSTRUCTIONS, PALETTE = "reconstructions.png", "palette.png"
_DRAWN = re.compile(r"reconstructions-(\d{8})\.png")
"""Those at a step."""
_MAX_DRAWN = 3
_RECONSTRUCTION_PX = 1024
_PROGRESS = (
    "lr", "gradient_norm", "discriminator_gradient_norm", "steps_per_s", "rows_per_s", "tokens_per_s", "mfu",
    "memory_bytes",
)  # fmt: skip
"""Figures of a logged step that are not losses."""
_NOT_DRAWN = ("step", "matmul_peak_tflops", "eta_s")
_LINEAR = ("adversarial", "discriminator_total", "discriminator_real_score", "discriminator_fake_score")
"""Losses of which neither side is to win: a small one is no better."""
_MEASURED_ON = {"held_out": "held-out pictures", "training": "training pictures"}
_TITLES = {
    "total": "loss", "l2": "squared error", "logit_laplace": "logit-Laplace", "vq": "codebook loss",
    "kl": "KL divergence, nats a token", "tau": "temperature", "beta": "KL weight",
    "perceptual": "perceptual distance", "adversarial": "adversarial loss", "psnr_db": "PSNR, dB",
    "code_usage": "share of codes in use", "perplexity": "perplexity of the codes",
    "mean_squared_distance": "squared distance of a pixel from its colour",
    "train_code_usage": "share of codes in use, a training epoch",
    "train_perplexity": "perplexity of the codes, a training epoch",
    "discriminator_total": "discriminator's loss", "discriminator_real_score": "discriminator's score of originals",
    "discriminator_fake_score": "discriminator's score of reconstructions",
    "discriminator_r1": "discriminator's R1 penalty",
    "gradient_norm": "gradient norm", "discriminator_gradient_norm": "discriminator's gradient norm",
    "lr": "learning rate", "steps_per_s": "steps a second", "rows_per_s": "rows a second",
    "tokens_per_s": "tokens a second", "mfu": "MFU, a share of a large matmul's speed",
    "memory_bytes": "peak memory, GB",
}  # fmt: skip
_UNITS = {"memory_bytes": 1e9}
"""What figures are drawn in that are too large to be read as they are."""


class TrainedTokenizer(NamedTuple):
    """An image tokenizer's section; each reconstruction is a picture with the original above.

    Where pictures were drawn at some steps, those lie between the original and the last reconstruction.
    """

    name: str
    psnr_db: float
    code_usage: float
    measured_on: str
    """What both were measured on; empty in manifests that do not say."""
    shape: TokenizerShape
    reconstructions: list[Picture]
    drawn_steps: list[int]
    curves: list[Chart]
    progress: list[Chart]
    palette: Picture | None = None
    """The colours of one whose tokens are pixels."""


class TrainedPrior(NamedTuple):
    """A prior's section."""

    name: str
    figures: list[tuple[str, str]]
    note: str
    """What both losses are of; empty where none was held out."""
    curves: list[Chart]
    progress: list[Chart]


def read_tokenizer(stage: FinishedStage) -> TrainedTokenizer:
    """Return a finished train_tokenizer or train_dvae stage; raises ShardError where a file of it is gone or broken."""
    metrics = read_steps(stage)
    told = read_told(stage, ToldOfTokenizer)
    losses, measured = _names(metrics)
    return TrainedTokenizer(
        stage.name,
        told.psnr_db,
        told.code_usage,
        _MEASURED_ON.get(told.measured_on, ""),
        told.shape,
        split_reconstructions(stage),
        drawn_steps(stage),
        _draw_each(metrics, [name for name in losses if name not in _LINEAR], "log")
        + _draw_each(metrics, [name for name in losses if name in _LINEAR], "linear")
        + _draw_each(metrics, measured, "linear"),
        _draw_each(metrics, _PROGRESS, "linear"),
    )


def read_palette(stage: FinishedStage) -> TrainedTokenizer:
    """Return a finished train_palette stage; raises ShardError where a file of it is gone or broken."""
    return read_tokenizer(stage)._replace(palette=embed(read_picture(stage, PALETTE), _RECONSTRUCTION_PX))


def read_prior(stage: FinishedStage) -> TrainedPrior:
    """Return a finished train_prior stage; raises ShardError where its metrics are gone or broken."""
    metrics = read_steps(stage)
    told = read_told(stage, ToldOfPrior)
    loss, held_out = find_series(metrics, "total"), find_series(metrics, "held_out_loss")
    guess, rows = math.log(told.shape.codebook_size), told.rows
    chart = draw_curves(
        "loss, nats a token", [Series("training", loss), Series("held out", held_out)], reference=("even guess", guess)
    )
    figures = [("parameters", say_count(told.parameters)), ("training rows", say_count(rows))]
    if loss and rows:
        epochs = loss[-1][0] * told.batch_size / rows
        figures += [("epochs", say_figure(epochs)), ("loss, nats a token", say_figure(loss[-1][1]))]
    if held_out:
        step, lowest = min(held_out, key=lambda point: point[1])
        figures.append(("held-out loss", say_figure(held_out[-1][1])))
        figures.append(("its lowest", f"{say_figure(lowest)} at step {say_count(int(step))}"))
    return TrainedPrior(
        stage.name,
        figures,
        _say_losses(told) if held_out else "",
        [chart] if chart else [],
        _draw_each(metrics, _PROGRESS, "linear"),
    )


def _say_losses(told: ToldOfPrior) -> str:
    """Return what the training loss and the held-out loss of a prior are of: not of the same network."""
    dropout = ", with dropout" if told.shape.dropout else ""
    texts = f", {say_share(1 - told.text_drop)} of them with their text" if told.text_drop else ""
    weights = "the average of the weights" if told.weights == "average" else "the weights"
    return (
        f"The training loss is that of the {say_count(told.batch_size)} rows of a step{dropout}{texts}; the "
        f"held-out loss that of all held-out rows, with their text and without dropout, by {weights}."
    )


def read_steps(stage: FinishedStage) -> list[dict[str, Any]]:
    """Return the lines of a job's metrics; raises ShardError for a line that is none."""
    lines = []
    for number, text in enumerate(read_stage_file(stage, STEPS).splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise ShardError(
                f"{join(stage.path, STEPS)}: expected JSON with a step in each line, found something else in line "
                f"{number}; run {stage.manifest.stage} into a new directory"
            )
        lines.append(line)
    return lines


def find_series(metrics: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """Return the finite values of a figure as (step, value), in order, in the unit of its chart."""
    unit = _UNITS.get(name, 1)
    found = [(line["step"], line[name] / unit) for line in metrics if isinstance(line.get(name), int | float)]
    return [(step, value) for step, value in found if math.isfinite(value)]


def split_reconstructions(stage: FinishedStage) -> list[Picture]:
    """Return each original with its reconstructions below: of a few steps, and the last."""
    ended = read_picture(stage, RECONSTRUCTIONS)
    side = max(ended.shape[0] // 2, 1)
    drawn = [read_picture(stage, f"reconstructions-{step:08d}.png") for step in drawn_steps(stage)[:-1]]
    rows = [ended[:side], *(row for row in drawn if row.shape == ended[:side].shape), ended[side:]]
    pixels = np.concatenate(rows)
    count = max(pixels.shape[1] // side, 1)
    return [embed(np.ascontiguousarray(part), _RECONSTRUCTION_PX) for part in np.array_split(pixels, count, axis=1)]


def drawn_steps(stage: FinishedStage) -> list[int]:
    """Return a few of the steps at which reconstructions were drawn: the first, the last, and some between them."""
    matches = (_DRAWN.fullmatch(shard.name) for shard in stage.manifest.shards)
    steps = sorted(int(match[1]) for match in matches if match)
    places = np.linspace(0, len(steps) - 1, min(len(steps), _MAX_DRAWN)).round()
    return [steps[int(place)] for place in places]


def _names(metrics: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the names of the losses, which stand in lines with a `total`, and of the figures in the other lines."""
    losses: dict[str, None] = {}
    measured: dict[str, None] = {}
    for line in metrics:
        (losses if "total" in line else measured).update(dict.fromkeys(line))
    others = (*_NOT_DRAWN, *_PROGRESS)
    return [name for name in losses if name not in others], [name for name in measured if name not in others]


def _draw_each(metrics: list[dict[str, Any]], names: Iterable[str], scale: Scale) -> list[Chart]:
    axes = Axes(scale=scale)
    charts = (draw_curves(_title(name), [Series(_title(name), find_series(metrics, name))], axes) for name in names)
    return [chart for chart in charts if chart]


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))
