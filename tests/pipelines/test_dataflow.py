"""Filter and tokenize submitted to a stand-in for Dataflow: what arrives there, and that it runs to the same bytes."""

import math
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from apache_beam.runners.dataflow import dataflow_runner
from dataflow_service import Job, install_wheels, serve_dataflow

from pipelines.command_line import main

ROOT = Path(__file__).parents[2]
IMAGE = "registry/parti-worker:1"
CONTAINER = [f"--sdk_container_image={IMAGE}", "--sdk_location=container"]
ACCELERATOR = "type:nvidia-l4;count:1;install-nvidia-driver"
SYNTHETIC = ["source.num_pairs=96", "source.side_px=32", "source.spoil_every=4", "source.pairs_per_split=32"]


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setattr(
        dataflow_runner, "time", SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(seconds / 100))
    )
    with serve_dataflow(tmp_path) as service:
        yield service


@pytest.fixture
def parti(capsys, monkeypatch):
    """Run the program; return its exit code and what it complained of, without progress, which a busy machine shows."""
    monkeypatch.setattr("parti_data.watch.LINE_EVERY_S", math.inf)
    monkeypatch.setattr("parti_data.progress.LINE_EVERY_S", math.inf)

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([*arguments])
        return int(end.value.code or 0), capsys.readouterr().err

    return run


def steps_with_hints(job: Job) -> dict[str, dict[str, bytes]]:
    """The resource hints of each step that has any, and no steps in it."""
    hints = {name: dict(one.resource_hints) for name, one in job.pipeline.components.environments.items()}
    steps = job.pipeline.components.transforms.values()
    leaves = [step for step in steps if not step.subtransforms]
    return {step.unique_name: hints[step.environment_id] for step in leaves if hints.get(step.environment_id)}


def assert_nothing_of_this_machine_is_needed(job: Job) -> None:
    """No pickled main session; this machine's Python appears only as names of files that tracebacks would show."""
    assert "pickled_main_session" not in {package["name"] for package in job.packages}
    assert not job.options["save_main_session"]
    payloads = job.payloads()
    assert len(payloads) > 5
    for prefix in (sys.prefix, str(ROOT)):
        for step, payload in payloads.items():
            for found in re.findall(re.escape(prefix.encode()) + rb"[\w./-]*", payload):
                assert found.endswith(b".py"), (step, found)


def test_filter_sends_its_package_along_and_writes_the_same_bytes(service, parti, wheel, filtered, tmp_path, contents):
    arguments = [f"output={tmp_path}/out", *SYNTHETIC, "--", *service.arguments, f"--extra_package={wheel}", *CONTAINER]
    assert parti("filter", *arguments) == (0, "")
    assert contents(tmp_path / "out") == contents(filtered)
    assert len(service.jobs) == 2  # measure, then judge
    for job in service.jobs:
        assert Path(wheel).name in {package["name"] for package in job.packages}
        assert job.image == IMAGE
        assert steps_with_hints(job) == {}
        assert_nothing_of_this_machine_is_needed(job)


def test_tokenize_asks_for_its_resources_where_it_encodes_and_writes_the_same_bytes(
    service, parti, wheel, filtered, image_file, text_file, tokens, tmp_path, contents
):
    service.images[IMAGE] = tmp_path / "image"
    install_wheels([wheel], service.images[IMAGE])
    files = [f"source={filtered}", f"image_tokenizer={image_file}", f"text_tokenizer={text_file}"]
    sizes = ["rows_per_shard=25", "rows_per_fragment=30", "quality.sample=2", "quality.min_psnr_db=0.0"]
    resources = [f"resources.accelerator={ACCELERATOR}", "resources.min_ram=16GB"]
    arguments = [f"output={tmp_path}/out", *files, *sizes, *resources, "--", *service.arguments, *CONTAINER]
    assert parti("tokenize", *arguments) == (0, "")
    assert contents(tmp_path / "out") == contents(tokens)
    (job,) = service.jobs
    assert {package["name"] for package in job.packages} == {"submission_environment_dependencies.txt"}
    hints = {
        "beam:resources:accelerator:v1": ACCELERATOR.encode(), "beam:resources:min_ram_bytes:v1": b"16000000000",
    }  # fmt: skip
    assert steps_with_hints(job) == {"EncodeImages/EncodeSlice": hints}
    assert_nothing_of_this_machine_is_needed(job)


def test_workers_without_our_package_say_what_to_install(service, parti, tmp_path):
    code, err = parti("filter", f"output={tmp_path}/out", *SYNTHETIC, "--", *service.arguments, *CONTAINER)
    assert code == 1
    assert re.search(
        r"^error: DataflowRunner: expected a job that ends well, found ModuleNotFoundError: No module named "
        r"'(parti_data|pipelines)'.*; "
        r"install this package, with the extras of its stage, where the workers run\n\Z",
        err,  # on a busy machine lines of progress stand before it
        re.MULTILINE,
    )


TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    raise Error\n'


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            "parti_data.errors.SourceError: a.tar: expected a tar, found none; check it [while running 'X-ptransform']",
            "a.tar: expected a tar, found none; check it",
        ),
        (
            "ZeroDivisionError: division by zero [while running 'X-ptransform']",
            "DataflowRunner: expected a job that ends well, found ZeroDivisionError: division by zero [while running "
            "'X-ptransform']; the engine's log has more; mend it and run the same command again",
        ),
    ],
)  # fmt: skip
def test_what_failed_in_a_job_is_told_in_one_line(service, parti, tmp_path, raised, said):
    service.failure = f"{TRACEBACK}{raised}\n\nDuring handling:\n{TRACEBACK}{raised}\n"
    code, err = parti("filter", f"output={tmp_path}/out", *SYNTHETIC, "--", *service.arguments, *CONTAINER)
    assert (code, err) == (1, f"error: {said}\n")
