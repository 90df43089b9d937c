"""Local shards that are hashed when first read on this machine, and taken for good as long as nobody changes them.

That one was good is remembered by an empty file, a marker, named by a hash of the shard's path, size, times, inode and
expected SHA-256. Whoever comes later, in this process or another, finds it and does not hash again; a shard that was
changed or replaced has none. A marker's own time is when the shard was last opened.
"""

import errno
import hashlib
import os
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from parti_data.errors import ShardError
from parti_data.manifest import ShardRecord
from parti_data.sole_writer import sole_writer

_SETTLED_S = 2.0
"""Younger files are not remembered: some disks count whole seconds, and would not show a change that comes now."""
_SWEEP_EVERY_S, _UNUSED_S = 24 * 3600.0, 90 * 24 * 3600.0
_SWEPT = "swept"
_BAD = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ESTALE, errno.ENXIO,
)  # fmt: skip
"""What tells that a shard is bad, and not for example that this process has too many files open."""
_REMEDY = "copy it again from where it is whole, or run its stage again"

_good: set[str] = set()
_hashing: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""By marker, of this process: for where markers cannot be written."""
os.register_at_fork(after_in_child=_hashing.clear)


class CheckedFiles:
    """Opens local shards that are as the manifest says. Markers lie in a folder, which need not be writable."""

    def __init__(self, folder: Path):
        self._folder = folder

    def open(self, path: str, shard: ShardRecord, is_anew: bool = False) -> BinaryIO:
        """Return the shard opened for reading; raises ShardError where it is bad.

        Its size is compared each time, its SHA-256 where there is no marker, or `is_anew`.
        """
        with _naming(path), ExitStack() as closing:
            file = closing.enter_context(_open_at_once(path))
            self._check(file, path, shard, is_anew)
            closing.pop_all()
            return file

    def remember(self, file: BinaryIO, path: str, shard: ShardRecord) -> None:
        """Take an open shard for good, which was hashed while it was written."""
        self._mark(self._marker(path, os.fstat(file.fileno()), shard.sha256))

    def remove(self, path: str, sha256: str) -> None:
        """Remove a shard, where it exists, and its marker."""
        with suppress(FileNotFoundError):
            marker = self._marker(path, os.stat(path), sha256)
            os.unlink(path)
            self._unmark(marker)

    def last_opened_s(self, path: str, sha256: str) -> float:
        """Return when a shard was last opened, as far as is known, in seconds since 1970; raises OSError."""
        status = os.stat(path)
        with suppress(OSError):
            return self._marker(path, status, sha256).stat().st_mtime
        return status.st_mtime

    def _check(self, file: BinaryIO, path: str, shard: ShardRecord, is_anew: bool) -> None:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ShardError(f"{path}: expected a shard that can be read, found a pipe or a device; {_REMEDY}")
        if status.st_size != shard.bytes:
            raise ShardError(
                f"{path}: expected {shard.bytes} bytes as the manifest says, found {status.st_size}; {_REMEDY}"
            )
        marker = self._marker(path, status, shard.sha256)
        if is_anew or not self._is_marked(marker):
            with self._only_one(marker):
                if is_anew or not self._is_marked(marker):
                    self._hash(file, path, shard, marker)

    def _hash(self, file: BinaryIO, path: str, shard: ShardRecord, marker: Path) -> None:
        before = os.fstat(file.fileno())
        found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        file.seek(0)
        if found != shard.sha256:
            self._unmark(marker)
            raise ShardError(
                f"{path}: expected SHA-256 {shard.sha256[:12]} as the manifest says, found {found[:12]}; {_REMEDY}"
            )
        is_settled = abs(time.time() - before.st_ctime) > _SETTLED_S
        if is_settled and _state(before) == _state(os.fstat(file.fileno())):
            self._mark(marker)

    def _marker(self, path: str, status: os.stat_result, sha256: str) -> Path:
        identity = f"{os.path.abspath(path)}\0{_state(status)}\0{sha256}"
        return self._folder / hashlib.sha256(os.fsencode(identity)).hexdigest()

    def _is_marked(self, marker: Path) -> bool:
        try:
            os.utime(marker)
        except FileNotFoundError:
            return marker.name in _good
        except OSError:  # it cannot be touched
            return marker.name in _good or marker.exists()
        return True

    def _mark(self, marker: Path) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            marker.touch()
            self._sweep()
        except OSError:
            _good.add(marker.name)

    def _unmark(self, marker: Path) -> None:
        _good.discard(marker.name)
        with suppress(OSError):
            marker.unlink()

    @contextmanager
    def _only_one(self, marker: Path) -> Iterator[None]:
        """Keep other processes of this machine, or at least other threads, from hashing the same shard meanwhile."""
        with ExitStack() as held:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(sole_writer(marker))
            except OSError:
                held.enter_context(_hashing[marker.name])
            yield

    def _sweep(self) -> None:
        """Remove, once a day, the markers of shards that nobody opened for long."""
        swept, now = self._folder / _SWEPT, time.time()
        if swept.exists() and now - swept.stat().st_mtime < _SWEEP_EVERY_S:
            return
        swept.touch()
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another was faster
                    if now - entry.stat().st_mtime > _UNUSED_S:
                        os.unlink(entry)


def _state(status: os.stat_result) -> tuple[int, ...]:
    """Return what no change of a file leaves as it is."""
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Raise ShardError where the block finds that a file cannot be read."""
    try:
        yield
    except OSError as error:
        if error.errno not in _BAD:
            raise
        found = "none" if error.errno in (errno.ENOENT, errno.ENOTDIR) else error.strerror
        raise ShardError(f"{path}: expected a shard that can be read, found {found}; {_REMEDY}") from error


def _open_at_once(path: str) -> BinaryIO:
    """Return the file opened; a pipe would wait for its other end."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
