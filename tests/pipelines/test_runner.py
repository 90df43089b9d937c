import os
import socket
import sys

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.portable_runner import PortableRunner

from parti_data import errors
from parti_data.errors import ConfigError, EngineError, PartiError
from pipelines import stopping
from pipelines.engines import last_raised, refuse_local_paths
from pipelines.runner import make_pipeline, parse_options, run


def test_without_a_runner_the_workers_are_threads_one_for_each_core():
    options = parse_options([])
    assert options.view_as(DirectOptions).direct_running_mode == "in_memory"
    assert options.view_as(DirectOptions).direct_num_workers == os.cpu_count()
    assert options.view_as(StandardOptions).runner is None
    assert type(make_pipeline(options).runner).__name__ == "FnApiRunner"


@pytest.mark.parametrize("arguments", [[], ["--runner=FnApiRunner"], ["--runner=PortableRunner"]])
def test_a_pipeline_that_is_never_run_leaves_no_folder(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    make_pipeline(PipelineOptions(arguments))
    assert list(tmp_path.iterdir()) == []


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


def test_options_whose_flag_is_not_their_name_are_known():
    parse_options(["--extra_package=a.whl", "--worker_machine_type=n1", "--experiment=a", "--num_workers", "3"])


@pytest.mark.parametrize("argument", ["--direct_num_worker=2", "--max_dropped_fraction=1", "--x", "x", "---x"])
def test_an_option_that_beam_does_not_have_is_refused(argument):
    with pytest.raises(
        ConfigError, match=f"^{argument}: expected an option of Beam's after --, found none of that name"
    ):
        parse_options([argument])


def test_a_value_of_another_type_is_refused_in_one_line(capsys):
    with pytest.raises(
        ConfigError, match="^options after --: expected what Beam takes, found argument --direct_num_wo"
    ):
        parse_options(["--direct_num_workers=x"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["FlinkRuner", "pipelines.runner.NoRunner"])
def test_an_engine_that_beam_does_not_have_is_refused(name):
    with pytest.raises(ConfigError, match=f"^--runner={name}: expected an engine that Beam knows, found none"):
        parse_options([f"--runner={name}"])


def test_an_engine_whose_package_is_missing_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"^--runner=no.Such: expected the package no, found none; install it$"):
        parse_options(["--runner=no.Such"])
    monkeypatch.setitem(sys.modules, "google.auth.credentials", None)
    monkeypatch.delitem(sys.modules, "apache_beam.runners.dataflow.internal.apiclient", raising=False)
    with pytest.raises(
        ConfigError,
        match=r"^--runner=Dataflow: expected the package google.auth.credentials, found none; pip install 'parti\[data",
    ):
        parse_options(["--runner=Dataflow"])


DATAFLOW = ["--runner=DataflowRunner", "--no_auth", "--project=p", "--region=r"]


def test_an_engine_that_needs_more_options_says_which():
    with pytest.raises(
        ConfigError, match=r"^--runner=DataflowRunner: expected all that it needs, found: Missing .*temp_location.; Mis"
    ):
        parse_options(DATAFLOW[:-1])


def test_dataflow_without_credentials_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(EngineError, match="^--runner=DataflowRunner: expected Google credentials, found none; gcloud"):
        parse_options(["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t"])


@pytest.mark.parametrize(
    ("option", "runner"),
    [
        ("job_endpoint", "PortableRunner"),
        ("flink_master", "FlinkRunner"),
        ("spark_master_url", "SparkRunner"),
        ("dataflow_endpoint", "DataflowRunner"),
    ],
)
def test_an_engine_that_does_not_answer_is_refused(option, runner):
    with socket.socket() as closed:
        closed.bind(("localhost", 0))
        address = f"http://localhost:{closed.getsockname()[1]}"
    with pytest.raises(
        EngineError, match=f"^--{option}={address}: expected a server that answers, found none .Connection refused.; st"
    ):
        parse_options([f"--runner={runner}", f"--{option}={address}"])


def test_a_job_service_may_know_more_options():
    parse_options(["--runner=PortableRunner", "--job_endpoint=embed", "--checkpointing_interval=1"])


@pytest.mark.parametrize("engine", [[*DATAFLOW, "--temp_location=gs://b/t"], ["--runner=FlinkRunner"]])
@pytest.mark.parametrize("option", ["--template_location=gs://b/t", "--dry_run=true", "--no_wait_until_finish"])
def test_what_would_not_wait_for_a_job_is_refused(engine, option):
    with pytest.raises(
        ConfigError, match=f"^{option}: expected a run that waits for its jobs, found one that does not"
    ):
        parse_options([*engine, option])


@pytest.mark.parametrize("name", ["source", "output"])
def test_a_path_on_this_machine_is_refused_for_dataflow(name):
    options = PipelineOptions([*DATAFLOW, "--temp_location=gs://b/t"])
    refuse_local_paths(options, {"source": "s3://bucket/x", "output": "memory://bucket/pairs"})
    refuse_local_paths(PipelineOptions([]), {"output": "runs/pairs"})
    with pytest.raises(
        ConfigError, match=f"^{name}: expected a path that Dataflow's workers reach, found 'runs/pairs'; "
    ):
        refuse_local_paths(options, {name: "runs/pairs"})


PORTABLE = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]


