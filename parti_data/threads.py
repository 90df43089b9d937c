"""Work that leaves the interpreter to others, such as hashing and decompressing, done in several threads."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_MOST_THREADS = 8


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield what becomes of each item, in order; what is not begun when the caller stops is not begun any more."""
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS))
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)
