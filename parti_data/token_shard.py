"""Token shards: the Parquet files that hold what the prior trains on. Format version 1.

A row is one view of an image. No column and no item of a list is ever null.

    column         type                             what
    key            string                           first 128 bits, in 32 hex digits, of a SHA-256: of the image's
                                                    bytes or, where only tokens were imported, of those
    view           uint8                            number of the view among those of its image
    box            fixed_size_list<int32>[4]        which crop: x, y, width, height in source pixels
    flipped        bool                             whether it was mirrored afterwards
    captions       list<string>                     all captions of the image
    text_ids       list<list<uint16 or uint32>>     one id list a caption, in the order of the captions
    image_tokens   fixed_size_list<uint16 or uint32>[I]   raster order; of a residual those of a position together
    source         string                           where the pair came from ...
    source_key     string                           ... and its key there

Ids have 16 bits up to 65,536 codes or pieces, else 32. I is grid_side^2 * num_quantizers.

Encodings. The items of `image_tokens` are dictionary-encoded, so packed in ceil(log2 V) bits, as long as the codebook
has at most `CODES_A_TOKEN` codes a token of a row; beyond, the dictionary costs more than it saves, and they are
DELTA_BINARY_PACKED: see `token_encoding`. Every other column is PLAIN; levels are RLE. Every column is compressed with
zstd, level 1; data pages are of version 1. Every page has a CRC-32. Only `key` has statistics. All row groups of a
shard have one number of rows, `ROW_GROUP_ROWS` unless its manifest states `row_group_rows`, but for the last, which may
have fewer; a shard without rows has one row group of none.

Order. A row is in shard number `order_hash` modulo the number of shards, and there in the order of that hash, so the
order of all rows is a shuffle that key, view and seed decide; the views of an image may be in several shards.

Metadata. The schema's metadata key `parti` holds `ShardMetadata` as JSON: what made the tokens, which is the same in
all shards of a directory. Keys that a reader does not know are for it to leave alone. pyarrow's own key `ARROW:schema`
stands beside it.

A foreign reader sees, for uint16, a list of variable length, one of fixed length:

    pyarrow     uint16, list<element: uint16 not null>, fixed_size_list<element: uint16 not null>[I]
    DuckDB      USMALLINT, USMALLINT[], USMALLINT[]
    polars      UInt16, List(UInt16), Array(UInt16, I)
    datasets    Value('uint16'), List(Value('uint16')), List(Value('uint16'), length=I)
    Spark 3.2+  int, array<int>, array<int>; uint8 is a smallint, uint32 a bigint

Guaranteed: a shard is written whole or not at all; the same rows give the same bytes, with one version of pyarrow;
every row has I tokens, each below the codebook's size; `write_tables` refuses others. Checksums cover pages, not the
footer, in which a flipped bit may pass unnoticed: for that a finished directory's manifest has each shard's SHA-256.
`parti verify` checks all that is said here.

A reader must refuse: a file without the key `parti`; another `format_version`; columns of other names or types than the
metadata ask for; a page that does not fit its checksum; and, where it mixes shards or has a tokenizer of its own, other
fingerprints than it expects.
"""

import hashlib
import json
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError

from parti_data.errors import ShardError
from parti_data.storage import open_file, publish
from parti_data.token_faults import refused_faults, say_token_range

FORMAT_VERSION = 1
ROW_GROUP_ROWS = 4096
CODES_A_TOKEN = 512
"""Codes a token of a row up to which a dictionary is smaller: then each code occurs 8 times and more in a row group."""
_METADATA_KEY = b"parti"
_BLOCK_BYTES = 1 << 18
"""Read ahead of an object store: a row group is a few ranges, each asked for whole, and what follows is another's."""
BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises of a file that is no Parquet file, or a broken one."""
TOKEN_ITEMS = "image_tokens.list.element"
"""The column of the items of `image_tokens`, as Parquet names it."""
_REMEDY = "make the metadata and the rows by one tokenizer"


class ShardMetadata(BaseModel):
    """What made a shard's tokens, as JSON under the schema metadata key `parti`."""

    format_version: int = FORMAT_VERSION
    image_tokenizer: str
    """Fingerprint."""
    image_tokenizer_name: str
    codebook_size: int = Field(ge=1, le=1 << 32)
    grid_side: int = Field(ge=1, le=1 << 12)
    num_quantizers: int = Field(default=1, ge=1, le=1 << 6)
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
    text_vocabulary_size: int = Field(ge=1, le=1 << 32)
    config_digest: str
    input_digest: str

    @property
    def num_tokens(self) -> int:
        """Image tokens a row."""
        return self.grid_side**2 * self.num_quantizers

    @property
    def token_type(self) -> type[np.unsignedinteger]:
        """What holds a token."""
        return _least_type(self.codebook_size)

    @property
    def text_type(self) -> type[np.unsignedinteger]:
        """What holds a text id."""
        return _least_type(self.text_vocabulary_size)


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


