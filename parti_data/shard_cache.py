"""Shards of object stores kept on a local disk: each fetched once a machine, those not opened for longest removed.

A copy is `shards/SHA256.parquet` in the cache's folder: whatever directory it came from, the bytes are the same.
"""

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydantic import Field

from parti_data.checked_files import CheckedFiles
from parti_data.config import StrictModel
from parti_data.errors import ConfigError, ShardError, StorageError
from parti_data.fetch import Patience, fetch
from parti_data.manifest import ShardRecord
from parti_data.sole_writer import PART, remove_abandoned, sole_writer

DEFAULT_MAX_BYTES = 64 << 30
_KEPT = re.compile(r"([0-9a-f]{64})\.parquet")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EEXIST, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)
_LOOK_AGAIN_S = 0.1
_MAX_WAIT_S = 300.0
"""For others' fetches to end; a process with a larger bound could else keep one with a smaller bound from its turn."""


class CacheOptions(StrictModel):
    """Where shards of object stores are kept on this machine, how much of them, and how patiently they are fetched."""

    path: str | None = None
    """A folder of a local disk; else $PARTI_CACHE, $XDG_CACHE_HOME/parti or ~/.cache/parti."""
    max_bytes: int | None = Field(default=None, gt=0)
    """Of all shards kept; else 64 GiB, or half of what they and the disk's free space are together if that is less."""
    attempts: int = Field(default=5, ge=1)
    """How often a request that fails is made."""
    first_wait_s: float = Field(default=1.0, ge=0)
    """Before it is made again; twice as long each time."""

    def folder(self) -> Path:
        """Return where the cache is; raises ConfigError where that is no local path."""
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        chosen = self.path or os.environ.get("PARTI_CACHE") or f"{base}/parti"
        if "://" in chosen:
            raise ConfigError(
                f"{chosen}: expected a cache on a local disk, found a URL; give a folder by cache.path or PARTI_CACHE"
            )
        found = os.path.expanduser(chosen)
        return Path(os.devnull, "parti") if found.startswith("~") else Path(os.path.abspath(found))  # no home: none


class ShardCache:
    """The copies of one machine, which all its processes share."""

    def __init__(self, options: CacheOptions, checked: CheckedFiles):
        self._folder, self._checked = options.folder() / "shards", checked
        self._max_bytes, self._patience = options.max_bytes, Patience(options.attempts, options.first_wait_s)

    def open(self, path: str, shard: ShardRecord, is_anew: bool = False) -> BinaryIO:
        """Return a local copy of a store's shard, fetched where there is none, or a damaged one.

        Hashed again first where `is_anew`. Raises ShardError where the store's shard is bad, StorageError where it
        cannot be fetched or kept.
        """
        kept = self._folder / f"{shard.sha256}.parquet"
        with suppress(ShardError):
            return self._checked.open(str(kept), shard, is_anew)
        with self._naming(path), self._sole_writer(kept) as part:
            with suppress(ShardError):
                return self._checked.open(str(kept), shard)  # another was faster
            self._checked.remove(str(kept), shard.sha256)
            self._reserve(path, shard.bytes, part)
            fetch(path, shard, part, self._patience)
            return self._keep(part, kept, shard)

    @contextmanager
    def _sole_writer(self, kept: Path) -> Iterator[BinaryIO]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(kept) as part:
            yield part

    def _keep(self, part: BinaryIO, kept: Path, shard: ShardRecord) -> BinaryIO:
        with ExitStack() as closing:
            place = f"/dev/fd/{part.fileno()}"  # by number: whatever becomes of the name
            file = closing.enter_context(_open_as(kept, place))
            with suppress(FileNotFoundError), _locked(self._folder):  # else who counts might miss it under both names
                os.replace(part.name, kept)
            self._checked.remember(file, str(kept), shard)
            closing.pop_all()
            return file

    def _reserve(self, path: str, size: int, part: BinaryIO) -> None:
        """Give a file its size once there is room for it, for which the least recently opened shards go."""
        deadline = time.monotonic() + _MAX_WAIT_S
        while not self._try_to_reserve(path, size, part, time.monotonic() > deadline):
            time.sleep(_LOOK_AGAIN_S)

    def _try_to_reserve(self, path: str, size: int, part: BinaryIO, is_late: bool) -> bool:
        with _locked(self._folder):
            found = self._contents()
            bound = self._bound(found)
            if size > bound:
                raise StorageError(
                    f"{path}: expected a shard that a cache of at most {bound} bytes in {self._folder} holds, found "
                    f"{size} bytes; choose a larger cache.max_bytes, or by PARTI_CACHE a disk with more room"
                )
            if found.coming_bytes + size > bound and not is_late:
                return False
            over = found.num_bytes + size - bound
            for kept in sorted(found.kept):
                if over <= 0:
                    break
                self._checked.remove(str(kept.path), kept.path.stem)
                over -= kept.num_bytes
            part.truncate(size)
        return True

    def _bound(self, found: "_Contents") -> int:
        free = shutil.disk_usage(self._folder).free
        return self._max_bytes or min(DEFAULT_MAX_BYTES, (free + found.num_bytes) // 2)

    def _contents(self) -> "_Contents":
        kept, coming_bytes = [], 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # it has just been published, or removed
                    if match := _KEPT.fullmatch(entry.name):
                        last_s = self._checked.last_opened_s(entry.path, match[1])
                        kept.append(_Kept(last_s, Path(entry.path), entry.stat().st_size))
                    elif entry.name.endswith(PART) and not remove_abandoned(Path(entry.path)):
                        coming_bytes += entry.stat().st_size
        return _Contents(kept, coming_bytes)

    @contextmanager
    def _naming(self, path: str) -> Iterator[None]:
        """Raise StorageError where the block finds that the cache's disk is full or cannot be written."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise StorageError(
                    f"{path}: expected room for it in {self._folder}, found none left on the disk; free some or choose "
                    "another disk by cache.path or PARTI_CACHE"
                ) from error
            if error.errno in _NOT_WRITABLE:
                raise StorageError(
                    f"{path}: expected to keep it in {self._folder}, found {error.strerror}; choose a folder that can "
                    "be written by cache.path or PARTI_CACHE"
                ) from error
            raise


class _Kept(NamedTuple):
    last_opened_s: float
    path: Path
    num_bytes: int


class _Contents(NamedTuple):
    """What a cache holds."""

    kept: list[_Kept]
    coming_bytes: int
    """Of what is being fetched."""

    @property
    def num_bytes(self) -> int:
        return self.coming_bytes + sum(kept.num_bytes for kept in self.kept)


def _open_as(path: Path, place: str) -> BinaryIO:
    return open(path, "rb", opener=lambda _, flags: os.open(place, flags))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one at a time into the block; on shared disks that lock no folders, all."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
