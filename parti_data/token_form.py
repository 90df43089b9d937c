"""Whether a token shard's file has the physical form that the format states: row groups, encodings, checksums."""

from collections.abc import Iterator

import pyarrow.parquet as pq

from parti_data.errors import ShardError
from parti_data.parquet_pages import read_pages
from parti_data.storage import open_file
from parti_data.token_shard import BROKEN, TOKEN_ITEMS, ShardMetadata, say_broken, token_encoding


def form_faults(path: str, metadata: ShardMetadata, row_group_rows: int) -> Iterator[str]:
    """Yield where a shard's physical form is another than the format's; pages are looked at in its first row group."""
    try:
        with open_file(path) as file:
            footer = pq.ParquetFile(file).metadata
    except BROKEN as error:
        yield f"expected a token shard, found {say_broken(error)}"
        return
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    yield from _size_faults([group.num_rows for group in groups], row_group_rows)
    for number, group in enumerate(groups):
        if group.num_rows:
            columns = [group.column(place) for place in range(group.num_columns)]
            faults = list(_column_faults(columns)) or (_page_faults(path, columns, metadata) if not number else [])
            yield from (f"{fault} in row group {number}" for fault in faults)


def _size_faults(found: list[int], row_group_rows: int) -> Iterator[str]:
    rows = sum(found)
    expected = [min(row_group_rows, rows - start) for start in range(0, max(rows, 1), row_group_rows)]
    if found != expected:
        first = next((n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(expected))
        sizes = [str(each[first]) if first < len(each) else "none" for each in (expected, found)]
        yield f"expected row groups of {row_group_rows} rows, so {sizes[0]} in number {first}, found {sizes[1]}"


def _column_faults(columns: list[pq.ColumnChunkMetaData]) -> Iterator[str]:
    for column in columns:
        if column.compression != "ZSTD":
            yield f"expected {column.path_in_schema} compressed with ZSTD, found {column.compression}"
    with_statistics = [column.path_in_schema for column in columns if column.is_stats_set]
    if with_statistics != ["key"]:
        yield f"expected statistics of key alone, found them of {', '.join(with_statistics) or 'nothing'}"


def _page_faults(path: str, columns: list[pq.ColumnChunkMetaData], metadata: ShardMetadata) -> Iterator[str]:
    for column in columns:
        name = column.path_in_schema
        expected = token_encoding(metadata) if name == TOKEN_ITEMS else "PLAIN"
        try:
            pages = list(read_pages(path, column))
        except ShardError as error:
            yield str(error).removeprefix(f"{path}: ")
            continue
        if not all(page.has_checksum for page in pages):
            yield f"expected a checksum of every page, found none of one of {name}"
        others = {page.encoding for page in pages if page.kind == "data"} - {expected}
        if others:
            yield f"expected {name} encoded as {expected}, found {', '.join(sorted(others))}"
