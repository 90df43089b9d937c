# ruff: noqa: F821  # what this needs is given as globals
"""Forgets in a process that kills itself at one of its moments; run by path, with what it needs as globals.

A moment is before and behind everything that changes a directory: a file that is published, moved or removed.
"""

import os
import signal

from stops_at_a_moment import stop_at

from pipelines.forget import forget, read_names

DIRECTORY: str
KEYS: list[str]
DIE_AT: int

if __name__ == "__main__":
    with stop_at(DIE_AT, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        forget(DIRECTORY, read_names(KEYS, [], [], []), lambda line: None)
