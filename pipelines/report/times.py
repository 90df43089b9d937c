"""How long a stage took and where the time went, from its metrics."""

from typing import NamedTuple

from parti_data.figures import say_bytes, say_count, say_figure, say_seconds
from parti_data.metrics import IMAGE_BYTES, ROWS, WRITTEN_BYTES, PipelineRun, read_metrics
from pipelines.report.stages import FinishedStage


class StepShare(NamedTuple):
    """A step, and its share of the time in which workers were busy."""

    name: str
    time: str
    share: float


class PipelineTime(NamedTuple):
    """What one pipeline of a stage took, as (label, value), and its steps, the longest first."""

    stage: str
    name: str
    figures: list[tuple[str, str]]
    steps: list[StepShare]
    note: str


def read_times(stage: FinishedStage) -> list[PipelineTime]:
    """Return the times of a stage's pipelines, none where it has no metrics; raises ShardError for broken ones."""
    metrics = read_metrics(stage.path)
    runs = [run.pipeline for run in metrics.runs]
    return [_describe(stage.name, run, runs.count(run.pipeline)) for run in metrics.pipelines()]


def _describe(stage: str, run: PipelineRun, num_runs: int) -> PipelineTime:
    figures = [("time", say_seconds(run.seconds) if run.seconds >= 1 else f"{say_figure(run.seconds)} s")]
    if run.counts.get(ROWS):
        figures += [("rows", say_count(run.counts[ROWS])), ("rows a second", say_figure(run.rows_per_s))]
    if run.counts.get(IMAGE_BYTES):
        figures.append(("images", f"{say_bytes(run.image_bytes_per_s)}/s"))
    if run.counts.get(WRITTEN_BYTES):
        figures.append(("written", say_bytes(run.counts[WRITTEN_BYTES])))
    memory = max(run.peak_memory_bytes, run.peak_child_memory_bytes)
    figures.append(("peak memory", say_bytes(memory)))
    steps = sorted(run.steps.items(), key=lambda step: (-step[1], step[0]))
    busy = sum(run.steps.values())
    shares = [StepShare(name, f"{say_figure(seconds)} s", seconds / busy) for name, seconds in steps if busy]
    return PipelineTime(stage, run.pipeline, figures, shares, _note(run, num_runs))


def _note(run: PipelineRun, num_runs: int) -> str:
    workers = "workers as the engine decided" if run.workers is None else f"{run.workers} workers"
    engine = "on this machine" if run.engine == "local" else f"on {run.engine}"
    several = f", in {num_runs} runs" if num_runs > 1 else ""
    return f"{workers if run.workers != 1 else '1 worker'} {engine}{several}"
