"""What an engine beyond this machine needs before a job is sent to it, and what its failures say in one line."""

import re
import socket

import grpc
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SparkRunnerOptions,
    StandardOptions,
)  # fmt: skip
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner, DataflowRuntimeException
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

from parti_data.errors import ConfigError, EngineError
from parti_data.storage import is_local

ANSWERS_WITHIN_S = 5
_ADDRESS = re.compile(r"(?:\w+://)?(?P<host>[\w.-]+):(?P<port>\d+)$")
_RAISED = re.compile(r"^(?:\w+\.)*\w+(?:Error|Exception)(?:: .*)?$", re.MULTILINE)
_GRPC_DETAILS = re.compile(r'^\s*details = "(.+)"$', re.MULTILINE)
_STEP = re.compile(r" \[while running .*", re.DOTALL)


def is_remote(runner: PipelineRunner) -> bool:
    """Whether a runner only submits jobs, to a job service or to Dataflow."""
    return isinstance(runner, PortableRunner | DataflowRunner)


def find_runner(name: str) -> PipelineRunner:
    """Return the runner of a name; raises ConfigError where there is none, or its packages are missing."""
    try:
        runner = create_runner(name)
        if isinstance(runner, DataflowRunner):
            import apache_beam.runners.dataflow.internal.apiclient  # noqa: F401
    except ModuleNotFoundError as error:
        extra = "; pip install 'parti[dataflow]'" if (error.name or "").startswith("google") else "; install it"
        raise ConfigError(f"--runner={name}: expected the package {error.name}, found none{extra}") from None
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(
            f"--runner={name}: expected an engine that Beam knows, found none ({error}); leave it out for this machine"
        ) from None
    return runner


def refuse_unreachable(options: PipelineOptions, runner: PipelineRunner) -> None:
    """Raise EngineError where nothing answers at an engine's address, or there are no credentials for Dataflow."""
    google = options.view_as(GoogleCloudOptions)
    if isinstance(runner, DataflowRunner):
        addresses = {"dataflow_endpoint": google.dataflow_endpoint}
    else:
        addresses = {
            "job_endpoint": options.view_as(PortableOptions).job_endpoint,
            "flink_master": options.view_as(FlinkRunnerOptions).flink_master,
            "spark_master_url": options.view_as(SparkRunnerOptions).spark_master_url,
        }
    for name, address in addresses.items():
        if found := _ADDRESS.match(address or ""):
            try:
                socket.create_connection((found["host"], int(found["port"])), ANSWERS_WITHIN_S).close()
            except OSError as error:
                raise EngineError(
                    f"--{name}={address}: expected a server that answers, found none ({error.strerror or error}); "
                    "start it or check the address"
                ) from None
    if isinstance(runner, DataflowRunner) and not google.no_auth:
        _refuse_no_credentials()


def refuse_local_paths(options: PipelineOptions, paths: dict[str, str]) -> None:
    """Raise ConfigError where Dataflow's workers would read or write disks of their own; paths by what they are of."""
    dataflow = "dataflow" in (options.view_as(StandardOptions).runner or "").lower()
    stands_in = "localhost" in options.view_as(GoogleCloudOptions).dataflow_endpoint
    for name, path in paths.items() if dataflow and not stands_in else ():
        if is_local(path):
            raise ConfigError(
                f"{name}: expected a path that Dataflow's workers reach, found {path!r}; give a gs:// one"
            )


def _refuse_no_credentials() -> None:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        google.auth.default()
    except DefaultCredentialsError:
        raise EngineError(
            "--runner=DataflowRunner: expected Google credentials, found none; gcloud auth application-default login"
        ) from None


def remote_errors(runner: PipelineRunner) -> tuple[type[Exception], ...]:
    """Return what a runner raises where a job cannot be submitted, or has failed."""
    if not isinstance(runner, DataflowRunner):
        return RuntimeError, ValueError, OSError, grpc.RpcError, grpc.FutureTimeoutError
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    return RuntimeError, ValueError, OSError, DataflowRuntimeException, GoogleAPIError, GoogleAuthError


def submission_error(runner: PipelineRunner, text: str) -> EngineError:
    """Return the one line about a job that an engine did not take."""
    return EngineError(
        f"{type(runner).__name__}: expected an engine that takes the job, found {last_raised(text)}; mend that and run "
        "the same command again"
    )


def job_error(runner: PipelineRunner, text: str) -> EngineError:
    """Return the one line about a job that failed on its engine."""
    found = last_raised(text)
    remedy = (
        "install this package, with the extras of its stage, where the workers run"
        if found.startswith("ModuleNotFoundError")
        else "the engine's log has more; mend it and run the same command again"
    )
    return EngineError(f"{type(runner).__name__}: expected a job that ends well, found {found}; {remedy}")


def last_raised(text: str) -> str:
    """Return the line of a message, or of the tracebacks in it, that says what was raised last."""
    if details := _GRPC_DETAILS.search(text):
        return details[1]
    lines = [line.strip() for line in text.splitlines() if line.strip() not in ("", "None")]
    return [*(lines or ["no reason given"]), *_RAISED.findall(text)][-1].rstrip(".:")


def without_step(message: str) -> str:
    """Return a worker's message without the name of the step that Beam puts after it."""
    return _STEP.sub("", message)
