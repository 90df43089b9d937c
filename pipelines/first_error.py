"""The first error in a worker of this machine ends the other workers at their next step, and is the one that is told.

Beam reads what its workers return in their order, so without this the error of a late one would be told once all before
it had done their whole share. What is finished stays finished. Threads share a list, processes a file too, which is
there once one has failed.
"""

import os
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from uuid import uuid4

from parti_data.step_times import EndedEarlyError, ends_with

_PLACE = "PARTI_FIRST_ERROR"
"""Of the environment: tells the processes of a run where that file is to be."""
_LOOK_EVERY_S = 0.2


class _Errors(list[Exception]):
    """The errors of a process, the first of them written down for the other processes unless one has its own there."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.is_written = path, False

    def append(self, error: Exception) -> None:
        """Add an error."""
        super().append(error)
        new = self.path.with_suffix(f".{uuid4().hex}")
        with suppress(OSError):  # another was first, or there is no room
            new.write_text("".join(traceback.format_exception(error)), "utf-8", "backslashreplace")
            os.link(new, self.path)
            self.is_written = True
        new.unlink(missing_ok=True)


_errors: _Errors | None = None
"""Of the run that this process is at; None outside of one, as in a worker elsewhere, whose engine may try again."""


@contextmanager
def tells_first_error() -> Iterator[None]:
    """Raise, where the block does, the first error of its workers: of one run at a time in a process.

    That of another process comes as a RuntimeError with its traceback.
    """
    global _errors
    path = Path(tempfile.gettempdir(), f"parti-{uuid4().hex}")
    before, _errors = _errors, (errors := _Errors(path))
    os.environ[_PLACE] = str(path)
    try:
        yield
    except Exception:
        if path.exists() and not errors.is_written:
            raise RuntimeError(path.read_text("utf-8")) from None
        if errors:
            raise errors[0] from None
        raise
    finally:
        _errors = before
        os.environ.pop(_PLACE, None)
        path.unlink(missing_ok=True)


def share_errors() -> None:
    """Share the errors of this process, which a run has started, with the others of that run."""
    global _errors
    if _PLACE not in os.environ:
        return  # Beam ran the pipeline, not `run`
    _errors = errors = _Errors(Path(os.environ[_PLACE]))

    def watch() -> None:
        while not errors.path.exists():
            time.sleep(_LOOK_EVERY_S)
        errors.append(EndedEarlyError())

    threading.Thread(target=watch, daemon=True).start()


def note_error(error: BaseException | None) -> None:
    """End the workers of this process's run for an error that none of them can tell."""
    if _errors is not None and isinstance(error, Exception):
        _errors.append(error)


def ends_others() -> AbstractContextManager[None]:
    """Return the block in which a worker ends once another has failed, by EndedEarlyError, and ends the others where it
    fails itself.
    """
    return nullcontext() if _errors is None else ends_with(_errors)
