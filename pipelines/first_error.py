"""The first error in a worker of this machine ends the other workers at their next step, and is the one that is told.

Beam reads what its threads return in their order, so without this the error of a late one would be told once all before
it had done their whole share. What is finished stays finished.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from parti_data.step_times import ends_with

_errors: list[Exception] | None = None
"""Of the run that this process is at; None outside of one, as in a worker elsewhere, whose engine may try again."""


@contextmanager
def tells_first_error() -> Iterator[None]:
    """Raise, where the block does, the first error of its workers: of one run at a time in a process."""
    global _errors
    before, _errors = _errors, (errors := [])
    try:
        yield
    except Exception:
        if errors:
            raise errors[0] from None
        raise
    finally:
        _errors = before


def ends_others():
    """Return the block in which a worker ends once another has failed, and ends the others where it fails."""
    return nullcontext() if _errors is None else ends_with(_errors)
