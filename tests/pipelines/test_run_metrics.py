import apache_beam as beam
import pytest

from parti_data.errors import ShardError
from parti_data.manifest import MANIFEST
from parti_data.metrics import METRICS, read_metrics
from parti_data.step_times import count, timed
from pipelines import run_metrics
from pipelines.run_metrics import reported_steps, run_recorded
from pipelines.runner import make_pipeline

FINISHED = {"filter": "filtered", "shard": "sharded", "tokenize": "tokens"}
STEPS = {
    "filter": {
        "measure": {"caption", "decode", "hash", "read", "write"},
        "judge": {"digest", "pack", "read", "rules", "write"},
    },
    "shard": {"shard": {"digest", "fetch", "ledger", "write"}},
    "tokenize": {"tokenize": {"decode", "encode", "fetch", "gather", "inspect", "ledger", "resize", "text", "write"}},
}
WAYS = {
    "one worker": ["--direct_num_workers=1"],
    "two processes": ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
    "every bundle twice": ["--direct_num_workers=1", "--direct_runner_bundle_repeat=1"],
}


def work(number: int) -> int:
    with reported_steps(), timed("think"):
        count("rows", number)
    return number


def pipeline_of(options, numbers: list[int]) -> beam.Pipeline:
    pipeline = make_pipeline(options)
    _ = pipeline | beam.Create(numbers) | beam.Map(work)
    return pipeline


@pytest.mark.parametrize("stage", FINISHED)
def test_a_stage_tells_the_steps_of_its_pipelines(stage, request, make_config):
    directory = request.getfixturevalue(FINISHED[stage])
    metrics = read_metrics(directory)
    assert {run.pipeline: set(run.steps) for run in metrics.runs} == STEPS[stage]
    rows = {"filter": 96, "shard": 72, "tokenize": 72}[stage]
    for run in metrics.runs:
        assert run.counts["rows"] == rows
        assert (run.engine, run.workers) == ("local", 1)
        assert run.seconds > 0
        assert all(seconds >= 0 for seconds in run.steps.values())


@pytest.mark.parametrize("way", WAYS)
def test_counts_are_those_of_all_workers(way, tmp_path, beam_options):
    run_recorded(pipeline_of(beam_options(*WAYS[way]), [1, 20, 300]), "think", str(tmp_path))
    (run,) = read_metrics(str(tmp_path)).runs
    assert (run.pipeline, run.counts, set(run.steps)) == ("think", {"rows": 321}, {"think"})


def test_each_run_that_ends_adds_an_entry(tmp_path, beam_options):
    for numbers in ([1, 2], [4]):
        run_recorded(pipeline_of(beam_options(), numbers), "think", str(tmp_path))
    assert [run.counts["rows"] for run in read_metrics(str(tmp_path)).runs] == [3, 4]


def test_a_run_that_fails_adds_none(tmp_path, beam_options):
    pipeline = make_pipeline(beam_options())
    _ = pipeline | beam.Create([0]) | beam.Map(lambda number: 1 / number)
    with pytest.raises(Exception, match="division by zero"):
        run_recorded(pipeline, "think", str(tmp_path))
    assert not (tmp_path / METRICS).exists()


def test_an_engine_without_counters_tells_the_time_alone(tmp_path, beam_options, monkeypatch):
    class Result:
        def metrics(self):
            raise NotImplementedError

    monkeypatch.setattr(run_metrics, "run", lambda _: Result())
    run_recorded(make_pipeline(beam_options("--runner=BundleBasedDirectRunner")), "think", str(tmp_path))
    (run,) = read_metrics(str(tmp_path)).runs
    assert (run.counts, run.steps, run.engine, run.workers) == ({}, {}, "BundleBasedDirectRunner", None)


@pytest.mark.parametrize("is_remote", [True, False])
def test_an_engine_that_loses_its_counters_costs_no_finished_stage(tmp_path, beam_options, monkeypatch, is_remote):
    class Result:
        def metrics(self):
            raise OSError("connection lost")

    monkeypatch.setattr(run_metrics, "run", lambda _: Result())
    monkeypatch.setattr(run_metrics, "is_remote", lambda _: is_remote)
    pipeline = make_pipeline(beam_options())
    if is_remote:
        run_recorded(pipeline, "think", str(tmp_path))
        assert [run.steps for run in read_metrics(str(tmp_path)).runs] == [{}]
    else:
        with pytest.raises(OSError, match="connection lost"):
            run_recorded(pipeline, "think", str(tmp_path))


def test_a_run_that_found_its_work_done_adds_none(tmp_path, beam_options):
    pipeline = make_pipeline(beam_options())
    _ = pipeline | beam.Create([1]) | beam.Map(lambda number: number)
    run_recorded(pipeline, "think", str(tmp_path))
    assert not (tmp_path / METRICS).exists()


def test_a_stage_that_goes_on_tells_what_it_did_itself(tmp_path, make_config, run_stage, monkeypatch):
    from pipelines import filter as filter_stage

    config = make_config("filter", tmp_path / "out")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(filter_stage, "judge", stop)
        with pytest.raises(KeyboardInterrupt):
            run_stage(config)
    assert not (tmp_path / "out" / MANIFEST).exists()
    (tmp_path / "out/measured/split-00001.parquet").unlink()
    run_stage(config)
    told = [(run.pipeline, run.counts.get("rows", 0)) for run in read_metrics(config.output).runs]
    assert told == [("measure", 96), ("measure", 32), ("judge", 96)]
    (tmp_path / "out" / MANIFEST).unlink()
    (tmp_path / "out/ledger-00001-of-00003.parquet").unlink()
    run_stage(config)
    last = read_metrics(config.output).runs[-1]
    assert (last.pipeline, last.counts["rows"]) == ("judge", 32)


def test_broken_metrics_stop_a_stage_before_it_works(tmp_path, make_config, run_stage):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / METRICS).write_text("{}}")
    with pytest.raises(ShardError, match=r"metrics.json: expected metrics, found"):
        run_stage(make_config("filter", tmp_path / "out"))
    assert list((tmp_path / "out/measured").glob("split-*.parquet")) == []
