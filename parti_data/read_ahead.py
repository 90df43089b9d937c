"""Items made ahead of who uses them, by one thread, in order, a bounded number at a time."""

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple, TypeVar

from parti_data.step_times import StepTimes, add_steps, paused, take_steps

Item = TypeVar("Item")
_END = object()


class _OwnThread(threading.local):
    """The thread that makes items for the one that asks. It stays, and with it the files that it has open."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")


_own = _OwnThread()


class _Made(NamedTuple):
    item: object
    steps: StepTimes


def read_ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield the items; up to `depth` of them are made, by another thread, while the caller is busy with one.

    An error in making an item is raised where that item would have come. What the thread's steps took counts for the
    caller's; the time that the caller waits counts for none. Close it where it is not read to its end.
    """
    iterator = iter(items)
    thread = _own.pool
    waiting = deque(thread.submit(_make, iterator) for _ in range(depth))
    try:
        while True:
            with paused():
                made = waiting.popleft().result()
            add_steps(made.steps)
            if made.item is _END:
                return
            waiting.append(thread.submit(_make, iterator))
            yield made.item  # type: ignore[misc]
    finally:
        wait([made for made in waiting if not made.cancel()])


def _make(iterator: Iterator[Item]) -> _Made:
    item = next(iterator, _END)
    return _Made(item, take_steps())
