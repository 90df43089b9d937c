"""Local files of a directory's shards, whole and as the manifest says; checked when first read."""

from typing import BinaryIO

from parti_data.errors import ShardError
from parti_data.storage import file_size, is_file, open_file, sha256_file
from parti_data.token_directory import TokenDirectory


class ShardFiles:
    """Local files of a directory's shards, whole and as the manifest says; checked when first read."""

    def __init__(self, directory: TokenDirectory):
        self._directory = directory
        self._good: set[int] = set()

    def open(self, number: int) -> BinaryIO:
        """Return a seekable local file of a shard; raises ShardError that names it."""
        path, record = self._directory.shard_path(number), self._directory.shards[number]
        if not is_file(path):
            raise ShardError(f"{path}: expected a file of {record.bytes} bytes, found none")
        if file_size(path) != record.bytes:
            raise ShardError(f"{path}: expected {record.bytes} bytes, found {file_size(path)}")
        if number not in self._good:
            if (found := sha256_file(path)) != record.sha256:
                raise ShardError(f"{path}: expected SHA-256 {record.sha256[:12]}, found {found[:12]}")
            self._good.add(number)
        return open_file(path)
