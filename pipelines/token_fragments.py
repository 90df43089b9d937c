"""Fragments of token shards: what a slice of the input leaves to gather, a row group of rows for each final shard.

Rows go to shards by the hash of key, view and seed, so that rows with the same key and view meet in one shard.
"""

from collections.abc import Iterable
from typing import NamedTuple

from parti_data.errors import TokenizerError
from parti_data.storage import join
from parti_data.token_shard import ShardMetadata, TokenRow, order_hash, to_table, write_tables

FRAGMENTS = "encoded"
"""The subdirectory of fragments; it goes when the stage is finished."""


class Gathering(NamedTuple):
    """What turns fragments into shards."""

    output: str
    metadata: ShardMetadata
    num_fragments: int
    num_shards: int
    seed: int
    may_repeat: bool = False
    """Whether rows may have the key and view of others; then the first one in the order of the fragments stays."""


def fragment_name(number: int) -> str:
    """Return the name of a slice's fragment."""
    return f"slice-{number:05d}.parquet"


def fragment_path(output: str, number: int) -> str:
    """Return the path of a slice's fragment."""
    return join(join(output, FRAGMENTS), fragment_name(number))


def count_shards(num_rows: int, rows_per_shard: int) -> int:
    """Return how many shards so many rows fill."""
    return -(-num_rows // rows_per_shard)


def spread_rows(rows: Iterable[TokenRow], num_shards: int, seed: int) -> list[list[TokenRow]]:
    """Return the rows of each final shard, in order."""
    shards: list[list[TokenRow]] = [[] for _ in range(num_shards)]
    for row in rows:
        shards[order_hash(row.key, row.view, seed) % num_shards].append(row)
    return shards


def write_fragment(path: str, shards: list[list[TokenRow]], metadata: ShardMetadata, note: str) -> None:
    """Write the rows of each final shard as a row group, with a note in the footer."""
    write_tables(path, [to_table(shard, metadata) for shard in shards], metadata, note)


def refuse_other_tokenizer(path: str, expected: str, found: str) -> None:
    """Raise TokenizerError where a worker finds another tokenizer than the one that the run began with."""
    if found != expected:
        raise TokenizerError(
            f"{path}: expected the tokenizer {expected[:12]} that the run began with, found {found[:12]}; put it back "
            "or choose another output"
        )
