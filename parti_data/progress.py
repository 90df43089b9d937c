"""Progress of long work: a bar on a terminal, a plain line now and then in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 15.0
"""How often a log gets a line."""


class ProgressBar:
    """Shows how much of a known amount of work is done."""

    def __init__(self, title: str, total: int, bar: Progress | None, is_shown: bool = True):
        self._title, self._total, self._bar, self._is_shown = title, total, bar, is_shown
        self._task = bar.add_task(title, total=total, note="") if bar else None
        self._started = self._last_line = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Show that so much of the work is done, and a short note."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if self._is_shown and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            left_s = (now - self._started) * (self._total - done) / max(done, 1)
            print_line(f"{self._title}: {done}/{self._total}, about {left_s:.0f} s left  {note}")


def print_line(line: str) -> None:
    """Write a line of a log to standard error at once."""
    print(line.rstrip(), file=sys.stderr, flush=True)


@contextmanager
def show_progress(title: str, total: int, is_shown: bool = True) -> Iterator[ProgressBar]:
    """Yield a bar that goes to standard error: drawn on a terminal, written as lines elsewhere; or to nowhere."""
    if not is_shown or not sys.stderr.isatty():
        yield ProgressBar(title, total, None, is_shown)
        return
    from rich.console import Console

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        yield ProgressBar(title, total, bar)
