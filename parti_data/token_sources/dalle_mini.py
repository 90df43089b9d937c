"""Parquet with a column of captions and one of lists of codes, as dalle-mini's encode_dataset.ipynb writes it.

Source: borisdayma/dalle-mini, tools/dataset/encode_dataset.ipynb: columns `caption` and `encoding`, 256 codes of
16,384 for each image.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Literal

import numpy as np
import pyarrow as pa

from parti_data.config import Place, StrictModel
from parti_data.errors import SourceError
from parti_data.sources.columns import require_column, to_captions
from parti_data.sources.listing import digest_splits, list_splits
from parti_data.sources.parquet_rows import ParquetRows, to_value
from parti_data.token_sources.tokenized import NO_CAPTION, NO_TOKENS, Fault, Listing, TokenizedImage, TokenSlice


class DalleMiniSource(StrictModel):
    """Parquet files at a path, in a directory or of a glob."""

    kind: Literal["dalle_mini"]
    path: Place
    """A Parquet file, a directory of them or a glob, as a local path or an fsspec URL."""
    caption_column: str = "caption"
    """A column of texts or of lists of texts."""
    encoding_column: str = "encoding"
    """A column of lists of codes."""

    def slices(self, images_a_slice: int) -> Listing:
        """Return slices of at most so many rows; raises SourceError where there is no file, or a column is missing."""
        splits = list_splits(self.path, (".parquet",), "Parquet files")
        slices = []
        for split in splits:
            with closing(ParquetRows(split.path)) as file:
                self._require_columns(file)
                num_rows = file.num_rows
            if num_rows > int(split.marker[0]):
                raise SourceError(f"{split.path}: expected rows of a byte at least, found {num_rows} rows in "
                                  f"{split.marker[0]} bytes; download it again")  # fmt: skip
            for first in range(0, num_rows, images_a_slice):
                end = min(first + images_a_slice, num_rows)
                slices.append(TokenSlice(split.path, first, end, end - first))
        return Listing(slices, digest_splits(splits))

    def read(self, part: TokenSlice) -> Iterator[TokenizedImage]:
        """Yield the rows of a slice in order."""
        with closing(ParquetRows(part.path)) as file:
            self._require_columns(file)
            columns = [self.caption_column, self.encoding_column]
            for batch in file.batches(columns, part.first):
                if batch.first >= part.end:
                    return
                captions, encodings = (batch.columns.column(name) for name in columns)
                for row in range(max(part.first - batch.first, 0), min(part.end, batch.end) - batch.first):
                    texts = to_captions([to_value(captions[row])])
                    yield TokenizedImage(
                        f"{batch.first + row:08d}", _to_array(encodings, row), texts or Fault(NO_CAPTION, "no text")
                    )

    def _require_columns(self, file: ParquetRows) -> None:
        """Raise SourceError where a column is not there, or holds something else."""
        names = file.column_names()
        require_column(file.path, self.caption_column, names, "caption_column")
        require_column(file.path, self.encoding_column, names, "encoding_column")
        file.require_texts([self.caption_column], "caption_column")
        kind = file.schema.field(self.encoding_column).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not is_list or not pa.types.is_integer(kind.value_type):
            raise SourceError(
                f"{file.path}: expected lists of integers in column {self.encoding_column!r}, found {kind}; set "
                "source.encoding_column"
            )


def _to_array(column: pa.Array, row: int) -> np.ndarray | Fault:
    codes = column[row].values
    if codes is None:
        return Fault(NO_TOKENS, "a null")
    if codes.null_count:
        return Fault(NO_TOKENS, f"{codes.null_count} nulls among {len(codes)} codes")
    return codes.to_numpy(zero_copy_only=False)
