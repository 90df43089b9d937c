"""Small Parquet tables, such as one of samples, read whole. Who wrote one may be anyone, so within limits."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from parti_data.errors import ShardError
from parti_data.storage import open_scattered
from parti_data.token_shard import BROKEN, say_broken

_MAX_TABLE_BYTES, _MAX_FOOTER_BYTES = 1 << 28, 1 << 26
"""Of the columns that are read, unpacked, and of what lists their parts: a million samples take less."""
_ROW_BYTES = 128
"""What a row takes beside its columns' bytes, about."""
_BATCH_ROWS = 1024
_TAIL_BYTES, _MAGIC = 8, b"PAR1"
"""A Parquet file ends with the length of its footer and these letters."""
_NONE = pa.schema([])


def read_rows(path: str, stage: str, wanted: pa.Schema, later: pa.Schema = _NONE) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table that a stage wrote: the wanted columns, and those of the later ones that it has.

    Raises ShardError for other columns, for a null where the schema has none, and for what takes too much memory.
    """
    try:
        with open_scattered(path) as file:
            yield from _rows(file, path, stage, wanted, later)
    except (*BROKEN, KeyError) as error:
        raise ShardError(
            f"{path}: expected a table with {', '.join(wanted.names)}, found {say_broken(error)}; run {stage} into a "
            "new directory"
        ) from None


def _rows(file: BinaryIO, path: str, stage: str, wanted: pa.Schema, later: pa.Schema) -> Iterator[dict[str, Any]]:
    file.seek(max(file.seek(0, 2) - _TAIL_BYTES, 0))
    tail = file.read(_TAIL_BYTES)
    if tail[4:] == _MAGIC:  # what ends otherwise is refused without being read
        _refuse_larger(int.from_bytes(tail[:4], "little"), _MAX_FOOTER_BYTES, "footer", path, stage)
    table = pq.ParquetFile(file)
    fields = [*wanted, *(field for field in later if field.name in table.schema_arrow.names)]
    for field in fields:
        if (found := table.schema_arrow.field(field.name).type) != field.type:
            raise pa.ArrowTypeError(f"a column {field.name} of {found}")
    names = [field.name for field in fields]
    groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    unpacked = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in names)
    _refuse_larger(unpacked, _MAX_TABLE_BYTES, "table", path, stage)
    num_bytes = 0
    for batch in table.iter_batches(_BATCH_ROWS, columns=names):
        num_bytes += batch.nbytes + _ROW_BYTES * len(batch)  # of a repeated text a column holds one
        _refuse_larger(num_bytes, _MAX_TABLE_BYTES, "table", path, stage)
        for field in fields:
            if not field.nullable and batch.column(field.name).null_count:
                raise pa.ArrowInvalid(f"a row without {field.name}")
        yield from batch.to_pylist()


def _refuse_larger(num_bytes: int, at_most: int, what: str, path: str, stage: str) -> None:
    if num_bytes > at_most:
        raise ShardError(
            f"{path}: expected a {what} of at most {at_most >> 20} MiB, found {num_bytes >> 20}; {stage} fewer prompts "
            "into a directory"
        )
