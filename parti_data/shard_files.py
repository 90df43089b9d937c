"""The bytes of a directory's shards as local files, whole and as the manifest says, wherever the directory lies.

A shard on a local disk is opened in place, one of an object store is fetched into the cache first. Either way its size
is compared with the manifest's whenever it is opened, and its SHA-256 when it is first read on this machine.
"""

import re
from typing import BinaryIO

from parti_data.checked_files import CheckedFiles
from parti_data.errors import ShardError
from parti_data.manifest import MANIFEST, ShardRecord
from parti_data.shard_cache import CacheOptions, ShardCache
from parti_data.storage import is_disk, join, open_filesystem
from parti_data.token_directory import TokenDirectory

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ShardFiles:
    """Opens the shards of a directory; any number of threads and processes may at once."""

    def __init__(self, directory: TokenDirectory, cache: CacheOptions | None = None):
        options = cache or CacheOptions()
        self._directory = directory
        self._checked = CheckedFiles(options.folder() / "checked")
        filesystem, self._place = open_filesystem(directory.path)
        self._cache = None if is_disk(filesystem) else ShardCache(options, self._checked)

    def open(self, number: int, is_anew: bool = False) -> BinaryIO:
        """Return a seekable local file of a shard, which stays whole until it is closed whatever the cache removes.

        With `is_anew`, for a reader that found a damaged page, it is hashed again in any case, and a copy in the cache
        that turns out damaged is fetched again. Raises ShardError, with the shard's path, where the shard is missing or
        not as the manifest says; StorageError where the shard may be good, but its store cannot be read after
        `attempts`, or the cache cannot hold it.
        """
        shard = self._directory.shards[number]
        self._refuse_unnameable(shard)
        if self._cache:
            return self._cache.open(self._directory.shard_path(number), shard, is_anew)
        return self._checked.open(join(self._place, shard.name), shard, is_anew)

    def _refuse_unnameable(self, shard: ShardRecord) -> None:
        """Raise ShardError where a manifest from anywhere would lead to other folders."""
        if "/" in shard.name or "\0" in shard.name or not _SHA256.fullmatch(shard.sha256):
            raise ShardError(
                f"{join(self._directory.path, MANIFEST)}: expected shards by file name and SHA-256, found "
                f"{shard.name!r} with {shard.sha256[:80]!r}; get the directory anew from where it is whole"
            )
