"""Filter, shard and tokenize on the portable interface that Flink and Spark speak, with workers of their own.

The workers' Python has the packages that we need, and of ours only what the wheel put there.
"""

import os
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dataflow_service import install_wheels

from parti_data.errors import EngineError
from parti_data.metrics import read_metrics

STARTS_WITHIN_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def wait_for(port: int) -> None:
    for _ in range(10 * STARTS_WITHIN_S):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


@contextmanager
def serve(python: Path, module: str, *arguments: str, port: int) -> Iterator[int]:
    """Run a service of Beam's by a Python, which is also the `python` that it starts, and yield its port."""
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [python, "-m", f"apache_beam.runners.{module}", *arguments], env=os.environ | {"PATH": path}, cwd="/",
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(port)
        yield port
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.fixture(scope="module")
def job_service(tmp_path_factory) -> Iterator[int]:
    port, folder = free_port(), tmp_path_factory.mktemp("engine")
    arguments = [f"--port={port}", f"--staging_dir={folder}"]
    module = "portability.local_job_service_main"
    with serve(Path(sys.executable), module, *arguments, port=port) as port:
        yield port


@contextmanager
def serve_pool(folder: Path, wheels: list[str]) -> Iterator[int]:
    """Run a pool of workers in an environment with these wheels and, but for ours, the packages that are here."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # does not follow the .pth files in there
    install_wheels(wheels, packages)
    port = free_port()
    with serve(folder / "bin/python", "worker.worker_pool_main", f"--service_port={port}", port=port) as port:
        yield port


def options(job_port: int, pool_port: int) -> list[str]:
    external = ["--environment_type=EXTERNAL", f"--environment_config=localhost:{pool_port}"]
    return ["--runner=PortableRunner", f"--job_endpoint=localhost:{job_port}", *external]


@pytest.fixture(scope="module")
def portable(tmp_path_factory, job_service, wheel) -> Iterator[list[str]]:
    """Beam's options for a job service and a worker pool, each a process of its own."""
    with serve_pool(tmp_path_factory.mktemp("pool"), [wheel]) as pool:
        yield options(job_service, pool)


@pytest.mark.parametrize(("stage", "finished"), [("filter", "filtered"), ("shard", "sharded"), ("tokenize", "tokens")])
def test_a_worker_pool_writes_the_same_bytes(
    stage, finished, portable, request, make_config, run_stage, contents, tmp_path
):
    config = make_config(stage, tmp_path / "out")
    run_stage(config, *portable)
    assert contents(config.output) == contents(request.getfixturevalue(finished))
    told, local = (read_metrics(directory).runs for directory in (config.output, request.getfixturevalue(finished)))
    assert [(run.engine, run.workers) for run in told] == [("PortableRunner", None)] * len(local)
    assert [(run.counts, run.steps.keys()) for run in told] == [(run.counts, run.steps.keys()) for run in local]


def test_a_pool_without_our_package_says_what_to_install(job_service, make_config, run_stage, tmp_path):
    missing = "ModuleNotFoundError: No module named '(parti_data|pipelines)'"
    with serve_pool(tmp_path / "pool", []) as pool, pytest.raises(
        EngineError, match=f"^PortableRunner: expected a job that ends well, found {missing}; install this package"
    ):  # fmt: skip
        run_stage(make_config("shard", tmp_path / "out"), *options(job_service, pool))
