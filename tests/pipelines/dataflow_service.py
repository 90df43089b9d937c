"""A stand-in for the Dataflow service: it takes jobs over REST and runs what was staged, with workers of its own.

The real DataflowRunner speaks to it, as to any endpoint on localhost. A worker is a process that sees the installed
packages, but of ours only what the job staged for it.
"""

import base64
import bz2
import json
import re
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_provision_api_pb2, beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner

PATH = re.compile(r"/v1b3/projects/p/locations/r/jobs(?:/(?P<job>[^/?]+))?(?P<part>/messages|/metrics)?(?:\?.*)?$")
NUM_WORKERS = 1


class Job(NamedTuple):
    """A job as it arrived."""

    description: dict[str, Any]
    pipeline: beam_runner_api_pb2.Pipeline

    @property
    def environment(self) -> dict[str, Any]:
        """What workers shall be like."""
        return self.description["environment"]

    @property
    def options(self) -> dict[str, Any]:
        """Beam's options, as the workers would get them."""
        return self.environment["sdkPipelineOptions"]["options"]

    @property
    def packages(self) -> list[dict[str, str]]:
        """The files that were staged for workers, each with name and location."""
        return self.environment["workerPools"][0].get("packages", [])

    @property
    def image(self) -> str:
        """The container that workers start."""
        (image,) = {
            image["containerImage"] for image in self.environment["workerPools"][0]["sdkHarnessContainerImages"]
        }
        return image

    def payloads(self) -> dict[str, bytes]:
        """The pickled function of each step, by the step's name."""
        steps = {step.unique_name: step.spec for step in self.pipeline.components.transforms.values()}
        return {
            name: bz2.decompress(base64.b64decode(_function(spec.payload)))
            for name, spec in steps.items()
            if spec.urn == common_urns.primitives.PAR_DO.urn
        }


def _function(payload: bytes) -> bytes:
    return beam_runner_api_pb2.ParDoPayload.FromString(payload).do_fn.payload


class DataflowService:
    """The jobs that arrived, in order; `arguments` makes Beam submit to here, `images` are the containers it can start.

    An image is a folder of Python packages. With a `failure` jobs are not run, they fail with that text.
    """

    def __init__(self, port: int, folder: Path):
        self.folder = folder
        self.jobs: list[Job] = []
        self.images: dict[str, Path] = {}
        self.failure = ""
        self._states: dict[str, dict[str, Any]] = {}
        self._messages: dict[str, str] = {}
        (folder / "staging").mkdir()
        (folder / "temp").mkdir()
        self.arguments = [
            "--runner=DataflowRunner", f"--dataflow_endpoint=http://localhost:{port}", "--no_auth", "--project=p",
            "--region=r", f"--staging_location={folder}/staging", f"--temp_location={folder}/temp",
        ]  # fmt: skip

    def answer(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Answer one request; a new job is at its end when its answer comes."""
        asked = PATH.match(path)
        assert asked, path
        if asked["part"]:
            text = self._messages.get(asked["job"])
            message = {"id": "m", "time": "2020-01-01T00:00:00Z", "messageImportance": "JOB_MESSAGE_ERROR"}
            return {"jobMessages": [message | {"messageText": text}]} if text else {}
        return self._states[asked["job"]] if body is None else self._take(body)

    def _take(self, description: dict[str, Any]) -> dict[str, Any]:
        staged = Path(description["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]).read_bytes()
        job, name = Job(description, beam_runner_api_pb2.Pipeline.FromString(staged)), f"job-{len(self.jobs)}"
        self.jobs.append(job)
        self._messages[name] = self.failure or self._run(job, self.folder / name)
        state = "JOB_STATE_FAILED" if self._messages[name] else "JOB_STATE_DONE"
        self._states[name] = {"id": name, "name": description["name"], "currentState": state}
        return self._states[name] | {"currentState": "JOB_STATE_RUNNING"}

    def _run(self, job: Job, folder: Path) -> str:
        """Run a job's pipeline in worker processes, with its image and what it staged; return how it failed."""
        folder.mkdir()
        wheels = [package["location"] for package in job.packages if package["name"].endswith(".whl")]
        install_wheels(wheels, folder)
        packages = [str(folder), str(self.images.get(job.image, folder)), sysconfig.get_path("purelib")]
        worker = (
            f"cd / && PYTHONPATH={':'.join(packages)} exec {sys.executable} -S "  # -S: our checkout is not installed
            f"-m apache_beam.runners.worker.sdk_worker_main >>{folder}/worker.log 2>&1"
        )
        pipeline = beam_runner_api_pb2.Pipeline()
        pipeline.CopyFrom(job.pipeline)
        for environment in pipeline.components.environments.values():
            environment.urn, environment.payload = python_urns.SUBPROCESS_SDK, worker.encode()
            environment.resource_hints.clear()
            del environment.dependencies[:]
        provision = fn_runner.ExtendedProvisionInfo(beam_provision_api_pb2.ProvisionInfo())
        runner = fn_runner.FnApiRunner(provision_info=provision)
        runner._num_workers = NUM_WORKERS
        try:
            runner.run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()
        except RuntimeError as error:
            return str(error)
        return ""


def install_wheels(wheels: list[str], folder: Path) -> None:
    """Install wheels, and nothing that they need, as a folder of packages."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", f"--target={folder}"]
    if wheels:
        subprocess.run([*install, *wheels], check=True, stderr=subprocess.DEVNULL)


@contextmanager
def serve_dataflow(folder: Path) -> Iterator[DataflowService]:
    """Yield the service, listening on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = json.dumps(service.answer(self.path, json.loads(body) if body else None)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("localhost", 0), Handler) as server:
        service = DataflowService(server.server_port, folder)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield service
        finally:
            server.shutdown()
