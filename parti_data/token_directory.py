"""A finished directory of token shards, whichever stage wrote it: what its manifest tells without opening a shard."""

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
from pydantic import ValidationError

from parti_data.errors import ShardError
from parti_data.manifest import Manifest, ShardRecord, manifest_digest, read_manifest
from parti_data.storage import join
from parti_data.token_shard import ROW_GROUP_ROWS, ShardMetadata, read_metadata, read_row_group

STAGES = ("tokenize", "import_tokens")
"""What writes token shards."""
METADATA, ROW_GROUP = "metadata", "row_group_rows"
"""What such a stage's manifest has among its details."""
MOST_CLASSES = 1 << 16
"""Distinct captions that may be classes."""
_MOST_NAME_BYTES = 1 << 24
"""Of all of them: they stand in the header of a prior's file, which safetensors reads up to 100 MB of."""
_SHOWN_GROUPS = 8
_MOST_GROUPS = 1 << 24
"""Sixty-nine billion rows of ours; who claims more would fill the memory of whoever lists them."""


class TokenDirectory(NamedTuple):
    """Token shards of one making."""

    path: str
    digest: str
    """Of the manifest: by this later stages know the directory."""
    manifest: Manifest
    metadata: ShardMetadata
    """Of every shard."""
    row_group_rows: int
    """Rows of each row group but the last of a shard."""

    @property
    def shards(self) -> list[ShardRecord]:
        """What the manifest says of each shard, in order."""
        return self.manifest.shards

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    def shard_path(self, number: int) -> str:
        """Return where a shard lies."""
        return join(self.path, self.shards[number].name)

    def group_rows(self, number: int) -> list[int]:
        """Return the rows of each row group of a shard, as its number of rows tells."""
        rows, size = self.shards[number].rows, self.row_group_rows
        return [min(size, rows - first) for first in range(0, rows, size)] or [0]


def open_token_directory(path: str) -> TokenDirectory:
    """Return a finished directory of token shards; raises ShardError where it is none."""
    manifest = read_manifest(path, STAGES)
    try:
        metadata = ShardMetadata.model_validate(manifest.details.get(METADATA))
    except ValidationError as error:
        raise ShardError(
            f"{path}: expected a manifest with the metadata of token shards, found {error.errors()[0]['msg']}; "
            f"run {manifest.stage} again"
        ) from None
    row_group_rows = manifest.details.get(ROW_GROUP, ROW_GROUP_ROWS)
    if not isinstance(row_group_rows, int) or row_group_rows < 1:
        raise ShardError(
            f"{path}: expected a manifest with {ROW_GROUP} of at least 1, found {row_group_rows!r}; run "
            f"{manifest.stage} again"
        )
    if (num_groups := sum(-(-shard.rows // row_group_rows) for shard in manifest.shards)) > _MOST_GROUPS:
        raise ShardError(
            f"{path}: expected a manifest with at most {_MOST_GROUPS} row groups, found {num_groups}; write shards "
            "with larger ones"
        )
    return TokenDirectory(path, manifest_digest(path), manifest, metadata, row_group_rows)


def checked_groups(tokens: TokenDirectory, number: int) -> list[int]:
    """Return the rows of each row group of a shard, from its footer; raises ShardError where the manifest differs."""
    metadata, groups = read_metadata(tokens.shard_path(number))
    refuse_unlike_manifest(tokens, number, metadata, groups)
    return groups


def refuse_unlike_manifest(tokens: TokenDirectory, number: int, metadata: ShardMetadata, groups: list[int]) -> None:
    """Raise ShardError where a shard's metadata or row groups are not what the manifest states."""
    path, remedy = tokens.shard_path(number), f"run {tokens.manifest.stage} into a new directory"
    for field in ShardMetadata.model_fields:
        stated, found = getattr(tokens.metadata, field), getattr(metadata, field)
        if stated != found:
            raise ShardError(f"{path}: expected {field} {stated} as the manifest states, found {found}; {remedy}")
    if groups != (stated := tokens.group_rows(number)):
        raise ShardError(
            f"{path}: expected row groups of {say_groups(stated)} rows as the manifest states, found "
            f"{say_groups(groups)}; {remedy}"
        )


def say_groups(groups: list[int]) -> str:
    """Return the rows of row groups in words, of many those of the first."""
    shown = ", ".join(map(str, groups[:_SHOWN_GROUPS])) or "no"
    return shown if len(groups) <= _SHOWN_GROUPS else f"{shown} and {len(groups) - _SHOWN_GROUPS} more"


def read_rows(tokens: TokenDirectory, first: int, last: int) -> Iterator[pa.Table]:
    """Yield the rows from number `first` to before `last` of all shards, a row group or a part of one at a time."""
    start = 0
    for number, shard in enumerate(tokens.shards):
        if max(first, start) < min(last, start + shard.rows):
            group_start = start
            for group, rows in enumerate(checked_groups(tokens, number)):
                low, high = max(first - group_start, 0), min(last - group_start, rows)
                if low < high:
                    yield read_row_group(tokens.shard_path(number), group).slice(low, high - low)
                group_start += rows
        start += shard.rows


def class_names(directories: list[TokenDirectory]) -> list[str]:
    """Return the distinct captions of all rows, in order; raises ShardError where they are too many, or too long, for
    names of classes, or a row has none.
    """
    names: set[str] = set()
    for tokens in directories:
        for number in range(len(tokens.shards)):
            for group in range(len(checked_groups(tokens, number))):
                captions = read_row_group(tokens.shard_path(number), group, ["captions"]).column("captions")
                names.update(*(chunk.flatten().unique().to_pylist() for chunk in captions.chunks))
                _refuse_no_classes(tokens, captions, names)
    return sorted(names)


def _refuse_no_classes(tokens: TokenDirectory, captions: pa.ChunkedArray, names: set[str]) -> None:
    if not all(chunk.value_lengths().to_numpy().all() for chunk in captions.chunks):
        raise ShardError(
            f"{tokens.path}: expected a caption that names the class of each row, found a row without; tokenize pairs "
            "with captions, or train without class_conditional"
        )
    if len(names) > MOST_CLASSES:
        raise ShardError(
            f"{tokens.path}: expected captions that name at most {MOST_CLASSES} classes, found more; train without "
            "class_conditional"
        )
    if (num_bytes := sum(len(name.encode()) for name in names)) > _MOST_NAME_BYTES:
        raise ShardError(
            f"{tokens.path}: expected captions that name classes in {_MOST_NAME_BYTES} bytes together, found "
            f"{num_bytes}; train without class_conditional"
        )
