"""Runs a pipeline and writes down what it took: workers report their steps through Beam's own counters."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions
from apache_beam.runners.runner import PipelineRunner

from parti_data.metrics import PipelineRun, StageMetrics, peak_memory, read_metrics, write_metrics
from parti_data.step_times import StepTimes, take_steps
from pipelines.engines import is_remote, remote_errors
from pipelines.first_error import ends_others
from pipelines.runner import run

_NAMESPACE = "parti"
_BUSY, _COUNT = "busy_us.", "count."


@contextmanager
def reported_steps() -> Iterator[None]:
    """Report to Beam, at the end of the block, what this thread's steps took and counted in it.

    On this machine an error in the block ends those of all workers at their next step.
    """
    take_steps()  # of one that failed, or that nobody asked for
    with ends_others():
        yield
    report_steps()


def report_steps() -> None:
    """Report to Beam what this thread gathered; outside of a pipeline it goes nowhere."""
    taken = take_steps()
    for step, seconds in taken.seconds.items():
        Metrics.counter(_NAMESPACE, f"{_BUSY}{step}").inc(round(1e6 * seconds))
    for name, number in taken.counts.items():
        Metrics.counter(_NAMESPACE, f"{_COUNT}{name}").inc(number)


def run_recorded(pipeline: beam.Pipeline, name: str, directory: str) -> None:
    """Run a pipeline to its end and add what it took to the metrics of the directory that it fills.

    Where its workers found all of their work done, there is nothing to add.
    """
    before = read_metrics(directory)
    engine, workers = _engine(pipeline)  # Beam takes the runner out of the options of a job that it submits
    started = time.monotonic()
    result = run(pipeline)
    seconds = time.monotonic() - started
    steps, memory = _query(result, pipeline.runner), peak_memory()
    if steps is not None and not steps.counts:
        return
    counts, busy = (steps.counts, steps.seconds) if steps else ({}, {})
    entry = PipelineRun(
        pipeline=name, ended=datetime.now(UTC).isoformat(timespec="seconds"), engine=engine, workers=workers,
        seconds=round(seconds, 3), counts=counts, steps=busy, peak_memory_bytes=memory.own,
        peak_child_memory_bytes=memory.child,
    )  # fmt: skip
    write_metrics(directory, StageMetrics(runs=[*before.runs, entry]))


def _query(result: Any, runner: PipelineRunner | None) -> StepTimes | None:
    """Return what all workers reported, None from an engine that keeps no counters or does not tell them now."""
    untold = remote_errors(runner) if runner and is_remote(runner) else ()
    try:
        counters = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))["counters"]
    except (NotImplementedError, *untold):
        return None
    seconds: dict[str, float] = {}
    counts: dict[str, int] = {}
    for counter in counters:  # one for each transform that raised it
        name = counter.key.metric.name
        if name.startswith(_BUSY):
            step = name.removeprefix(_BUSY)
            seconds[step] = round(seconds.get(step, 0) + counter.result / 1e6, 6)
        else:
            number = name.removeprefix(_COUNT)
            counts[number] = counts.get(number, 0) + counter.result
    return StepTimes(dict(sorted(seconds.items())), dict(sorted(counts.items())))


def _engine(pipeline: beam.Pipeline) -> tuple[str, int | None]:
    runner = pipeline.options.view_as(StandardOptions).runner
    workers = pipeline.options.view_as(DirectOptions).direct_num_workers
    return runner or "local", (workers or os.cpu_count() or 1) if not runner or runner == "FnApiRunner" else None