def _least_type(num_values: int) -> type[np.unsignedinteger]:
    return np.uint16 if num_values <= 1 << 16 else np.uint32


def _items(item: pa.DataType) -> pa.Field:
    return pa.field("element", item, nullable=False)


def token_schema(metadata: ShardMetadata) -> pa.Schema:
    """Return the schema of a shard, its metadata included."""
    tokens, text_ids = pa.from_numpy_dtype(metadata.token_type), pa.from_numpy_dtype(metadata.text_type)
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
    """Return rows as an Arrow table; the tokens pass as one array.

    Raises ShardError with the key of the first row whose tokens are too many, too few, or not in the codebook.
    """
    schema = token_schema(metadata)
    tokens_type = schema.field("image_tokens").type
    flat = _join_tokens(rows, metadata).astype(metadata.token_type)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=tokens_type)
    columns = [
        tokens if field.name == "image_tokens" else pa.array([getattr(row, field.name) for row in rows], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _join_tokens(rows: list[TokenRow], metadata: ShardMetadata) -> np.ndarray:
    arrays = [np.asarray(row.image_tokens) for row in rows]
    for row, tokens in zip(rows, arrays, strict=True):
        if tokens.shape != (metadata.num_tokens,):
            found = " x ".join(map(str, tokens.shape)) or "one number"
            raise ShardError(f"row {row.key}: expected {metadata.num_tokens} image tokens, found {found}; {_REMEDY}")
        if tokens.dtype.kind not in "iu":
            raise ShardError(f"row {row.key}: expected whole numbers as image tokens, found {tokens.dtype}; {_REMEDY}")
    flat = np.concatenate(arrays or [np.empty(0, np.uint16)])
    unsigned = flat.view(f"u{flat.itemsize}")  # in which what was negative is beyond every codebook
    if unsigned.max(initial=0) >= metadata.codebook_size:
        place = int(np.argmax(unsigned >= metadata.codebook_size))
        row = rows[place // metadata.num_tokens]
        raise ShardError(f"row {row.key}: {say_token_range(metadata.codebook_size)}, found {flat[place]}; {_REMEDY}")
    return flat


def token_encoding(metadata: ShardMetadata) -> Literal["RLE_DICTIONARY", "DELTA_BINARY_PACKED"]:
    """Return how the items of `image_tokens` are encoded.

    A dictionary costs a row group about 2.5 bytes a code, DELTA_BINARY_PACKED a token about 1.4 bits. Measured with
    pyarrow 25, bytes a row of uniform and of Zipf codes:

        V, I               dictionary     delta         BYTE_STREAM_SPLIT
        8192, 1024         1671, 1513     1840, 1840    1689, 1510
        65536, 256          553, 453       559, 559      512, 469
        65536, 64           167, 126       140, 140      128, 117
        262144, 256         756, 593       622, 622      593, 555
        1048576, 1024      3325, 2528     2749, 2749    2587, 2434

    BYTE_STREAM_SPLIT, the smallest for the largest codebooks, is refused for integers by DuckDB 1 and by Spark's
    vectorized reader of before 2026; every reader has the other two.
    """
    is_small = metadata.codebook_size <= CODES_A_TOKEN * metadata.num_tokens
    return "RLE_DICTIONARY" if is_small else "DELTA_BINARY_PACKED"


def write_tables(path: str, tables: list[pa.Table], metadata: ShardMetadata) -> None:
    """Write each table as a row group of one file, whole or not at all.

    Raises ShardError, before anything is written, with the key of the first row that is not as the metadata say.
    """
    schema = token_schema(metadata)
    for table in tables:
        for fault in refused_faults(table, schema, metadata.codebook_size):
            raise ShardError(f"{path}: {fault}; {_REMEDY}")
    with publish(path) as file, pq.ParquetWriter(file, schema, **_writing(metadata)) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(len(table), 1))


def _writing(metadata: ShardMetadata) -> dict[str, Any]:
    writing: dict[str, Any] = {
        "version": "2.6",
        "data_page_version": "1.0",
        "use_dictionary": False,
        "compression": "zstd",
        "compression_level": 1,
        "write_statistics": ["key"],
        "write_page_checksum": True,
    }
    encoding = token_encoding(metadata)
    if encoding == "RLE_DICTIONARY":
        # a dictionary that reached the limit would fall back to PLAIN
        return writing | {"use_dictionary": [TOKEN_ITEMS], "dictionary_pagesize_limit": 8 * metadata.codebook_size}
    return writing | {"column_encoding": {TOKEN_ITEMS: encoding}}


def write_token_shard(path: str, table: pa.Table, metadata: ShardMetadata) -> None:
    """Write a token shard in row groups of `ROW_GROUP_ROWS`."""
    starts = range(0, max(len(table), 1), ROW_GROUP_ROWS)
    write_tables(path, [table.slice(start, ROW_GROUP_ROWS) for start in starts], metadata)


def read_metadata(path: str) -> tuple[ShardMetadata, list[int]]:
    """Return a shard's metadata and the rows of each row group, from its footer; raises ShardError."""
    try:
        with open_file(path) as file:
            return check_footer(path, pq.ParquetFile(file))
    except BROKEN as error:
        raise ShardError(f"{path}: expected a token shard, found {say_broken(error)}; run tokenize again") from None


def check_footer(path: str, shard: pq.ParquetFile) -> tuple[ShardMetadata, list[int]]:
    """Return the metadata of an open shard and the rows of each row group; raises ShardError where it is none."""
    schema, footer = shard.schema_arrow, shard.metadata
    metadata = _parse_metadata(path, (schema.metadata or {}).get(_METADATA_KEY))
    if not schema.equals(token_schema(metadata)):
        raise ShardError(f"{path}: expected the columns of a token shard, found {', '.join(schema.names)}")
    return metadata, [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]


def _parse_metadata(path: str, content: bytes | None) -> ShardMetadata:
    if content is None:
        raise ShardError(
            f"{path}: expected a token shard, found a Parquet file without the metadata 'parti'; check the path"
        )
    try:
        found = json.loads(content)
        version = found.get("format_version") if isinstance(found, dict) else None
        if version not in (None, FORMAT_VERSION):
            raise ShardError(
                f"{path}: expected format version {FORMAT_VERSION}, found {version}; use a parti that knows it"
            )
        return ShardMetadata.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    except (ValueError, RecursionError) as error:
        what = str(error)
    raise ShardError(f"{path}: expected a token shard, found metadata 'parti' that say otherwise ({what})")


def say_broken(error: Exception) -> str:
    """Return what pyarrow says of a broken file, in one line."""
    return " ".join(str(error).split())[:200]


def read_row_group(path: str, group: int, columns: list[str] | None = None) -> pa.Table:
    """Return one row group, page checksums checked; raises ShardError."""
    try:
        with open_file(path, block_size=_BLOCK_BYTES) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            return parquet.read_row_group(group, columns=columns, use_threads=False)
    except BROKEN as error:
        raise ShardError(f"{path}: expected row group {group}, found {say_broken(error)}; run tokenize again") from None


def token_matrix(table: pa.Table) -> np.ndarray:
    """Return `image_tokens` as an array (rows, I), without copying where there is one chunk."""
    column = table.column("image_tokens").combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)


def order_hash(key: str, view: int, seed: int) -> int:
    """Return the 64-bit number that decides in which shard a row is, and where in it."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}:{view}".encode()).digest()[:8], "big")
