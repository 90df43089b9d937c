"""The batches of the steps that come next, made in threads: any function of the step, unlike `read_ahead`'s items."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class ComingBatches(Generic[T]):
    """The values of a function of the step; while one is used, the next ones are being made.

    As many are held as there are threads, beside the one that is used. The function must depend on the step alone;
    what it raises is raised where its step is asked for.
    """

    def __init__(self, make: Callable[[int], T], num_threads: int):
        self._make, self._num_threads = make, num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="ahead")
        self._waiting: dict[int, Future[T]] = {}

    def get(self, step: int) -> T:
        """Return the value of a step; in order, it is there already."""
        wanted = range(step, step + self._num_threads + 1)
        for other in [other for other in self._waiting if other not in wanted]:
            self._waiting.pop(other).cancel()
        for number in wanted:
            if number not in self._waiting:
                self._waiting[number] = self._pool.submit(self._make, number)
        return self._waiting.pop(step).result()

    def close(self) -> None:
        """Let go of the threads and of what they have made."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._waiting.clear()
