"""Parquet files that hold the images themselves, as Hugging Face writes them or as a plain column of bytes.

A location's offset is the number of the row in its file. Who fetches rows in order reads each row group once; a fetch
of any other row reads its row group up to it, so for random access `parti shard` pays.
"""

from collections.abc import Container, Iterator
from contextlib import closing
from typing import Literal, NamedTuple

import pyarrow as pa
from pydantic import Field

from parti_data.config import Place, StrictModel
from parti_data.errors import SourceError
from parti_data.sources.columns import (
    choose_caption_columns,
    require_column,
    single_columns,
    to_captions,
    to_fields,
)  # fmt: skip
from parti_data.sources.last_opened import LastOpened
from parti_data.sources.listing import digest_splits, list_splits
from parti_data.sources.pairs import Location, RawPair, SourceSplit
from parti_data.sources.parquet_rows import (
    Batch,
    ParquetRows,
    bytes_column,
    is_binary,
    is_scalar,
    to_value,
)  # fmt: skip


class ParquetSource(StrictModel):
    """Parquet files at a path, in a directory or of a glob; each file is a split."""

    kind: Literal["parquet"]
    path: Place
    """A Parquet file, a directory of them or a glob, as a local path or an fsspec URL."""
    image_column: str = "image"
    """A column of bytes, or of structs with a field `bytes`."""
    caption_columns: list[str] = Field(default_factory=list)
    """Columns of texts or of lists of texts; none stands for `text`, or else `caption`."""

    def splits(self) -> list[SourceSplit]:
        """Return a split for each file, in name order; raises SourceError where there is none."""
        return list_splits(self.path, (".parquet",), "Parquet files")

    def digest(self, splits: list[SourceSplit] | None = None) -> str:
        """Return a digest of which files there are, how large, and of what content where the storage says so."""
        return digest_splits(self.splits() if splits is None else splits)

    def read(self, split: SourceSplit, max_image_bytes: int, rows: Container[int] | None = None) -> Iterator[RawPair]:
        """Yield the split's rows in order, with `rows` those of these numbers; a null image is a missing one.

        An image over the limit is cut off there.
        """
        with closing(ParquetRows(split.path)) as file:
            columns = self._columns(file)
            for batch in file.batches([columns.image, *columns.captions, *columns.fields]):
                chosen = [row for row in range(batch.first, batch.end) if rows is None or row in rows]
                yield from self._pairs(batch, chosen, columns, split.path, max_image_bytes)

    def fetch(self, location: Location) -> bytes:
        """Return the bytes of one image; raises SourceError where the file has gone or has no such row."""
        try:
            return _LAST_IMAGES.get(location.path, self.image_column).image(location.offset)
        except FileNotFoundError:
            raise SourceError(
                f"{location.path}: expected the file that filter read, found none; put it back or run filter again"
            ) from None

    def _columns(self, rows: ParquetRows) -> "_Columns":
        """Return the columns to read; raises SourceError where one is not there or holds something else."""
        found = rows.column_names()
        image = _image_leaf(rows, self.image_column)
        captions = choose_caption_columns(rows.path, self.caption_columns, found)
        rows.require_texts(captions)
        others = [name for name in single_columns(found) if name not in (self.image_column, *captions)]
        fields = [name for name in others if is_scalar(rows.schema.field(name).type)]
        return _Columns(image, captions, fields)

    def _pairs(
        self, batch: Batch, chosen: list[int], columns: "_Columns", path: str, max_image_bytes: int
    ) -> Iterator[RawPair]:
        images = bytes_column(batch.columns, self.image_column)
        captions = [batch.columns.column(name) for name in columns.captions]
        fields = {name: batch.columns.column(name) for name in columns.fields}
        for number in chosen:
            row = number - batch.first
            content = images[row].as_buffer()
            yield RawPair(
                f"{number:08d}",
                Location(path, number, 0 if content is None else content.size),
                None if content is None else _first_bytes(content, max_image_bytes + 1),
                to_captions(to_value(column[row]) for column in captions),
                to_fields({name: to_value(column[row]) for name, column in fields.items()}),
            )


class _Columns(NamedTuple):
    """What is read of a file; the image as Parquet names the leaf."""

    image: str
    captions: list[str]
    fields: list[str]


def _image_leaf(rows: ParquetRows, name: str) -> str:
    require_column(rows.path, name, rows.column_names(), "image_column")
    kind = rows.schema.field(name).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_binary(kind.field("bytes").type):
        return f"{name}.bytes"
    if is_binary(kind):
        return name
    raise SourceError(
        f"{rows.path}: expected bytes, or structs with a field 'bytes', in column {name!r}, found {kind}; set "
        "source.image_column, or read a table of paths with source.kind=table"
    )


def _first_bytes(content: pa.Buffer, size: int) -> bytes:
    return content.slice(0, min(size, content.size)).to_pybytes()


class _Images:
    """The images of one file by row, cheap in order: the batch that was read last is kept, and so is the place."""

    def __init__(self, path: str, column: str):
        self._rows = ParquetRows(path)
        self._column = column
        self._group = -1
        self._batches: Iterator[Batch] = iter(())
        self._batch: Batch | None = None

    def image(self, row: int) -> bytes:
        """Return the whole image of a row; raises SourceError where there is none."""
        batch, self._batch = self._batch, None
        group = self._rows.group_of(row)
        if batch is None or row < batch.first or group != self._group:
            self._batches = self._rows.batches([_image_leaf(self._rows, self._column)], row)
            batch, self._group = next(self._batches, None), group
        while batch is not None and row >= batch.end:
            batch = next(self._batches, None)
        self._batch = batch
        content = bytes_column(batch.columns, self._column)[row - batch.first].as_buffer() if batch else None
        if content is None:
            raise SourceError(
                f"{self._rows.path}: expected an image in row {row}, found none; the source changed since filter read "
                "it, so run filter into a new directory"
            )
        return content.to_pybytes()

    def close(self) -> None:
        """Let go of the file."""
        self._batches, self._batch = iter(()), None
        self._rows.close()


_LAST_IMAGES = LastOpened(_Images)
