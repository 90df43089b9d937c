"""Which engine runs a pipeline, and how its failures reach the user.

Without `--runner` the local engine is Beam's FnApiRunner, built explicitly: `DirectRunner` would first try to download
another engine. Its workers are threads; the image work that takes the time releases Python's lock.
"""

import os
import re
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from parti_data import errors
from parti_data.errors import ConfigError, PartiError

_THREADS = "--direct_running_mode=in_memory"


def parse_options(arguments: list[str]) -> PipelineOptions:
    """Return Beam's options; raises ConfigError for one that Beam does not know."""
    local = not any(argument.startswith("--runner") for argument in arguments)
    workers = any(argument.startswith("--direct_num_workers") for argument in arguments)
    defaults = [_THREADS] if not any(a.startswith("--direct_running_mode") for a in arguments) else []
    defaults += [] if workers else [f"--direct_num_workers={os.cpu_count() or 1}"]
    options = PipelineOptions([*(defaults if local else []), *arguments])
    unknown = [
        word
        for word, before in zip(arguments, ["", *arguments], strict=False)
        if not (_is_known(word, options) if word.startswith("--") else before.startswith("--") and "=" not in before)
    ]
    if unknown:
        raise ConfigError(f"{unknown[0]}: expected an option of Beam's after --, found none of that name; check it")
    return options


def _is_known(argument: str, options: PipelineOptions) -> bool:
    name = argument[2:].partition("=")[0].replace("-", "_")
    return name in options.get_all_options() or name.removeprefix("no_") in options.get_all_options()


def local_workers(options: PipelineOptions) -> int:
    """Return how many workers this machine would have; raises ConfigError for another engine."""
    if runner := options.view_as(StandardOptions).runner:
        raise ConfigError(f"--runner: expected none, since a plan is of this machine, found {runner}; leave it out")
    return options.view_as(DirectOptions).direct_num_workers or os.cpu_count() or 1


def make_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """Return a pipeline on the engine that the options name, the local one by default."""
    if options.view_as(StandardOptions).runner:
        return beam.Pipeline(options=options)
    settings = JobServiceHandle.encode_pipeline_options(options.get_all_options(drop_default=True))
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=settings)
    runner = fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))
    return beam.Pipeline(runner=runner, options=options)


def run(pipeline: beam.Pipeline) -> Any:
    """Run to the end and return Beam's result; an error of ours comes out as it was raised in the worker, unframed."""
    try:
        result = pipeline.run()
        result.wait_until_finish()
        return result
    except PartiError as error:
        raise type(error)(_without_step(str(error))) from None
    except RuntimeError as error:
        ours = _find_ours(str(error))
        if ours is None:
            raise
        raise ours from None


def _without_step(message: str) -> str:
    return re.split(r" \[while running ", message)[0]


def _find_ours(text: str) -> PartiError | None:
    """Return the PartiError whose text a worker process sent, or None."""
    names = "|".join(name for name, kind in vars(errors).items() if isinstance(kind, type))
    found = re.findall(rf"^(?:parti_data\.errors\.)({names}): (.+)$", text, re.MULTILINE)
    return getattr(errors, found[-1][0])(_without_step(found[-1][1])) if found else None
