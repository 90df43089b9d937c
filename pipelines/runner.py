"""Which engine runs a pipeline: Beam's options read and checked, the pipeline made and run to its end.

Without `--runner` the local engine is Beam's FnApiRunner, built explicitly: `DirectRunner` would first try to download
another engine. Its workers are threads; the image work that takes the time releases Python's lock.
"""

import io
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle, PortableRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from parti_data import errors
from parti_data.errors import ConfigError, EngineError, PartiError
from pipelines.engines import (
    find_runner,
    is_remote,
    job_error,
    refuse_unreachable,
    remote_errors,
    submission_error,
    without_step,
)
from pipelines.first_error import note_error, tells_first_error
from pipelines.local_worker import worker_command
from pipelines.stopping import JobElsewhere, job_elsewhere

_THREADS = "--direct_running_mode=in_memory"
_WORKER_GONE = ("Channel closed prematurely", "Worker subprocess exited")
"""What the local engine says when one of its processes was killed."""
_NOT_WAITED_FOR = ("--template_location", "--dry_run", "--no_wait_until_finish")


def parse_options(arguments: list[str]) -> PipelineOptions:
    """Return Beam's options, of an engine that is there.

    Raises ConfigError for an option or an engine that Beam does not know or that needs more, EngineError for an engine
    that does not answer.
    """
    local = not any(argument.startswith("--runner") for argument in arguments)
    workers = any(argument.startswith("--direct_num_workers") for argument in arguments)
    defaults = [_THREADS] if not any(a.startswith("--direct_running_mode") for a in arguments) else []
    defaults += [] if workers else [f"--direct_num_workers={os.cpu_count() or 1}"]
    options = _read_options([*(defaults if local else []), *arguments])
    name = options.view_as(StandardOptions).runner
    runner = find_runner(name) if name else None
    _refuse_unwaited(arguments)
    if not isinstance(runner, PortableRunner):  # whose job service may know more options
        _refuse_unknown(arguments, options)
    if name and runner:
        refuse_unreachable(options, runner)
        if missing := PipelineOptionsValidator(options, runner).validate():
            raise ConfigError(
                f"--runner={name}: expected all that it needs, found: {'; '.join(missing)} Add what is missing"
            )
    return options


def _read_options(arguments: list[str]) -> PipelineOptions:
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            options = PipelineOptions(arguments)
            options.get_all_options()  # reads all values
            return options
    except SystemExit:
        said = complaint.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise ConfigError(f"options after --: expected what Beam takes, found {said}; check it") from None


def _refuse_unknown(arguments: list[str], options: PipelineOptions) -> None:
    """Raise ConfigError for an option that Beam does not know."""
    flags: set[str] = set()
    options.get_all_options(add_extra_args_fn=lambda parser: flags.update(parser._option_string_actions))
    for word, before in zip(arguments, ["", *arguments], strict=False):
        flag = _flag(word)
        is_value = not word.startswith("--") and before.startswith("--") and "=" not in before
        if not is_value and flag not in flags:
            raise ConfigError(f"{word}: expected an option of Beam's after --, found none of that name; check it")


def _flag(word: str) -> str:
    return word.partition("=")[0].replace("-", "_").replace("__", "--", 1)


def _refuse_unwaited(arguments: list[str]) -> None:
    """Raise ConfigError for an option that would leave a stage before its end."""
    for word in arguments:
        if _flag(word) in _NOT_WAITED_FOR:
            raise ConfigError(
                f"{word}: expected a run that waits for its jobs, found one that does not; a stage ends after its last "
                "job, so leave it out"
            )


def local_workers(options: PipelineOptions) -> int:
    """Return how many workers this machine would have; raises ConfigError for another engine."""
    if runner := options.view_as(StandardOptions).runner:
        raise ConfigError(f"--runner: expected none, since a plan is of this machine, found {runner}; leave it out")
    return options.view_as(DirectOptions).direct_num_workers or os.cpu_count() or 1


def make_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """Return a pipeline on the engine that the options name, the local one by default.

    Its folder in /tmp, for transforms in other languages, is removed at once: a run that is stopped would leave it.
    """
    pipeline = beam.Pipeline(options=options) if options.view_as(StandardOptions).runner else _local_pipeline(options)
    shutil.rmtree(pipeline.local_tempdir)
    return pipeline


def _local_pipeline(options: PipelineOptions) -> beam.Pipeline:
    given = options.get_all_options(drop_default=True)
    workers = None
    if given.get("direct_running_mode") == "multi_processing":
        workers = SubprocessSDKEnvironment.from_command_string(worker_command())  # type: ignore[attr-defined]
        del given["direct_running_mode"]  # for which Beam would start workers of its own
        options = PipelineOptions.from_dictionary(given)
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=JobServiceHandle.encode_pipeline_options(given))
    runner = fn_runner.FnApiRunner(workers, provision_info=fn_runner.ExtendedProvisionInfo(provision))
    return beam.Pipeline(runner=runner, options=options)


def run(pipeline: beam.Pipeline) -> Any:
    """Run to the end and return Beam's result.

    An error of ours comes out as it was raised in the worker, without Beam's frame around it; on this machine the first
    one, soon: the other workers end at their next step. What else goes wrong on an engine beyond this machine comes out
    as one EngineError.
    """
    runner = pipeline.runner
    expected = remote_errors(runner) if is_remote(runner) else (RuntimeError,)
    submitted = False
    try:
        elsewhere = job_elsewhere() if is_remote(runner) else nullcontext(JobElsewhere())
        here = tells_first_error() if isinstance(runner, fn_runner.FnApiRunner) else nullcontext()
        with _said_once(), elsewhere as job, here:
            result = pipeline.run()
            submitted, job.cancel = True, result.cancel
            result.wait_until_finish()
        return result
    except PartiError as error:
        raise type(error)(without_step(str(error))) from None
    except expected as error:
        ours = _find_ours(str(error))
        if ours is None and str(error).startswith(_WORKER_GONE):
            ours = EngineError(
                "a worker process: expected it to work to the end, found it gone (killed, most often for want of "
                "memory); free memory or use fewer workers, then run the same command again"
            )
        if ours is None and not is_remote(runner):
            raise
        raise ours or (job_error if submitted else submission_error)(runner, str(error)) from None


@contextmanager
def _said_once() -> Iterator[None]:
    """Keep the engine's threads from telling, with a traceback each, of a worker process that is gone."""
    told = threading.excepthook

    def tell(failure: threading.ExceptHookArgs) -> None:
        if str(failure.exc_value).startswith(_WORKER_GONE):
            note_error(failure.exc_value)
        elif not isinstance(failure.exc_value, grpc.RpcError):  # of channels that close then
            told(failure)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = told


def _find_ours(text: str) -> PartiError | None:
    """Return the PartiError whose text a worker process sent, or None."""
    names = "|".join(name for name, kind in vars(errors).items() if isinstance(kind, type))
    found = re.findall(rf"^(?:parti_data\.errors\.)({names}): (.+)$", text, re.MULTILINE)
    return getattr(errors, found[-1][0])(without_step(found[-1][1])) if found else None
