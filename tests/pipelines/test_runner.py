import os

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

from parti_data import errors
from parti_data.errors import ConfigError, PartiError
from pipelines.runner import make_pipeline, parse_options, run


def test_without_a_runner_the_workers_are_threads_one_for_each_core():
    options = parse_options([])
    assert options.view_as(DirectOptions).direct_running_mode == "in_memory"
    assert options.view_as(DirectOptions).direct_num_workers == os.cpu_count()
    assert options.view_as(StandardOptions).runner is None
    assert type(make_pipeline(options).runner).__name__ == "FnApiRunner"


def test_options_that_are_given_beat_the_defaults():
    options = parse_options(["--direct_num_workers=3", "--direct_running_mode=multi_threading"])
    assert options.view_as(DirectOptions).direct_running_mode == "multi_threading"
    assert options.view_as(DirectOptions).direct_num_workers == 3
    spaced = parse_options(["--direct_num_workers", "2"])
    assert spaced.view_as(DirectOptions).direct_num_workers == 2


def test_a_named_runner_gets_no_local_defaults():
    options = parse_options(["--runner=FnApiRunner"])
    assert options.view_as(StandardOptions).runner == "FnApiRunner"
    assert "direct_num_workers" not in options.get_all_options(drop_default=True)
    assert type(make_pipeline(options).runner).__name__ == "FnApiRunner"


def test_every_engine_option_of_beam_is_known():
    for argument in ("--job_name=x", "--project=p", "--flink_master=local", "--no_use_public_ips", "--job-name=x"):
        parse_options([argument])


@pytest.mark.parametrize("argument", ["--direct_num_worker=2", "--max_dropped_fraction=1", "--x"])
def test_an_option_that_beam_does_not_have_is_refused(argument):
    with pytest.raises(
        ConfigError, match=f"^{argument}: expected an option of Beam's after --, found none of that name"
    ):
        parse_options([argument])


def fail(kind: str) -> None:
    raise getattr(errors, kind)(f"place of {kind}: expected a, found [b] (c); mend it")


def break_down(_: object) -> None:
    raise RuntimeError("a fault of ours")


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
@pytest.mark.parametrize("kind", ["SourceError", "ShardError", "TokenizerError"])
def test_an_error_of_ours_comes_out_as_it_was_raised(kind, mode):
    pipeline = make_pipeline(parse_options(["--direct_num_workers=1", f"--direct_running_mode={mode}"]))
    _ = pipeline | beam.Create([kind]) | "Fails" >> beam.Map(fail)
    with pytest.raises(PartiError) as error:
        run(pipeline)
    assert type(error.value) is getattr(errors, kind)
    assert str(error.value) == f"place of {kind}: expected a, found [b] (c); mend it"


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_a_fault_of_ours_is_not_dressed_up(mode):
    pipeline = make_pipeline(parse_options(["--direct_num_workers=1", f"--direct_running_mode={mode}"]))
    _ = pipeline | beam.Create([1]) | beam.Map(break_down)
    with pytest.raises(RuntimeError, match="a fault of ours") as error:
        run(pipeline)
    assert not isinstance(error.value, PartiError)


def test_a_pipeline_that_ends_well_says_nothing(capsys):
    pipeline = make_pipeline(parse_options(["--direct_num_workers=1"]))
    _ = pipeline | beam.Create([1]) | beam.Map(str)
    run(pipeline)
    assert capsys.readouterr().out == ""
