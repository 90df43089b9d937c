"""A place in memory for what a plan writes to see how large it becomes and how long it takes."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from parti_data.storage import join, remove

_PASSES = 3


@contextmanager
def scratch_directory() -> Iterator[str]:
    """Yield the path of an empty directory in memory that is gone afterwards."""
    directory = f"memory://parti-plan-{uuid.uuid4().hex}"
    try:
        yield directory
    finally:
        remove(directory)


def marginal(work: Callable[[str, int], float], num_rows: int) -> tuple[float, float]:
    """Return the seconds and the bytes that one row more takes of a file.

    `work(path, rows)` writes so many rows at a place and returns their bytes. What a file costs anyway is taken off; of
    a few passes the fastest counts.
    """
    least_s, least_bytes = _fastest(work, 1)
    most_s, most_bytes = _fastest(work, num_rows)
    if num_rows < 2:
        return most_s, most_bytes
    return max(most_s - least_s, 0) / (num_rows - 1), max(most_bytes - least_bytes, 0) / (num_rows - 1)


def _fastest(work: Callable[[str, int], float], num_rows: int) -> tuple[float, float]:
    passes = []
    for _ in range(_PASSES):
        with scratch_directory() as directory:
            started = time.perf_counter()
            num_bytes = work(join(directory, "rows"), num_rows)
            passes.append((time.perf_counter() - started, num_bytes))
    return min(passes)
