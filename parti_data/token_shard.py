"""Token shards: the Parquet files that hold what the prior trains on. Format version 1.

A row is one view of an image: `key`, `view`, `box`, `flipped`, `captions`, `text_ids` (one list a caption),
`image_tokens` in raster order, `source`, `source_key`. Items are never null. Tokens are dictionary-encoded, which
packs them in ceil(log2 V) bits each, and zstd takes what the list levels and skewed codes leave; only `key` has
statistics; pages carry checksums; row groups have `ROW_GROUP_ROWS` rows. The schema's metadata says which tokenizers
made the ids: see `ShardMetadata`. Any Parquet reader opens it.
"""

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from parti_data.errors import ShardError
from parti_data.storage import open_file, publish

FORMAT_VERSION = 1
ROW_GROUP_ROWS = 4096
_METADATA_KEY = b"parti"
_NOTE_KEY = b"parti_note"
_BLOCK_BYTES = 1 << 18
"""Read ahead of an object store: a row group is a few ranges, each asked for whole, and what follows is another's."""
_TOKEN_ITEMS = "image_tokens.list.element"


class ShardMetadata(BaseModel):
    """What made a shard's tokens, as JSON under the schema metadata key `parti`."""

    format_version: int = FORMAT_VERSION
    image_tokenizer: str
    """Fingerprint."""
    image_tokenizer_name: str
    codebook_size: int
    grid_side: int
    num_quantizers: int = 1
    """Tokens a position; those of one stand together."""
    image_side: int
    resize_recipe: str
    resize_library: str
    precision: str
    """Of the image tokenizer's encoder."""
    device: str = "cpu"
    backend: str = "torch"
    """The library that ran the encoder."""
    compile: bool = False
    """Whether torch compiled the encoder."""
    text_tokenizer: str
    """Fingerprint."""
    text_vocabulary_size: int
    config_digest: str
    input_digest: str

    @property
    def num_tokens(self) -> int:
        """Image tokens a row."""
        return self.grid_side**2 * self.num_quantizers


class TokenRow(NamedTuple):
    """One view of an image, tokenized."""

    key: str
    view: int
    box: list[int]
    flipped: bool
    captions: list[str]
    text_ids: list[list[int]]
    image_tokens: np.ndarray
    source: str
    source_key: str


def _items(item: pa.DataType) -> pa.Field:
    return pa.field("element", item, nullable=False)


def token_schema(metadata: ShardMetadata) -> pa.Schema:
    """Return the schema of a shard, its metadata included."""
    tokens = pa.uint16() if metadata.codebook_size <= 1 << 16 else pa.uint32()
    text_ids = pa.uint16() if metadata.text_vocabulary_size <= 1 << 16 else pa.uint32()
    columns = [
        ("key", pa.string()),
        ("view", pa.uint8()),
        ("box", pa.list_(_items(pa.int32()), 4)),
        ("flipped", pa.bool_()),
        ("captions", pa.list_(_items(pa.string()))),
        ("text_ids", pa.list_(_items(pa.list_(_items(text_ids))))),
        ("image_tokens", pa.list_(_items(tokens), metadata.num_tokens)),
        ("source", pa.string()),
        ("source_key", pa.string()),
    ]
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns]
    return pa.schema(fields, {_METADATA_KEY: metadata.model_dump_json().encode()})


def to_table(rows: list[TokenRow], metadata: ShardMetadata) -> pa.Table:
    """Return rows as an Arrow table; the tokens pass as one array."""
    schema = token_schema(metadata)
    tokens_type = schema.field("image_tokens").type
    numpy_type = np.uint16 if tokens_type.value_type == pa.uint16() else np.uint32
    flat = np.concatenate([row.image_tokens for row in rows] or [np.empty(0)]).astype(numpy_type)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=tokens_type)
    columns = [
        tokens if field.name == "image_tokens" else pa.array([getattr(row, field.name) for row in rows], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def write_tables(path: str, tables: list[pa.Table], metadata: ShardMetadata, note: str = "") -> None:
    """Write each table as a row group of one file, whole or not at all; a note stands in its footer."""
    writing: dict[str, Any] = {
        "version": "2.6",
        "data_page_version": "1.0",
        "use_dictionary": [_TOKEN_ITEMS],
        "compression": "zstd",
        "compression_level": 1,
        "write_statistics": ["key"],
        "write_page_checksum": True,
    }
    with publish(path) as file, pq.ParquetWriter(file, token_schema(metadata), **writing) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(len(table), 1))
        if note:
            writer.add_key_value_metadata({_NOTE_KEY: note})


def write_token_shard(path: str, table: pa.Table, metadata: ShardMetadata) -> None:
    """Write a token shard in row groups of `ROW_GROUP_ROWS`."""
    starts = range(0, max(len(table), 1), ROW_GROUP_ROWS)
    write_tables(path, [table.slice(start, ROW_GROUP_ROWS) for start in starts], metadata)


def read_metadata(path: str) -> tuple[ShardMetadata, list[int]]:
    """Return a shard's metadata and the rows of each row group, from its footer; raises ShardError."""
    try:
        with open_file(path) as file:
            footer = pq.ParquetFile(file)
            schema, parquet = footer.schema_arrow, footer.metadata
            rows = [parquet.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(f"{path}: expected a token shard, found {error}; run tokenize again") from None
    content: Any = (schema.metadata or {}).get(_METADATA_KEY)
    try:
        metadata = ShardMetadata.model_validate(json.loads(content or b"null"))
    except (ValueError, ValidationError):
        raise ShardError(
            f"{path}: expected a token shard, found a Parquet file without the metadata 'parti'; check the path"
        ) from None
    if metadata.format_version != FORMAT_VERSION:
        raise ShardError(f"{path}: expected format version {FORMAT_VERSION}, found {metadata.format_version}")
    if not schema.equals(token_schema(metadata)):
        raise ShardError(f"{path}: expected the columns of a token shard, found {', '.join(schema.names)}")
    return metadata, rows


def read_note(path: str) -> str:
    """Return the note in a file's footer, empty where there is none; raises ShardError."""
    try:
        with open_file(path) as file:
            return (pq.ParquetFile(file).metadata.metadata or {}).get(_NOTE_KEY, b"").decode()
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(f"{path}: expected a token shard, found {error}; run tokenize again") from None


def read_row_group(path: str, group: int, columns: list[str] | None = None) -> pa.Table:
    """Return one row group, page checksums checked; raises ShardError."""
    try:
        with open_file(path, block_size=_BLOCK_BYTES) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            return parquet.read_row_group(group, columns=columns, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(f"{path}: expected row group {group}, found {error}; run tokenize again") from None


def token_matrix(table: pa.Table) -> np.ndarray:
    """Return `image_tokens` as an array (rows, I), without copying where there is one chunk."""
    column = table.column("image_tokens").combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)


def order_hash(key: str, view: int, seed: int) -> int:
    """Return the 64-bit number that decides in which shard a row is, and where in it."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}:{view}".encode()).digest()[:8], "big")
