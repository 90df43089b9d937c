"""How the program runs what a command names: imported once it is asked for, alone in its output, its counts told."""

import os
import signal
import sys
from collections.abc import Callable
from functools import reduce
from importlib import import_module
from typing import Any

import typer

from parti_data.claim import claim
from parti_data.config import StageConfig
from parti_data.errors import ConfigError
from parti_data.manifest import Manifest
from pipelines.stopping import stop_in_one_line

EXTRAS = {
    "apache_beam": "pipelines",
    "torch": "model",
    "safetensors": "model",
    "scipy": "model",
    "jinja2": "report",
    "psutil": "demo",
}


def load(module: str) -> Any:
    """Import a stage; raises ConfigError where the extra that it needs is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise ConfigError(
            f"{module}: expected the package {error.name}, found none; pip install 'parti[{extra}]'"
        ) from None


def read_config(model: type[StageConfig], arguments: list[str] | None) -> Any:
    """Return the config that the arguments make."""
    arguments = arguments or []
    files = [argument for argument in arguments if argument.endswith(".toml") and "=" not in argument]
    if len(files) > 1:
        raise ConfigError(f"{files[1]}: expected one config file, found {len(files)}; give overrides as key=value")
    return model.load(files[0] if files else None, [argument for argument in arguments if argument not in files])


def refuse_beam_options(context: typer.Context) -> None:
    """Raise ConfigError where Beam's options are given to a command that does not use it."""
    if context.obj:
        raise ConfigError(f"{context.obj[0]}: expected no options after --, found some; this command does not use Beam")


def run_stage(
    context: typer.Context,
    stage: Callable[..., Manifest],
    model: type[StageConfig],
    arguments: list[str] | None,
    *others: Any,
) -> Manifest:
    """Run a stage on the engine that Beam's options name, and return its manifest."""
    options, config = load("pipelines.runner").parse_options(context.obj), read_config(model, arguments)
    load("pipelines.engines").refuse_local_paths(options, _opened_by_workers(config))
    return _run(stage, config, options, *others)


def _opened_by_workers(config: Any) -> dict[str, str]:
    """Return the paths that workers read or write, by what they are of."""
    names = ("output", "source", "source.path", *config.OPENED_BY_WORKERS)
    found = {name: reduce(lambda part, key: getattr(part, key, ""), name.split("."), config) for name in names}
    return {name.removesuffix(".path"): path for name, path in found.items() if path and isinstance(path, str)}


def run_job(
    context: typer.Context,
    job: Callable[..., Manifest],
    model: type[StageConfig],
    arguments: list[str] | None,
) -> Manifest:
    """Run a job of one process, and return its manifest."""
    refuse_beam_options(context)
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ConfigError(
            f"{context.info_name}: expected one process, found {count} that torchrun started; start it without"
        )
    return _run(job, read_config(model, arguments))


def run_on_ranks(
    context: typer.Context,
    job: Callable[..., Manifest],
    model: type[StageConfig],
    arguments: list[str] | None,
) -> None:
    """Run a job that torchrun may have started in several processes, of which the first holds the output."""
    refuse_beam_options(context)
    if os.environ.get("RANK", "0") == "0":
        _run(job, read_config(model, arguments))
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the first one tells that all were stopped
    try:
        config = read_config(model, arguments)
    except ConfigError:
        sys.exit(2)  # as the first one, which says why
    job(config)


def _run(job: Callable[..., Manifest], config: StageConfig, *others: Any) -> Manifest:
    """Run a stage or a job alone in its output, say its counts, and return its manifest."""
    with claim(config.output), stop_in_one_line(config.output):
        manifest = job(config, *others)
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in manifest.counts.items())
    print(f"{manifest.stage}: {counts}")
    return manifest
