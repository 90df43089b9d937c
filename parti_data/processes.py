"""A function worked out by other processes, in order, a bounded number at a time: for what one process is too slow for.

They are started afresh, import only what the function needs, live as long as this process and end with it, however it
ends.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import Any, TypeVar

from parti_data.errors import EngineError
from parti_data.step_times import StepTimes, add_steps, paused, take_steps

Result = TypeVar("Result")
_CALLS_AHEAD = 4
"""For each process."""
_LOOK_EVERY_S = 0.2
_starting = threading.Lock()


def map_in_processes(
    function: Callable[..., Result], calls: Iterable[tuple[Any, ...]], processes: int
) -> Generator[Result, None, None]:
    """Yield what a function returns for each tuple of arguments; an error of its is raised where its result would come.

    What its steps took counts for the caller's. Raises EngineError where a process is killed.
    """
    with _starting:
        pool = _pool(processes)
    waiting: deque[Future[tuple[Result, StepTimes]]] = deque()
    try:
        for call in calls:
            waiting.append(pool.submit(_work, function, call))
            if len(waiting) == _CALLS_AHEAD * processes:
                yield _finish(waiting.popleft())
        while waiting:
            yield _finish(waiting.popleft())
    except BrokenProcessPool:
        _pool.cache_clear()
        raise EngineError(
            "a process that decodes: expected it to work to the end, found it gone: killed, most often for want of "
            "memory, or never started, since it could not import the main program anew; free memory or use fewer "
            "decode_processes, call parti from a file under `if __name__ == '__main__':`, then run it again"
        ) from None
    finally:
        for future in waiting:
            future.cancel()


def _finish(future: Future[tuple[Result, StepTimes]]) -> Result:
    with paused():
        result, steps = future.result()
    add_steps(steps)
    return result


def _work(function: Callable[..., Result], call: tuple[Any, ...]) -> tuple[Result, StepTimes]:
    take_steps()  # of a call that failed
    return function(*call), take_steps()


@lru_cache(maxsize=1)
def _pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), end_with_parent, (os.getpid(),))


def end_with_parent(parent: int) -> None:
    """End this process once its parent, of this id, has ended, however that ends; Ctrl-C is the parent's to follow."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
