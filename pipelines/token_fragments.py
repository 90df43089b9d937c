"""Fragments of token shards: what a slice of the input leaves to gather, a batch of rows for each final shard.

Rows go to shards by the hash of key, view and seed, so that rows with the same key and view meet in one shard. The file
is Arrow's: each shard is gathered from all fragments, and where they are of 3,000 shards, opening a Parquet file, whose
footer tells of every column of every row group, took 22 ms, opening one of Arrow's 1.5.
"""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa

from parti_data.errors import ShardError, TokenizerError
from parti_data.storage import join, open_file, publish
from parti_data.token_shard import BROKEN, ShardMetadata, TokenRow, order_hash, say_broken, to_table, token_schema

FRAGMENTS = "encoded"
"""The subdirectory of fragments; it goes when the stage is finished."""
_NOTE_KEY, _CHECKSUM_KEY = b"note", b"crc32"
_BLOCK_BYTES = 1 << 18
"""Read ahead of an object store: the footer is a range and a batch another."""


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
    return f"slice-{number:05d}.arrow"


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
    """Write the rows of each final shard as a batch, and a note."""
    schema = token_schema(metadata)
    noted = schema.with_metadata({**schema.metadata, _NOTE_KEY: note.encode()})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with publish(path) as file, pa.ipc.new_file(file, noted, options=options) as writer:
        for shard in shards:
            columns = [column.combine_chunks() for column in to_table(shard, metadata).columns]
            batch = pa.record_batch(columns, schema=noted)
            writer.write_batch(batch, {_CHECKSUM_KEY: _checksum(batch)})


def read_fragment(path: str, shard: int) -> pa.Table:
    """Return the rows of a final shard, their checksum checked; raises ShardError."""
    with _opened(path) as fragment:
        batch, said = fragment.get_batch_with_custom_metadata(shard)
        batch.validate(full=True)
        if (said or {}).get(_CHECKSUM_KEY) != _checksum(batch):
            raise pa.ArrowInvalid("rows that do not fit their checksum")
        table = pa.Table.from_batches([batch])
    kept = {key: value for key, value in table.schema.metadata.items() if key != _NOTE_KEY}
    return table.replace_schema_metadata(kept)


def read_note(path: str) -> str:
    """Return the note of a fragment; raises ShardError."""
    with _opened(path) as fragment:
        return fragment.schema.metadata[_NOTE_KEY].decode()


def _checksum(batch: pa.RecordBatch) -> bytes:
    return b"%08x" % zlib.crc32(batch.serialize(), zlib.crc32(batch.schema.serialize()))


@contextmanager
def _opened(path: str) -> Iterator[pa.ipc.RecordBatchFileReader]:
    try:
        with open_file(path, block_size=_BLOCK_BYTES) as file:
            yield pa.ipc.open_file(file)
    except BROKEN as error:
        raise ShardError(
            f"{path}: expected a fragment, found {say_broken(error)}; remove it and run the same command again"
        ) from None


def refuse_other_tokenizer(path: str, expected: str, found: str) -> None:
    """Raise TokenizerError where a worker finds another tokenizer than the one that the run began with."""
    if found != expected:
        raise TokenizerError(
            f"{path}: expected the tokenizer {expected[:12]} that the run began with, found {found[:12]}; put it back "
            "or choose another output"
        )
