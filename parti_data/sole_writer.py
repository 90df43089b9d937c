"""A local file that one process of a machine makes while the others wait for it, and that appears whole or not at all.

It is written beside its place, under `.part`, by whoever holds that file's lock, and renamed. A killed process lets go
of the lock, so the next one starts anew, and `remove_abandoned` tells what the killed left from what is being written.
"""

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PART = ".part"
_NO_LOCKS = (errno.EBADF, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
_LOCK_TRIES = 100
_ABANDONED_S = 24 * 3600
"""How old a file is whose writer is surely gone, on a disk without locks."""


@contextmanager
def sole_writer(path: Path) -> Iterator[BinaryIO]:
    """Yield an empty file to write and then to rename, once no other process and no other thread has it.

    By then another may have made what is wanted: look first. A file that still has its name when the block ends is
    removed. On a disk without locks nobody waits, and each writes its own. Raises OSError.
    """
    file = _lock(path.with_name(path.name + PART))
    try:
        file.truncate(0)  # it may be a killed writer's
        yield file
    finally:
        if _is_at(file, Path(file.name)):
            os.unlink(file.name)
        _unlock(file)


def remove_abandoned(part: Path) -> bool:
    """Remove what a killed writer left; return whether it is gone, rather than being written."""
    try:
        with part.open("r+b") as file:
            if _is_abandoned(file) and _is_at(file, part):
                part.unlink()
                return True
    except FileNotFoundError:
        return True
    except OSError:  # another user's
        return False
    return False


def _is_abandoned(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS and time.time() - os.fstat(file.fileno()).st_mtime > _ABANDONED_S
    return True


def _lock(part: Path) -> BinaryIO:
    for _ in range(_LOCK_TRIES):
        file = _open(part)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            file.close()
            part.unlink(missing_ok=True)
            if error.errno not in _NO_LOCKS:
                raise
            break
        if _is_at(file, part):
            return file
        _unlock(file)  # it was renamed by now, or given up
    return part.with_name(f"{part.stem}.{uuid.uuid4().hex}{PART}").open("x+b")


def _open(part: Path) -> BinaryIO:
    """Return the file as it is: what it holds may be another's, at work."""
    return open(part, "w+b", opener=lambda path, flags: os.open(path, flags & ~os.O_TRUNC, 0o666))


def _is_at(file: BinaryIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _unlock(file: BinaryIO) -> None:
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to a child that was forked meanwhile
    file.close()
