"""Ctrl-C and SIGTERM end a run at once, in one line: what is finished is kept, what is half written is removed.

A job on an engine beyond this machine is cancelled there; where that fails, the line says that it may go on.
The handler ends the process itself: an exception would pass through an engine's threads, which wrap it or wait.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from parti_data.claim import give_back_leases
from parti_data.storage import begin_no_file, is_local, sweep

_STOPS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\r\x1b[K\x1b[?25h"
"""A bar that is being drawn hides it."""
_CANCELLED_WITHIN_S = 10.0


@dataclass
class JobElsewhere:
    """A job on an engine beyond this machine, which does not end with this process."""

    cancel: Callable[[], object] | None = None
    """None as long as it may not have been submitted yet."""


_JOBS: list[JobElsewhere] = []


@contextmanager
def job_elsewhere() -> Iterator[JobElsewhere]:
    """While the block runs, which is to fill in what cancels the job, whoever stops this process cancels it."""
    _JOBS.append(job := JobElsewhere())
    try:
        yield job
    finally:
        _JOBS.remove(job)


@contextmanager
def stop_in_one_line(directory: str) -> Iterator[None]:
    """While the block runs, the signals that ask to stop are followed: exit code 130 for Ctrl-C, 143 for SIGTERM."""
    if threading.current_thread() is not threading.main_thread():  # Python hands signals to no other
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        for again in _STOPS:
            signal.signal(again, signal.SIG_IGN)
        threading.excepthook = lambda _: None  # threads that find their files gone have nothing to tell
        begin_no_file()
        _sweep_all(directory)
        line = f"{_cancel_jobs()} run the same command again to go on, what is finished is kept\n"
        give_back_leases()
        os.write(2, ((_SHOW_CURSOR if sys.stderr.isatty() else "") + line).encode())  # print is not to be called twice
        os._exit(128 + number)

    before = {number: signal.signal(number, stop) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cancel_jobs() -> str:
    """Return how the line begins, after the jobs elsewhere were told to end, each in a thread: this one may hold locks.

    Raises nothing, whatever an engine's client does.
    """
    uncancelled = list(_JOBS)

    def cancel(job: JobElsewhere) -> None:
        if job.cancel:
            job.cancel()
            uncancelled.remove(job)

    for job in _JOBS:
        thread = threading.Thread(target=cancel, args=(job,), daemon=True)
        thread.start()
        thread.join(_CANCELLED_WITHIN_S)
    if uncancelled:
        return "stopped, but the job may go on: cancel it on its engine first, then"
    return "stopped, and its engine was told to cancel the job;" if _JOBS else "stopped;"


def _sweep_all(directory: str) -> None:
    """Remove what is half written in a local directory and those in it; object stores show no half file."""
    if is_local(directory):
        for folder, _, _ in os.walk(directory.removeprefix("file://")):
            with suppress(OSError):  # the threads remove theirs too
                sweep(folder)
