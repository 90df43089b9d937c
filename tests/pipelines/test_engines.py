"""Filter, shard and tokenize on the portable interface that Flink and Spark speak, with workers of their own."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    """Beam's options for a job service and a worker pool, each a process of its own."""
    folder, job_port, pool_port = tmp_path_factory.mktemp("engine"), free_port(), free_port()
    services = [
        ["apache_beam.runners.portability.local_job_service_main", f"--port={job_port}", f"--staging_dir={folder}"],
        ["apache_beam.runners.worker.worker_pool_main", f"--service_port={pool_port}"],
    ]
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the pool starts its workers as `python`
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *service], env=os.environ | {"PATH": search}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for service in services
    ]  # fmt: skip
    try:
        wait_for(job_port)
        wait_for(pool_port)
        yield [
            "--runner=PortableRunner", f"--job_endpoint=localhost:{job_port}", "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool_port}",
        ]  # fmt: skip
    finally:
        for process in started:
            os.killpg(process.pid, 9)
            process.wait()


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
