"""Captions in jsonl, csv, tsv or Parquet beside the image files that they name, as Hugging Face's `metadata.jsonl`.

Images are only read below one folder. A row whose image is elsewhere, or not there, has none; a line that cannot be
read is a row without image and captions.
"""

import itertools
from collections.abc import Container, Iterator
from contextlib import closing
from typing import Any, Literal, NamedTuple

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
from parti_data.sources.image_folder import ImageFolder, refuse_no_folder
from parti_data.sources.listing import digest_splits, fixed_folder, folder_of, list_splits
from parti_data.sources.pairs import Location, RawPair, SourceSplit, choose_rows
from parti_data.sources.parquet_rows import ParquetRows, is_scalar, is_text, to_value
from parti_data.sources.text_rows import TableRow, header_names, number_or_text, read_jsonl, read_separated
from parti_data.storage import open_file

ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_ROWS_THAT_SHOW_COLUMNS = 100
"""So many lines of jsonl tell which columns there are."""


class TableSource(StrictModel):
    """Tables at a path, in a directory or of a glob; each table is a split."""

    kind: Literal["table"]
    path: Place
    """A jsonl, csv, tsv or Parquet file, a directory of them or a glob, as a local path or an fsspec URL."""
    image_column: str = "file_name"
    """The column of the images' paths, relative to the root."""
    caption_columns: list[str] = Field(default_factory=list)
    """Columns of captions or of lists of them; none stands for `text`, or else `caption`."""
    root: str = ""
    """The folder that images are read below; none stands for that of each table."""
    column_names: list[str] = Field(default_factory=list)
    """The names of the columns of csv and tsv files that have no line that says them."""

    def splits(self) -> list[SourceSplit]:
        """Return a split for each table, in name order; raises SourceError where there is none, or no root."""
        if self.root:
            refuse_no_folder(self.root)
        return list_splits(self.path, ENDINGS, f"tables ({', '.join(ENDINGS)})")

    def digest(self, splits: list[SourceSplit] | None = None) -> str:
        """Return a digest of which tables there are, how large, and of what content where the storage says so."""
        return digest_splits(self.splits() if splits is None else splits)

    def read(self, split: SourceSplit, max_image_bytes: int, rows: Container[int] | None = None) -> Iterator[RawPair]:
        """Yield the split's rows in order, with `rows` those of these numbers; an image over the limit is cut off.

        The images of the others are not opened.
        """
        folder = ImageFolder(self.root or folder_of(split.path))
        columns = self._columns(split.path)
        for row in choose_rows(self._rows(split.path, columns), rows):
            values = row.values or {}
            name = values.get(self.image_column)
            found = folder.read(name, max_image_bytes) if isinstance(name, str) else None
            location, image = found or (Location(split.path, 0, 0), None)
            captions = to_captions(values.get(column) for column in columns.captions)
            yield RawPair(f"{row.number:08d}", location, image, captions, self._fields(split.path, values, columns))

    def fetch(self, location: Location) -> bytes:
        """Return the bytes of one image; raises SourceError where it has gone or lies outside of the root."""
        return ImageFolder(self.root or self._tables_folder()).fetch(location)

    def _tables_folder(self) -> str:
        """Return a folder that the folders of all tables are in."""
        return fixed_folder(self.path if self.path.endswith(ENDINGS) else f"{self.path}/")

    def _columns(self, path: str) -> "_Columns":
        """Return what to read of a table; raises SourceError where a column is not there or holds something else."""
        found = self._column_names(path)
        if not found and path.endswith(".jsonl"):  # no line of it can be read
            return _Columns([], frozenset())
        require_column(path, self.image_column, found, "image_column")
        captions = choose_caption_columns(path, self.caption_columns, found)
        repeated = set(found) - set(single_columns(found))
        return _Columns(captions, frozenset({self.image_column, *captions, *repeated}))

    def _column_names(self, path: str) -> list[str]:
        if path.endswith(".parquet"):
            with closing(ParquetRows(path)) as rows:
                return rows.column_names()
        with open_file(path) as file:
            if separator := _separator(path):
                return self.column_names or header_names(file, path, separator)
            some = itertools.islice(read_jsonl(file, path), _ROWS_THAT_SHOW_COLUMNS)
            return list(dict.fromkeys(name for row in some for name in row.values or {}))

    def _rows(self, path: str, columns: "_Columns") -> Iterator[TableRow]:
        if path.endswith(".parquet"):
            yield from _parquet_rows(path, self.image_column, columns)
            return
        with open_file(path) as file:
            if separator := _separator(path):
                yield from read_separated(file, path, separator, self.column_names)
            else:
                yield from read_jsonl(file, path)

    def _fields(self, path: str, values: dict[str, Any], columns: "_Columns") -> dict[str, Any]:
        """Return what else a row says; of a csv, whose values are all texts, numbers where they are numbers."""
        others = {name: value for name, value in values.items() if name not in columns.no_fields}
        if _separator(path):
            others = {name: number_or_text(text) for name, text in others.items()}
        return to_fields(others)


class _Columns(NamedTuple):
    """The columns of a table that hold captions, and all that are not for a pair's fields."""

    captions: list[str]
    no_fields: frozenset[str]


def _separator(path: str) -> str | None:
    return next((separator for ending, separator in _SEPARATORS.items() if path.endswith(ending)), None)


def _parquet_rows(path: str, image_column: str, columns: _Columns) -> Iterator[TableRow]:
    with closing(ParquetRows(path)) as rows:
        kinds = {name: rows.schema.field(name).type for name in single_columns(rows.column_names())}
        if not is_text(kinds[image_column]):
            raise SourceError(
                f"{path}: expected paths in column {image_column!r}, found {kinds[image_column]}; set "
                "source.image_column, or read images in Parquet with source.kind=parquet"
            )
        rows.require_texts(columns.captions)
        others = [name for name, kind in kinds.items() if name not in columns.no_fields and is_scalar(kind)]
        names = [image_column, *columns.captions, *others]
        for batch in rows.batches(names):
            values = {name: batch.columns.column(name) for name in names}
            for row in range(batch.columns.num_rows):
                yield TableRow(batch.first + row, {name: to_value(column[row]) for name, column in values.items()})
