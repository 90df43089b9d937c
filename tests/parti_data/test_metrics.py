import json

import pytest

from parti_data.errors import ShardError
from parti_data.metrics import METRICS, PipelineRun, StageMetrics, peak_memory, read_metrics, write_metrics


def entry(pipeline: str, seconds: float, rows: int, **changes) -> PipelineRun:
    values = {
        "pipeline": pipeline, "ended": "2026-01-02T03:04:05+00:00", "engine": "local", "workers": 2,
        "seconds": seconds, "counts": {"rows": rows, "image_bytes": 1000 * rows}, "steps": {"decode": 3.0, "read": 1.0},
        "peak_memory_bytes": 100, "peak_child_memory_bytes": 7,
    }  # fmt: skip
    return PipelineRun(**values | changes)


def test_rates_and_shares_follow_from_what_was_counted():
    run = entry("measure", 4, 10)
    assert (run.rows_per_s, run.image_bytes_per_s) == (2.5, 2500)
    assert run.step_shares == {"decode": 0.75, "read": 0.25}
    nothing = entry("measure", 0, 0, steps={}, counts={})
    assert (nothing.rows_per_s, nothing.image_bytes_per_s, nothing.step_shares) == (0, 0, {})


@pytest.mark.parametrize("place", ["file", "memory"])
def test_metrics_are_read_as_they_were_written(tmp_path, place):
    directory = str(tmp_path) if place == "file" else f"memory:/{tmp_path}"
    metrics = StageMetrics(runs=[entry("measure", 4, 10), entry("judge", 1, 10, workers=None)])
    assert read_metrics(directory) == StageMetrics()
    write_metrics(directory, metrics)
    assert read_metrics(directory) == metrics


def test_the_file_says_rates_and_shares(tmp_path):
    write_metrics(str(tmp_path), StageMetrics(runs=[entry("measure", 4, 10)]))
    stated = json.loads((tmp_path / METRICS).read_text())["runs"][0]
    assert (stated["rows_per_s"], stated["step_shares"]["decode"], stated["workers"]) == (2.5, 0.75, 2)


def test_runs_of_one_pipeline_are_summed_up():
    runs = [entry("measure", 4, 10), entry("measure", 6, 5, steps={"decode": 1.0}, peak_memory_bytes=300, workers=8)]
    measure, judge = StageMetrics(runs=[*runs, entry("judge", 1, 15)]).pipelines()
    assert (measure.pipeline, judge.pipeline) == ("measure", "judge")
    assert (measure.seconds, measure.rows_per_s, measure.workers) == (10, 1.5, 8)
    assert measure.counts == {"rows": 15, "image_bytes": 15_000}
    assert measure.steps == {"decode": 4.0, "read": 1.0}
    assert (measure.peak_memory_bytes, measure.peak_child_memory_bytes) == (300, 7)


@pytest.mark.parametrize("content", ["", "[]", '{"runs": [{}]}'])
def test_a_broken_file_is_refused(tmp_path, content):
    (tmp_path / METRICS).write_text(content)
    with pytest.raises(
        ShardError, match=r"metrics.json: expected metrics, found .*; remove the file, nothing else needs it"
    ):
        read_metrics(str(tmp_path))


def test_another_version_of_the_file_is_refused(tmp_path):
    write_metrics(str(tmp_path), StageMetrics(format_version=2))
    with pytest.raises(ShardError, match=r"metrics.json: expected format version 1, found 2; remove the file"):
        read_metrics(str(tmp_path))


def test_this_process_has_a_peak_of_memory():
    assert 10 << 20 < peak_memory().own < 1 << 40
