"""Ctrl-C and SIGTERM end a run at once, in one line: what is finished is kept, what is half written is removed.

The handler ends the process itself: an exception would pass through an engine's threads, which wrap it or wait.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from parti_data.claim import give_back_leases
from parti_data.storage import begin_no_file, is_local, sweep

_STOPS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\r\x1b[K\x1b[?25h"
"""A bar that is being drawn hides it."""


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
        give_back_leases()
        line = "stopped; run the same command again to go on, what is finished is kept\n"
        os.write(2, ((_SHOW_CURSOR if sys.stderr.isatty() else "") + line).encode())  # print is not to be called twice
        os._exit(128 + number)

    before = {number: signal.signal(number, stop) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sweep_all(directory: str) -> None:
    """Remove what is half written in a local directory and those in it; object stores show no half file."""
    if is_local(directory):
        for folder, _, _ in os.walk(directory.removeprefix("file://")):
            with suppress(OSError):  # the threads remove theirs too
                sweep(folder)
