"""What a thread opened last, kept open for its next call: who fetches in order opens each file once."""

import os
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from parti_data.storage import file_version


class Closable(Protocol):
    """What can be kept open."""

    def close(self) -> None:
        """Give back what it holds."""
        ...


Reader = TypeVar("Reader", bound=Closable)


class _Held(Generic[Reader]):
    """A reader that is closed when it is let go, by the end of its thread too."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def __del__(self):
        self.reader.close()


class LastOpened(threading.local, Generic[Reader]):
    """One reader a thread: asked for another file, or for one that has changed, it closes the one that it has.

    So no two threads share a reader, and as many are open as there are threads.
    """

    def __init__(self, open_reader: Callable[..., Reader]):
        self._open_reader = open_reader
        self._held: _Held[Reader] | None = None
        self._key: tuple[object, ...] = ()

    def get(self, path: str, *options: object) -> Reader:
        """Return the reader of a file; `open_reader(path, *options)` where it is not the one that is open."""
        key = (os.getpid(), path, file_version(path), options)  # a child process must not move its parent's file
        if self._held is None or key != self._key:
            self._held, self._key = None, ()
            self._held, self._key = _Held(self._open_reader(path, *options)), key
        return self._held.reader
