"""A shard of an object store copied to a local file, whatever fails on the way."""

import hashlib
import os
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import BinaryIO, NamedTuple, TypeVar

from parti_data.errors import ShardError, SourceError, StorageError
from parti_data.manifest import ShardRecord
from parti_data.object_stores import is_refusal
from parti_data.storage import open_file

_BLOCK_BYTES = 8 << 20
"""Of one request."""
Result = TypeVar("Result")


class Patience(NamedTuple):
    """How often a request that fails is made, and how long is waited before it is made again."""

    attempts: int
    first_wait_s: float
    """Twice as long each time; give or take half of it, so that many machines do not come back at once."""

    def call(self, function: Callable[[], Result]) -> Result:
        """Return what a function returns once it raises no StorageError; a refusal is not tried again."""
        for attempt in range(self.attempts - 1):
            try:
                return function()
            except StorageError as error:
                if is_refusal(error):
                    raise
            time.sleep(self.first_wait_s * 2**attempt * random.uniform(0.5, 1.5))
        return function()


def fetch(path: str, shard: ShardRecord, file: BinaryIO, patience: Patience) -> None:
    """Write a shard's bytes to a local file, and that to its disk; what differs from the manifest is fetched once more.

    Raises ShardError where the store holds none, or another, and StorageError where the store cannot be read.
    """
    differs = _copy(path, shard, file, patience) and _copy(path, shard, file, patience)
    if differs:
        raise ShardError(
            f"{path}: expected {shard.bytes} bytes with SHA-256 {shard.sha256[:12]} as the manifest says, found "
            f"{differs} in the store; copy it there again from where it is whole, or run its stage again"
        )
    file.flush()
    os.fsync(file.fileno())


def _copy(path: str, shard: ShardRecord, file: BinaryIO, patience: Patience) -> str:
    """Return what is found that differs from the manifest; nothing where the copy is good."""
    digest, source = hashlib.sha256(), _Source(path)
    file.seek(0)
    try:
        while block := patience.call(partial(source.read, min(_BLOCK_BYTES, shard.bytes + 1 - source.place))):
            digest.update(block)
            file.write(block)
    except FileNotFoundError:
        raise ShardError(
            f"{path}: expected a shard of {shard.bytes} bytes, found none in the store; copy it there again from where "
            "it is whole, or run its stage again"
        ) from None
    except SourceError:
        return "one that changes while it is read"
    finally:
        source.close()
    file.truncate()
    if source.place != shard.bytes:
        return f"more than {shard.bytes} bytes" if source.place > shard.bytes else f"{source.place} bytes"
    return "" if digest.hexdigest() == shard.sha256 else f"SHA-256 {digest.hexdigest()[:12]}"


class _Source:
    """An object that is read from its start to its end, and opened anew after a failure."""

    def __init__(self, path: str):
        self._path = path
        self._file: BinaryIO | None = None
        self.place = 0
        """Up to where it was read."""

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end."""
        with ExitStack() as closing:
            closing.callback(self.close)
            if self._file is None:
                self._file = open_file(self._path, cache_type="none")
            self._file.seek(self.place)
            block = self._file.read(size)
            closing.pop_all()
        self.place += len(block)
        return block

    def close(self) -> None:
        """Let go of the object."""
        if self._file is not None:
            self._file.close()
        self._file = None
