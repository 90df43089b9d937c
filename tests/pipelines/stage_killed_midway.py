# ruff: noqa: F821  # what this needs is given as globals
"""Runs a stage in a process that kills itself at one of its moments; run by path, with what it needs as globals.

A moment is one of three for every file that is published: before it, with its bytes aside but not under its name,
and behind it. Without a moment to die at, the number of moments is written to `REPORT`.
"""

import os
import signal
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from parti_data import storage
from pipelines import fragments
from pipelines.runner import parse_options

MODULE: str
JOB: str
CONFIG: str
VALUES: str
DIE_AT: int
REPORT: str
OTHERS: tuple


def run() -> None:
    module = import_module(MODULE)
    config = getattr(module, CONFIG).model_validate_json(VALUES)
    passed = 0
    publish_local = storage._publish_local

    def pass_moment() -> None:
        nonlocal passed
        if passed == DIE_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1

    @contextmanager
    def publish_or_die(path):
        pass_moment()
        with publish_local(path) as file:
            yield file
            file.flush()
            pass_moment()
        pass_moment()

    storage._publish_local = publish_or_die
    fragments.PART_ROWS = 10
    getattr(module, JOB)(config, parse_options(["--direct_num_workers=1"]), *OTHERS)
    Path(REPORT).write_text(str(passed))


if __name__ == "__main__":
    run()
