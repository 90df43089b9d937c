"""Progress of a stage, told by the files that it finishes, whoever writes them and wherever.

How much of the whole a file stands for is known beforehand; how many rows it has says its footer, read once. Where the
workers are threads of this process, what they have counted so far tells of files that are not finished yet.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import BarColumn, Progress, TextColumn

from parti_data.errors import PartiError
from parti_data.figures import say_bytes, say_count, say_figure, say_seconds, say_share
from parti_data.metrics import IMAGE_BYTES, ROWS
from parti_data.progress import LINE_EVERY_S, print_line
from parti_data.step_times import counted_here
from parti_data.storage import join, list_directory, listed_versions, open_file

_LOOK_EVERY_S = 0.5
_LEAST_REST = 10
"""Times as long as a look took is waited for the next: listing an object store takes its time."""
_ALMOST = 0.99
_BAR_WIDTH = 16
_PARQUET = ".parquet"

Unit = Literal["rows", "image_bytes", "size"]
"""What weights count: rows, about the bytes of images, or something that only finished files translate to rows."""


@dataclass(frozen=True)
class Watched:
    """The files that a pipeline fills a directory with, each with the part of the work that it stands for.

    Weights of files other than Parquet, which tell no rows, are their rows.
    """

    title: str
    directory: str
    weights: dict[str, int]
    unit: Unit
    replaced: bool = False
    """Whether all of them shall be new, also those that are there: most of their rows are not read for it."""


class State(NamedTuple):
    """How far the work is; rates are those of this run, None where nothing tells them yet."""

    files: int
    share: float
    rows: int
    rows_per_s: float | None
    bytes_per_s: float | None
    left_s: float | None


@dataclass
class Watcher:
    """Looks at the files now and then. What was finished when it began is work that is done, and tells no speed."""

    watched: Watched
    started: float
    finished: dict[str, int] = field(default_factory=dict)
    """The rows of each file that was finished since then."""

    def __post_init__(self):
        self._old = listed_versions(self.watched.directory) if self.watched.replaced else {}
        self._before = self._names()
        self._counted = {name: counted_here(name) for name in (ROWS, IMAGE_BYTES)}

    def look(self, now: float) -> State:
        """Return how far the work is."""
        names = self._names()
        for name in names - self._before - self.finished.keys():
            self.finished[name] = self._rows(name)
        rows = max(sum(self.finished.values()), self._counted_here(ROWS))
        seconds = max(now - self.started, 1e-9)
        total = max(sum(self.watched.weights.values()), 1)
        before, done = self._weight(self._before), self._weight(self.finished) + self._weight_in_work()
        if self._before | self.finished.keys() != self.watched.weights.keys():
            done = min(done, _ALMOST * total - before)
        image_bytes = self._counted_here(IMAGE_BYTES)
        if not image_bytes and self.watched.unit == "image_bytes":
            image_bytes = self._weight(self.finished)
        return State(
            len(self._before) + len(self.finished),
            min((before + max(done, 0)) / total, 1.0),
            rows,
            rows / seconds if rows else None,
            image_bytes / seconds if image_bytes else None,
            seconds * (total - before - done) / done if 0 < done < total - before else None,
        )

    def _names(self) -> set[str]:
        if not self.watched.replaced:
            return set(list_directory(self.watched.directory)) & self.watched.weights.keys()
        found = listed_versions(self.watched.directory)
        return {name for name in found.keys() & self.watched.weights.keys() if found[name] != self._old.get(name)}

    def _rows(self, name: str) -> int:
        if self.watched.replaced:
            return 0
        path = join(self.watched.directory, name)
        return _num_rows(path) if name.endswith(_PARQUET) else self.watched.weights[name]

    def _weight(self, names: dict[str, int] | set[str]) -> float:
        return float(sum(self.watched.weights[name] for name in names))

    def _counted_here(self, name: str) -> int:
        return counted_here(name) - self._counted[name]

    def _weight_in_work(self) -> float:
        """Return the weight of the rows that threads of this process have counted beyond the finished files."""
        finished_rows = sum(self.finished.values())
        rows = self._counted_here(ROWS) - finished_rows
        if rows <= 0:
            return 0.0
        if self.watched.unit == "rows":
            return float(rows)
        if finished_rows:
            return rows * self._weight(self.finished) / finished_rows
        return float(self._counted_here(IMAGE_BYTES)) if self.watched.unit == "image_bytes" else 0.0


def say_state(state: State, num_files: int) -> str:
    """Say how far the work is, in one line."""
    parts = [say_share(state.share), f"{state.files}/{num_files} files"]
    if state.rows_per_s is not None:
        parts.append(f"{say_count(state.rows)} rows, {say_figure(state.rows_per_s)}/s")
    if state.bytes_per_s is not None:
        parts.append(f"{say_bytes(state.bytes_per_s)}/s")
    if state.left_s is not None:
        parts.append(f"about {say_seconds(state.left_s)} left")
    return ", ".join(parts)


@contextmanager
def watch(watched: Watched) -> Iterator[None]:
    """Show how far the work is while the block does it: a bar on a terminal, a line now and then in a log."""
    done = threading.Event()
    watcher = Watcher(watched, time.monotonic())
    if sys.stderr.isatty():
        thread = threading.Thread(target=_draw, args=(watcher, done), daemon=True)
    else:
        thread = threading.Thread(target=_print, args=(watcher, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _look(watcher: Watcher, now: float) -> State | None:
    """Return what is seen, None where the files cannot be looked at now: who works with them says why."""
    try:
        return watcher.look(now)
    except (PartiError, OSError):
        return None


def _states(watcher: Watcher, done: threading.Event) -> Iterator[tuple[float, State]]:
    """Yield what is seen, and when, until the work is done."""
    rest = _LOOK_EVERY_S
    while not done.wait(rest):
        began = time.monotonic()
        if state := _look(watcher, began):
            yield began, state
        rest = max(_LOOK_EVERY_S, _LEAST_REST * (time.monotonic() - began))


def _draw(watcher: Watcher, done: threading.Event) -> None:
    from rich.console import Console

    columns = [TextColumn("{task.description}"), BarColumn(_BAR_WIDTH), TextColumn("{task.fields[note]}")]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(watcher.watched.title, total=1.0, note="")

        def show(state: State) -> None:
            bar.update(task, completed=state.share, note=say_state(state, len(watcher.watched.weights)))

        for _, state in _states(watcher, done):
            show(state)
        if state := _look(watcher, time.monotonic()):
            show(state)


def _print(watcher: Watcher, done: threading.Event) -> None:
    last = watcher.started
    for now, state in _states(watcher, done):
        if now - last >= LINE_EVERY_S:
            last = now
            print_line(f"{watcher.watched.title}: {say_state(state, len(watcher.watched.weights))}")


def _num_rows(path: str) -> int:
    """Return the rows that a Parquet file's footer states; none where the file has just gone."""
    try:
        with open_file(path) as file:
            return pq.read_metadata(file).num_rows
    except (OSError, pa.ArrowInvalid):
        return 0
