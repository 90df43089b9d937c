"""The token shards to look at: those of a finished directory, or one file."""

from typing import NamedTuple

from parti_data.code_counts import RowGroup
from parti_data.errors import ShardError
from parti_data.manifest import Manifest
from parti_data.shard_footer import Footer, read_footer
from parti_data.storage import file_size, is_directory, is_file
from parti_data.token_directory import open_token_directory
from parti_data.token_shard import ShardMetadata, read_metadata

MOST_GROUP_BYTES = 1 << 30
"""A row group with more, before compression, is not read: other rows than ours, or a file that lies."""


class ShardFile(NamedTuple):
    """One token shard."""

    path: str
    rows: int
    num_bytes: int
    num_groups: int


class ShardSet(NamedTuple):
    """Token shards of one making, in order; a file alone has no manifest."""

    path: str
    manifest: Manifest | None
    digest: str
    """Of the manifest."""
    metadata: ShardMetadata
    files: list[ShardFile]

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.num_bytes for file in self.files)

    def row_groups(self) -> list[RowGroup]:
        """Return all row groups, as the manifest or the one file tells them."""
        return [RowGroup(file.path, number) for file in self.files for number in range(file.num_groups)]


def open_shards(path: str) -> ShardSet:
    """Return the token shards of a directory, or of one file; raises ShardError where there are none."""
    if is_file(path):
        metadata, groups = read_metadata(path)
        return ShardSet(path, None, "", metadata, [ShardFile(path, sum(groups), file_size(path), len(groups))])
    if not is_directory(path):
        raise ShardError(
            f"{path}: expected a directory of token shards or one of its files, found none; check the path"
        )
    tokens = open_token_directory(path)
    files = [
        ShardFile(tokens.shard_path(number), shard.rows, shard.bytes, -(-shard.rows // tokens.row_group_rows))
        for number, shard in enumerate(tokens.shards)
    ]
    return ShardSet(path, tokens.manifest, tokens.digest, tokens.metadata, files)


def spread_groups(groups: list[RowGroup], at_most: int) -> list[RowGroup]:
    """Return at most so many row groups, from the first one on, evenly over all."""
    count = min(len(groups), at_most)
    return [groups[number * len(groups) // count] for number in range(count)]


def checked_footer(shards: ShardSet, group: RowGroup) -> Footer:
    """Return the footer of a row group's shard.

    Raises ShardError where the shard is not as the manifest states, or has row groups too large to read.
    """
    path, file = group.path, next(file for file in shards.files if file.path == group.path)
    metadata, _ = read_metadata(path)
    footer = read_footer(path)
    if metadata != shards.metadata:
        raise ShardError(
            f"{path}: expected the metadata that the manifest states, found other; see parti verify {shards.path}"
        )
    rows, groups = sum(footer.group_rows), len(footer.group_rows)
    if (rows, groups) != (file.rows, max(file.num_groups, 1)):
        raise ShardError(
            f"{path}: expected {file.rows} rows in {file.num_groups} row groups as the manifest states, found "
            f"{rows} in {groups}; see parti verify {shards.path}"
        )
    if (largest := max([*footer.group_bytes, 0])) > MOST_GROUP_BYTES:
        raise ShardError(
            f"{path}: expected row groups of at most {MOST_GROUP_BYTES} bytes, found one of {largest}; write it in "
            "smaller ones"
        )
    return footer
