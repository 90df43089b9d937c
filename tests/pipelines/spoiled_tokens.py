"""Token directories that are spoiled on purpose, where only a look inside can find it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parti_data.manifest import MANIFEST, read_manifest, record_shard
from parti_data.storage import digest_json
from parti_data.token_shard import TOKEN_ITEMS, ShardMetadata, read_metadata, read_row_group, token_schema

Change = Callable[[pa.Table, ShardMetadata], tuple[pa.Table, ShardMetadata]]


def edit_manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a manifest says."""
    manifest = json.loads((directory / MANIFEST).read_text())
    change(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest))


def restate(directory: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed."""

    def change(manifest: dict[str, Any]) -> None:
        for number, shard in enumerate(manifest["shards"]):
            if shard["name"] == name:
                manifest["shards"][number] = record_shard(str(directory), name, shard["rows"]).model_dump()

    edit_manifest(directory, change)


def shards_of(directory: Path) -> list[Path]:
    return [directory / shard.name for shard in read_manifest(str(directory)).shards]


def first_shard(directory: Path) -> Path:
    return shards_of(directory)[0]


def write_anyhow(path: Path, tables: list[pa.Table], metadata: ShardMetadata, **writing: Any) -> None:
    """Write each table as a row group, whatever is in it; as the format says unless told otherwise."""
    form: dict[str, Any] = {
        "use_dictionary": [TOKEN_ITEMS], "compression": "zstd", "write_statistics": ["key"],
        "write_page_checksum": True,
    }  # fmt: skip
    with pq.ParquetWriter(path, token_schema(metadata), **form | writing) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(len(table), 1))


def rewrite(directory: Path, change: Change, **writing: Any) -> None:
    """Put a changed table into the first shard, and the manifest right."""
    path = first_shard(directory)
    table, metadata = read_row_group(str(path), 0), read_metadata(str(path))[0]
    table, metadata = change(table, metadata)
    write_anyhow(path, [table], metadata, **writing)
    restate(directory, path.name)


def redescribe(directory: Path, **changes: Any) -> None:
    """Change the metadata of all shards, and the manifest's."""
    for path in shards_of(directory):
        table, metadata = read_row_group(str(path), 0), read_metadata(str(path))[0]
        write_anyhow(path, [table], metadata.model_copy(update=changes))
        restate(directory, path.name)
    edit_manifest(directory, lambda manifest: manifest["details"]["metadata"].update(changes))


def reconfigure(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the config that a directory was made with, as if it had been so."""
    edit_manifest(directory, lambda manifest: change(manifest["config"]))
    redescribe(directory, config_digest=digest_json(read_manifest(str(directory)).config))


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    return table.set_column(place, field, pa.array(values, field.type))


def with_tokens(table: pa.Table, codes: np.ndarray) -> pa.Table:
    return with_column(table, "image_tokens", codes.tolist())


def codes_of(table: pa.Table) -> np.ndarray:
    return np.array(table.column("image_tokens").to_pylist())
