"""Counts the moments at which a directory changes, and stops at one of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from parti_data import storage
from pipelines.forget import forget_rows, swap


class StoppedError(BaseException):
    """Stands for a kill: nothing catches it."""


def raise_stopped() -> None:
    raise StoppedError


@contextmanager
def stop_at(moment: int, stop: Callable[[], None] = raise_stopped) -> Iterator[Callable[[], int]]:
    """While the block runs, stop at a moment (-1: never); yield what says how many have passed."""
    passed = 0

    def pass_moment() -> None:
        nonlocal passed
        passed += 1
        if passed == moment + 1:
            stop()

    publish_local = storage._publish_local

    @contextmanager
    def publish_or_stop(path):
        pass_moment()
        with publish_local(path) as file:
            yield file
            file.flush()
            pass_moment()
        pass_moment()

    def or_stop(change: Callable) -> Callable:
        def changed(*paths: str) -> None:
            pass_moment()
            change(*paths)
            pass_moment()

        return changed

    before = swap.move, swap.remove, forget_rows.remove
    storage._publish_local = publish_or_stop
    swap.move, swap.remove, forget_rows.remove = map(or_stop, before)
    try:
        yield lambda: passed
    finally:
        storage._publish_local = publish_local
        swap.move, swap.remove, forget_rows.remove = before
