"""Rows of a Parquet file from strangers, read as a stream of small batches; its texts and bytes without copies.

Neither a row group nor a column chunk is ever held whole: of each column about a MiB of what is compressed and a page
of what is not, and a batch of a few rows. Pages and single values are as large as the file has them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from parti_data.errors import SourceError
from parti_data.sources.columns import MAX_TEXT_BYTES, to_text
from parti_data.storage import open_scattered

BATCH_BYTES = 4 << 20
MOST_BATCH_ROWS = 4
"""Of codes too, of which a hostile file has a million in a few bytes; batches of 64 would read a row of 256 codes in 10
us in place of 16, on one busy core.
"""
_READ_BYTES = 1 << 20


class Batch(NamedTuple):
    """Some rows, the first of them with its number in the file."""

    first: int
    columns: pa.RecordBatch

    @property
    def end(self) -> int:
        """The number of the row behind the last."""
        return self.first + self.columns.num_rows


class ParquetRows:
    """An open Parquet file; raises SourceError where it is torn or none."""

    def __init__(self, path: str):
        self.path = path
        with _refusing(path):
            self._file = open_scattered(path)
        try:
            with _refusing(path):
                self._parquet = pq.ParquetFile(
                    self._file, buffer_size=_READ_BYTES, pre_buffer=False, page_checksum_verification=True
                )
                self.schema: pa.Schema = self._parquet.schema_arrow
        except SourceError:
            self._file.close()
            raise

    @property
    def num_rows(self) -> int:
        """How many rows the file says it has."""
        return self._parquet.metadata.num_rows

    def column_names(self) -> list[str]:
        """Return the names of the columns, in order."""
        return list(self.schema.names)

    def require_texts(self, names: list[str], option: str = "caption_columns") -> None:
        """Raise SourceError where one of the columns does not hold captions."""
        for name in names:
            kind = self.schema.field(name).type
            if not is_texts(kind):
                raise SourceError(f"{self.path}: expected texts in column {name!r}, found {kind}; set source.{option}")

    def batches(self, columns: list[str], start: int = 0) -> Iterator[Batch]:
        """Yield batches of some columns (`a.b` for a part of a struct), from the row group of row `start` on."""
        end = 0
        with _refusing(self.path):
            for number in range(self._parquet.metadata.num_row_groups):
                group = self._parquet.metadata.row_group(number)
                first, end = end, end + group.num_rows
                if end <= start:
                    continue
                rows = _batch_rows(group)
                for batch in self._parquet.iter_batches(rows, [number], columns, use_threads=False):
                    yield Batch(first, batch)
                    first += batch.num_rows
                self._require_rows(end, first)
            self._require_rows(self.num_rows, end)

    def _require_rows(self, expected: int, found: int) -> None:
        if expected != found:
            raise SourceError(f"{self.path}: expected {expected} rows, found {found}; download it again")

    def group_of(self, row: int) -> int:
        """Return the number of the row group that holds a row."""
        for number in range(self._parquet.metadata.num_row_groups):
            row -= self._parquet.metadata.row_group(number).num_rows
            if row < 0:
                return number
        return self._parquet.metadata.num_row_groups

    def close(self) -> None:
        """Close the file."""
        self._parquet.close()
        self._file.close()


@contextmanager
def _refusing(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{path}: expected a Parquet file, found none; put it back or run filter again") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk; what pyarrow finds broken has no number
            raise
        found = " ".join(str(error).split())[:200]
        raise SourceError(f"{path}: expected a whole Parquet file, found {found}; download it again") from None


def _batch_rows(group: pq.RowGroupMetaData) -> int:
    """Return how many rows to read at a time, by what the row group says of its size, never many.

    A dictionary holds a value once that all rows may repeat, so a row may be far larger than the mean. What a row group
    says of each column is not looked at: where that is spoiled, pyarrow ends the process.
    """
    row_bytes = group.total_byte_size // max(group.num_rows, 1)
    return min(max(BATCH_BYTES // max(row_bytes, 1), 1), MOST_BATCH_ROWS)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts, plain or in a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_binary(kind: pa.DataType) -> bool:
    """Whether a column of this type holds bytes."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def is_texts(kind: pa.DataType) -> bool:
    """Whether a column of this type holds captions: a text, or a list of them, in each row."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return is_text(kind) or is_binary(kind)


def is_scalar(kind: pa.DataType) -> bool:
    """Whether a column of this type holds a text, a number or a boolean in each row."""
    return is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def to_value(scalar: pa.Scalar) -> Any:
    """Return a value as Python has it: texts cut at MAX_TEXT_BYTES, whether or not they are UTF-8; lists of them."""
    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value
    if isinstance(scalar, pa.BinaryScalar):  # texts too
        content = scalar.as_buffer()
        return None if content is None else to_text(content.slice(0, min(content.size, MAX_TEXT_BYTES)).to_pybytes())
    if isinstance(scalar, pa.ListScalar):
        return [to_value(one) for one in scalar.values] if scalar.is_valid else None
    return scalar.as_py()


def bytes_column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column's bytes: its own, or those that each struct in it holds as `bytes`."""
    column = batch.column(name)
    return column.flatten()[column.type.get_field_index("bytes")] if pa.types.is_struct(column.type) else column
