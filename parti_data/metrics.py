"""`metrics.json` of a stage's directory: how long its pipelines took, and where the time went.

The one file there that differs from run to run, so no manifest lists it, and nothing that is made depends on it. It has
an entry for each pipeline that ran to its end, in order; a run that was killed leaves those that it had finished.
"""

import json
import resource
import sys
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError, computed_field

from parti_data.errors import ShardError
from parti_data.storage import is_file, join, publish_bytes, read_bytes

METRICS = "metrics.json"
FORMAT_VERSION = 1
ROWS, IMAGE_BYTES, WRITTEN_BYTES = "rows", "image_bytes", "written_bytes"
"""What every stage counts, beside what is its own."""


class PipelineRun(BaseModel):
    """One pipeline, run once. What an earlier run had finished is not counted again."""

    pipeline: str
    ended: str
    """In UTC, as ISO 8601 has it."""
    engine: str
    """`local`, or what --runner named."""
    workers: int | None
    """None where the engine decides."""
    seconds: float
    """From beginning to end, on the driver's clock."""
    counts: dict[str, int] = Field(default_factory=dict)
    steps: dict[str, float] = Field(default_factory=dict)
    """Busy seconds, those of all workers together; empty where the engine tells nothing."""
    peak_memory_bytes: int
    """Of the driver's process up to then."""
    peak_child_memory_bytes: int
    """Of the largest process that it had started and that has ended."""

    @computed_field
    @property
    def rows_per_s(self) -> float:
        """Rows a second."""
        return round(self.counts.get(ROWS, 0) / self.seconds, 2) if self.seconds else 0.0

    @computed_field
    @property
    def image_bytes_per_s(self) -> float:
        """Bytes of images a second, as the source has them."""
        return round(self.counts.get(IMAGE_BYTES, 0) / self.seconds) if self.seconds else 0.0

    @computed_field
    @property
    def step_shares(self) -> dict[str, float]:
        """Each step's share of the busy time."""
        busy = sum(self.steps.values())
        return {step: round(seconds / busy, 4) for step, seconds in self.steps.items()} if busy else {}


class StageMetrics(BaseModel):
    """What the file holds."""

    format_version: int = FORMAT_VERSION
    runs: list[PipelineRun] = Field(default_factory=list)

    def pipelines(self) -> list[PipelineRun]:
        """Return an entry for each pipeline, in order, that sums up its runs; engine and workers are the last ones'."""
        summed: dict[str, PipelineRun] = {}
        for run in self.runs:
            summed[run.pipeline] = _add(summed[run.pipeline], run) if run.pipeline in summed else run
        return list(summed.values())


class PeakMemory(NamedTuple):
    """In bytes: of this process, and of the largest of its children that have ended."""

    own: int
    child: int


def read_metrics(directory: str) -> StageMetrics:
    """Return the metrics of a directory, empty where it has none; raises ShardError where the file is no such thing."""
    path = join(directory, METRICS)
    if not is_file(path):
        return StageMetrics()
    try:
        metrics = StageMetrics.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise ShardError(
            f"{path}: expected metrics, found {error.errors()[0]['msg']}; remove the file, nothing else needs it"
        ) from None
    if metrics.format_version != FORMAT_VERSION:
        raise ShardError(
            f"{path}: expected format version {FORMAT_VERSION}, found {metrics.format_version}; remove the "
            "file, nothing else needs it"
        )
    return metrics


def write_metrics(directory: str, metrics: StageMetrics) -> None:
    """Write the metrics of a directory."""
    content = json.dumps(metrics.model_dump(mode="json"), indent=1)
    publish_bytes(join(directory, METRICS), f"{content}\n".encode())


def peak_memory() -> PeakMemory:
    """Return the largest resident memory so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return PeakMemory(*(unit * resource.getrusage(who).ru_maxrss for who in _WHO))


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _add(before: PipelineRun, run: PipelineRun) -> PipelineRun:
    changes: dict[str, Any] = {
        "seconds": before.seconds + run.seconds,
        "counts": _sum(before.counts, run.counts),
        "steps": _sum(before.steps, run.steps),
        "peak_memory_bytes": max(before.peak_memory_bytes, run.peak_memory_bytes),
        "peak_child_memory_bytes": max(before.peak_child_memory_bytes, run.peak_child_memory_bytes),
    }
    return run.model_copy(update=changes)


def _sum(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    return {name: before.get(name, 0) + now.get(name, 0) for name in before | now}
