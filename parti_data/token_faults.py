"""What is wrong with the rows of a table of tokens: the writer refuses it, `parti verify` tells it.

Each fault is told once a table, by the key of the first row that has it. Nothing is looked at row by row.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_KEY = "^[0-9a-f]{32}$"


def refused_faults(table: pa.Table, schema: pa.Schema, codebook_size: int) -> Iterator[str]:
    """Yield why a table cannot become rows of a shard: its columns, a null, a row's number of tokens, a code."""
    if not table.schema.equals(schema):
        yield _column_fault(table, schema)
        return
    nulls = list(null_faults(table))
    yield from nulls or token_faults(table, codebook_size)


def null_faults(table: pa.Table) -> Iterator[str]:
    """Yield the columns in which a value or an item is null."""
    for name in table.column_names:
        place = _first_null(table.column(name).combine_chunks())
        if place is not None:
            yield f"{_say_row(table, place)}: expected no null in {name}, found one"


def token_faults(table: pa.Table, codebook_size: int) -> Iterator[str]:
    """Yield where an image token is beyond the codebook."""
    lists = table.column("image_tokens").combine_chunks()
    tokens = lists.flatten().to_numpy(zero_copy_only=False)
    if int(tokens.max(initial=0)) >= codebook_size:
        place = int(np.argmax(tokens >= codebook_size))
        row = place // lists.type.list_size
        yield f"{_say_row(table, row)}: {say_token_range(codebook_size)}, found {tokens[place]}"


def say_token_range(codebook_size: int) -> str:
    """Say which image tokens are expected."""
    return f"expected image tokens from 0 to {codebook_size - 1}"


def text_faults(table: pa.Table, vocabulary_size: int) -> Iterator[str]:
    """Yield where text ids are beyond the vocabulary, and where a row has not one list of them for each caption."""
    lists = table.column("text_ids").combine_chunks()
    captions = lists.flatten()
    ids = captions.flatten().to_numpy(zero_copy_only=False)
    if int(ids.max(initial=0)) >= vocabulary_size:
        place = int(np.argmax(ids >= vocabulary_size))
        row = _parent(lists, _parent(captions, place))
        yield f"{_say_row(table, row)}: expected text ids from 0 to {vocabulary_size - 1}, found {ids[place]}"
    found, expected = _lengths(lists), _lengths(table.column("captions").combine_chunks())
    if not np.array_equal(found, expected):
        row = int(np.argmax(found != expected))
        yield f"{_say_row(table, row)}: expected text ids of {expected[row]} captions, found {found[row]}"


def key_faults(table: pa.Table) -> Iterator[str]:
    """Yield a key that is not 32 hex digits."""
    is_key = pc.call_function(
        "match_substring_regex", [table.column("key").combine_chunks()], pc.MatchSubstringOptions(_KEY)
    )
    row = pc.index(is_key, False).as_py()
    if row >= 0:
        yield f"{_say_row(table, row)}: expected keys of 32 hex digits, found {table.column('key')[row].as_py()!r:.80}"


def _column_fault(table: pa.Table, schema: pa.Schema) -> str:
    """Say in what a table's columns differ; of ragged lists of tokens, which row's."""
    for field in schema:
        if field.name not in table.schema.names:
            return f"expected a column {field.name}, found none"
        column = table.column(field.name)
        if field.name == "image_tokens" and (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            lengths = _lengths(column.combine_chunks())
            if len(ragged := np.flatnonzero(lengths != field.type.list_size)):
                row = int(ragged[0])
                return f"{_say_row(table, row)}: expected {field.type.list_size} image tokens, found {lengths[row]:g}"
        if table.schema.field(field.name) != field:
            return f"expected {field}, found {table.schema.field(field.name)}"
    return f"expected the columns {', '.join(schema.names)}, found {', '.join(table.schema.names)}"


def _say_row(table: pa.Table, row: int) -> str:
    return f"row {table.column('key')[row].as_py()!s:.32}"


def _first_null(array: Any) -> int | None:
    """Return the first place of an array that is null or holds a null."""
    if array.null_count:
        return pc.index(array.is_null(), True).as_py()
    if pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        inner = _first_null(array.flatten())
        return None if inner is None else _parent(array, inner)
    return None


def _lengths(lists: Any) -> np.ndarray:
    return pc.call_function("list_value_length", [lists]).to_numpy(zero_copy_only=False)


def _parent(lists: Any, item: int) -> int:
    """Return in which of some lists an item of all of them is."""
    return int(pc.call_function("list_parent_indices", [lists])[item].as_py())
