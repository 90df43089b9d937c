"""The page: every finished stage read, then all of it drawn by one template, written as one file."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from model.evaluation.templates import open_templates
from parti_data import charts, figures
from parti_data.errors import PartiError, ShardError
from parti_data.storage import is_file, join, publish_bytes, read_bytes
from pipelines.report.curves import has_curves, read_curves
from pipelines.report.funnel import read_funnel
from pipelines.report.samples import read_samples
from pipelines.report.stages import FinishedStage, FoundStages, directory_name, find_stages
from pipelines.report.times import read_times
from pipelines.report.tokens import read_tokens
from pipelines.report.told import (
    ToldOfEvaluation,
    ToldOfPairs,
    ToldOfPrior,
    ToldOfSamples,
    ToldOfTokenizer,
    read_told,
)
from pipelines.report.training import read_palette, read_prior, read_tokenizer

PAGE = "report.html"
SUMMARY = "summary.json"
_FIGURES = {
    "held_out_nats_a_token": "held-out nats a token", "held_out_bits_an_image": "held-out bits an image", "fid": "FID",
    "inception_score": "Inception score", "clip_score": "CLIP score",
}  # fmt: skip
"""What evaluate measures, as tiles call it."""
_SHARES = {
    "precision": "precision", "recall": "recall", "completed_right": "right completions",
    "probe_prior_accuracy": "linear probe", "probe_random_network_accuracy": "probe of a random network",
    "probe_tokens_accuracy": "probe of mean tokens", "probe_pixels_accuracy": "probe of pixels",
}  # fmt: skip
"""The same, of what are shares of all."""
_IMAGE_TOKENIZERS = ("train_tokenizer", "train_dvae", "train_palette")
"""Stages that tell the same figures of theirs."""


class Summary(BaseModel):
    """What the demo measures of all stages together, and the page shows."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    seconds: float | None = None
    peak_memory_bytes: float | None = None


class Tile(NamedTuple):
    """A key figure; the share, where it is one, is drawn as a bar."""

    label: str
    value: str
    note: str
    share: float | None = None


class Unread(NamedTuple):
    """A stage that cannot be shown, and why."""

    name: str
    problem: str


def write_report(directory: str) -> str:
    """Write the page on all finished stages of a directory and return its path.

    A stage with a broken file is shown with its error in place of its section. Raises ShardError where no stage is
    finished.
    """
    stages = find_stages(directory)
    path = join(directory, PAGE)
    publish_bytes(path, render(directory_name(directory), stages, read_summary(directory)).encode("utf-8", "replace"))
    return path


def read_summary(directory: str) -> Summary:
    """Return the demo's figures, none where there is no summary; raises ShardError for a broken one."""
    path = join(directory, SUMMARY)
    if not is_file(path):
        return Summary()
    try:
        return Summary.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise ShardError(
            f"{path}: expected the demo's figures, found {error.errors()[0]['msg']}; remove it or run the demo again"
        ) from None


def render(title: str, stages: FoundStages, summary: Summary) -> str:
    """Return the page as HTML."""
    environment = open_templates("pipelines.report")
    environment.filters |= {
        "count": figures.say_count,
        "share": figures.say_share,
        "bytes": figures.say_bytes,
        "figure": figures.say_figure,
    }
    evaluations = stages.of("evaluate")
    return environment.get_template("page.html").render(
        title=title,
        stages=stages,
        tiles=make_tiles(stages, summary),
        funnels=_read_each(read_funnel, stages.of("filter")),
        tokenizers=_read_each(read_tokenizer, [*stages.of("train_tokenizer"), *stages.of("train_dvae")])
        + _read_each(read_palette, stages.of("train_palette")),
        token_shards=_read_each(read_tokens, [*stages.of("tokenize"), *stages.of("import_tokens")]),
        priors=_read_each(read_prior, stages.of("train_prior")),
        samples=_read_each(lambda stage: read_samples(stage, evaluations), stages.of("sample")),
        curves=_read_each(read_curves, list(filter(has_curves, evaluations))),
        times=_flatten(_read_each(read_times, stages.finished)),
        chart_area=charts,
    )


def make_tiles(stages: FoundStages, summary: Summary) -> list[Tile]:
    """Return the key figures in the order of the flow, time and memory last."""
    tiles = []
    for stage in stages.finished:
        kind = stage.manifest.stage
        alike = _IMAGE_TOKENIZERS if kind in _IMAGE_TOKENIZERS else (kind,)
        is_alone = sum(len(stages.of(one)) for one in alike) == 1
        tiles += [tile if is_alone else tile._replace(note=f"{tile.note}, {stage.name}") for tile in _try_tiles(stage)]
    if summary.seconds is not None:
        tiles.append(Tile("time", figures.say_seconds(summary.seconds), "all steps together"))
    if summary.peak_memory_bytes is not None:
        tiles.append(Tile("peak memory", figures.say_bytes(summary.peak_memory_bytes), "all processes together"))
    return tiles


def _try_tiles(stage: FinishedStage) -> list[Tile]:
    try:
        return _stage_tiles(stage)
    except ShardError as error:
        return [Tile(stage.name, "–", str(error))]


def _stage_tiles(stage: FinishedStage) -> list[Tile]:
    match stage.manifest.stage:
        case "filter":
            pairs = read_told(stage, ToldOfPairs)
            share = pairs.kept / pairs.read if pairs.read else 0.0
            return [
                Tile("pairs kept", figures.say_count(pairs.kept), f"of {figures.say_count(pairs.read)} read", share)
            ]
        case kind if kind in _IMAGE_TOKENIZERS:
            tokenizer = read_told(stage, ToldOfTokenizer)
            usage = tokenizer.code_usage
            return [
                Tile("PSNR", f"{tokenizer.psnr_db:.1f} dB", "of the reconstructions"),
                Tile("codes in use", figures.say_share(usage), "of the image tokenizer", usage),
            ]
        case "train_prior":
            return [Tile("parameters", figures.say_count(read_told(stage, ToldOfPrior).parameters), "of the prior")]
        case "sample":
            samples = read_told(stage, ToldOfSamples)
            note = f"for {figures.say_count(samples.prompts)} prompts" if samples.prompts else "without prompts"
            return [Tile("images sampled", figures.say_count(samples.images), note)]
        case "evaluate":
            told = read_told(stage, ToldOfEvaluation)
            return [
                *(
                    Tile(f"right: {category}", figures.say_share(share), "by the judge", share)
                    for category, share in told.accuracy.items()
                ),
                *(
                    Tile(_FIGURES[name], figures.say_figure(value), "by the evaluation")
                    for name, value in told.figures.items()
                    if name in _FIGURES
                ),
                *(
                    Tile(_SHARES[name], figures.say_share(value), "by the evaluation", value)
                    for name, value in told.figures.items()
                    if name in _SHARES
                ),
            ]
        case _:
            return []


def _flatten(views: list[Any]) -> list[Any]:
    """Return the items of the lists among the views, and what is no list as it is."""
    return [item for view in views for item in (view if isinstance(view, list) else [view])]


def _read_each(read: Callable[[FinishedStage], Any], stages: list[FinishedStage]) -> list[Any]:
    """Return what each stage shows, in its place an `Unread` where a file of it is gone, broken or out of reach."""
    views = []
    for stage in stages:
        try:
            views.append(read(stage))
        except (PartiError, OSError) as error:
            views.append(Unread(stage.name, str(error)))
    return views
