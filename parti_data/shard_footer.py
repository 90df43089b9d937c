"""What the footer of a Parquet file tells of its columns as they are stored; no page is read."""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from parti_data.errors import ShardError
from parti_data.storage import open_file
from parti_data.token_shard import BROKEN, say_broken

TOKENS = "image_tokens"


class StoredColumn(NamedTuple):
    """A leaf column of a file, over all of its row groups."""

    path: str
    """With the lists that it lies in: `image_tokens.list.element`."""
    physical_type: str
    encodings: tuple[str, ...]
    compression: str
    has_statistics: bool
    num_bytes: int
    """On disk."""
    raw_bytes: int
    """Encoded, before compression."""

    @property
    def name(self) -> str:
        """The column of the schema that it belongs to."""
        return self.path.partition(".")[0]


class Footer(NamedTuple):
    """What a file's footer tells."""

    schema: pa.Schema
    group_rows: list[int]
    group_bytes: list[int]
    """Of each row group, before compression."""
    columns: list[StoredColumn]
    writer: str


def read_footer(path: str) -> Footer:
    """Return what the footer of a Parquet file tells; raises ShardError where it has none."""
    try:
        with open_file(path) as file:
            parquet = pq.ParquetFile(file)
            footer, schema = parquet.metadata, parquet.schema_arrow
    except BROKEN as error:
        raise ShardError(f"{path}: expected a Parquet file, found {say_broken(error)}; check the path") from None
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    columns = [
        _stored(footer.schema.column(number), [group.column(number) for group in groups])
        for number in range(footer.num_columns)
    ]
    return Footer(
        schema,
        [group.num_rows for group in groups],
        [group.total_byte_size for group in groups],
        columns,
        footer.created_by,
    )


def column_bytes(path: str) -> int:
    """Return the compressed bytes of a shard's image tokens, from its footer."""
    return sum(column.num_bytes for column in read_footer(path).columns if column.name == TOKENS)


def _stored(column: pq.ColumnSchema, chunks: list[pq.ColumnChunkMetaData]) -> StoredColumn:
    return StoredColumn(
        column.path,
        column.physical_type,
        tuple(sorted({encoding for chunk in chunks for encoding in chunk.encodings})),
        ", ".join(sorted({chunk.compression for chunk in chunks})),
        any(chunk.is_stats_set for chunk in chunks),
        sum(chunk.total_compressed_size for chunk in chunks),
        sum(chunk.total_uncompressed_size for chunk in chunks),
    )