@pytest.mark.parametrize(
    "options", [["--runner=PortableRunner"], ["--runner=FlinkRunner", "--flink_job_server_jar=no"]]
)
def test_a_job_that_is_not_taken_is_told_in_one_line(options):
    pipeline = make_pipeline(parse_options(options))
    _ = pipeline | beam.Create([1]) | beam.Map(str)
    name = options[0].partition("=")[2]
    with pytest.raises(
        EngineError, match=f"^{name}: expected an engine that takes the job, found .*; mend that"
    ) as error:
        run(pipeline)
    assert "\n" not in str(error.value)


def test_workers_that_do_not_answer_are_told_in_one_line():
    external = ["--environment_type=EXTERNAL", "--environment_config=localhost:1"]
    pipeline = make_pipeline(parse_options([*PORTABLE[:2], *external]))
    _ = pipeline | beam.Create([1]) | beam.Map(str)
    with pytest.raises(EngineError, match="^PortableRunner: expected a job that ends well, found failed to connect to"):
        run(pipeline)


def test_a_fault_in_a_job_elsewhere_is_told_in_one_line():
    pipeline = make_pipeline(parse_options(PORTABLE))
    _ = pipeline | beam.Create([1]) | "Breaks" >> beam.Map(break_down)
    with pytest.raises(
        EngineError, match=r"^PortableRunner: expected .*, found RuntimeError: a fault of ours \[while running 'Breaks'"
    ) as error:
        run(pipeline)
    assert "\n" not in str(error.value)


def test_an_error_of_ours_comes_out_of_a_job_elsewhere_as_it_was_raised():
    pipeline = make_pipeline(parse_options(PORTABLE))
    _ = pipeline | beam.Create(["ShardError"]) | "Fails" >> beam.Map(fail)
    with pytest.raises(errors.ShardError, match=r"^place of ShardError: expected a, found \[b\] \(c\); mend it$"):
        run(pipeline)


JAVA = """java.lang.RuntimeException: Error received from SDK harness: Traceback (most recent call last):
  File "x.py", line 1, in f
ModuleNotFoundError: No module named 'pipelines' [while running 'X']

\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient.accept(FnApiControlClient.java:1)
Caused by: java.lang.RuntimeException: gone
\t... 1 more
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (JAVA, "ModuleNotFoundError: No module named 'pipelines' [while running 'X']"),
        ("", "no reason given"),
        (
            "Dataflow pipeline failed. State: CANCELLED, Error:\nNone",
            "Dataflow pipeline failed. State: CANCELLED, Error",
        ),
        ("one\n\n  two.\n", "two"),
        ('<_InactiveRpcError\n\tdetails = "no route"\n\tdebug>', "no route"),
    ],
)
def test_what_was_raised_last_is_found_in_any_text(text, line):
    assert last_raised(text) == line


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


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_a_pipeline_that_ends_well_says_nothing(capfd, mode):
    pipeline = make_pipeline(parse_options(["--direct_num_workers=2", f"--direct_running_mode={mode}"]))
    _ = pipeline | beam.Create([1]) | beam.Map(str)
    run(pipeline)
    assert capfd.readouterr() == ("", "")


def test_an_error_of_ours_comes_out_of_a_process_without_its_traceback(capfd):
    pipeline = make_pipeline(parse_options(["--direct_num_workers=2", "--direct_running_mode=multi_processing"]))
    _ = pipeline | beam.Create(["ShardError"]) | "Fails" >> beam.Map(fail)
    with pytest.raises(errors.ShardError, match=r"^place of ShardError: expected a, found \[b\] \(c\); mend it$"):
        run(pipeline)
    assert capfd.readouterr() == ("", "")


class StubJob:
    """A pipeline on an engine, and its result, which looks at what a stop would cancel while it is waited for."""

    def __init__(self, runner):
        self.runner, self.cancelled_by_a_stop = runner, []

    def run(self) -> "StubJob":
        self.cancelled_by_a_stop += [job.cancel for job in stopping._JOBS]
        return self

    def wait_until_finish(self) -> None:
        self.cancelled_by_a_stop += [job.cancel for job in stopping._JOBS]

    def cancel(self) -> None:
        """Never called here."""


def test_a_job_elsewhere_is_cancelled_by_a_stop_once_it_is_submitted_and_none_here():
    job = StubJob(PortableRunner())
    run(job)
    assert job.cancelled_by_a_stop == [None, job.cancel]
    here = StubJob(make_pipeline(parse_options([])).runner)
    run(here)
    assert here.cancelled_by_a_stop == stopping._JOBS == []
