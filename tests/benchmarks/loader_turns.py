"""Loaders that take turns: each in a process of its own, which is stopped while another is measured.

Needs the standard library alone: the peers import it in their environment.
"""

import ctypes
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

STATUS = Path("/proc/self/status")
_PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h: which signal comes when the parent ends."""


class Turn(NamedTuple):
    """What a loader did while it was its turn."""

    rows: int
    wall_s: float
    processor_s: float
    anonymous_mb: float
    """Beyond what the imports took."""


class Loader:
    """A process that gives batches when it is told to."""

    def __init__(self, command: list[Any], errors: Path, environment: dict[str, str] | None = None):
        with errors.open("w") as file:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
                env=os.environ | (environment or {}),
            )  # fmt: skip
        self._errors = errors
        self.first_batch_s = self._answer()

    def turn(self, rows: int, seconds: float) -> Turn:
        """Return what came of batches of so many rows, or of as many as came in that time."""
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdin is not None
        print(json.dumps([rows, seconds]), file=self._process.stdin, flush=True)
        return Turn(*self._answer())

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *raised: object) -> None:
        """Let the process end by itself: some leave shared memory behind where they are killed."""
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> Any:
        """Return what the process says, and stop it; raises RuntimeError with its last words where it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError((self._errors.read_text().strip().splitlines() or ["no words"])[-1])
        self._process.send_signal(signal.SIGSTOP)
        return json.loads(line)


def serve(open_batches: Callable[[], Iterator[int]]) -> None:
    """Say how long the first batch takes, then take a turn for each line that comes; batches are given as their rows.

    Only the answers go to standard output, whatever a library prints.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # while stopped it would not see that nobody asks
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    libraries = memory_mb("RssAnon")
    began = time.perf_counter()
    batches = open_batches()
    next(batches)
    print(json.dumps(time.perf_counter() - began), file=answers)
    for line in sys.stdin:
        most_rows, most_s = json.loads(line)
        rows, began, processor = 0, time.perf_counter(), time.process_time()
        while rows < most_rows and time.perf_counter() - began < most_s:
            rows += next(batches)
        wall_s, processor_s = time.perf_counter() - began, time.process_time() - processor
        print(json.dumps([rows, wall_s, processor_s, memory_mb("RssAnon") - libraries]), file=answers)


def endless(epoch: Callable[[], Iterator[int]]) -> Iterator[int]:
    """Yield the batches of one epoch after the other."""
    return itertools.chain.from_iterable(epoch() for _ in itertools.count())


def memory_mb(field: str) -> float:
    """Return one of the memory fields of /proc/self/status, in megabytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6
