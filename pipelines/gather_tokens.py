"""Gather: final shard s takes row group s of every fragment, in the order of the hash, and becomes one token shard."""

from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from parti_data.manifest import ShardRecord, record_shard, shard_name
from parti_data.metrics import WRITTEN_BYTES
from parti_data.quality import TokenQuality, measure_shard
from parti_data.step_times import count, timed
from parti_data.storage import file_size, is_file, join
from parti_data.token_shard import order_hash, read_row_group, write_token_shard
from pipelines.encode_images import Encoding, fragment_path
from pipelines.run_metrics import reported_steps


class GatheredShard(NamedTuple):
    """A final shard, and what its tokens tell."""

    record: ShardRecord
    quality: TokenQuality


@dataclass(eq=False)
class GatherTokens(beam.PTransform):
    """The number of a final shard to its GatheredShard."""

    encoding: Encoding
    num_fragments: int

    def expand(self, numbers):
        """Wire the step."""
        return numbers | "GatherShard" >> beam.Map(
            gather_shard, encoding=self.encoding, num_fragments=self.num_fragments
        )


def gather_shard(number: int, encoding: Encoding, num_fragments: int) -> GatheredShard:
    """Write a final shard unless it is there, and return what is told of it."""
    name = shard_name("tokens", number, encoding.num_shards, "parquet")
    path = join(encoding.output, name)
    with reported_steps(), timed("gather"):
        if not is_file(path):
            fragments = [fragment_path(encoding.output, fragment) for fragment in range(num_fragments)]
            table = pa.concat_tables([read_row_group(fragment, number) for fragment in fragments])
            write_token_shard(path, order_rows(table, encoding.seed), encoding.metadata)
            count(WRITTEN_BYTES, file_size(path))
        quality = measure_shard(path)
        return GatheredShard(record_shard(encoding.output, name, quality.rows), quality)


def order_rows(table: pa.Table, seed: int) -> pa.Table:
    """Return the rows in the order of their hash, a global shuffle that no worker count changes."""
    places = zip(table.column("key").to_pylist(), table.column("view").to_pylist(), strict=True)
    hashes = np.array([order_hash(key, view, seed) for key, view in places], np.uint64)
    return table.take(pa.array(np.argsort(hashes, kind="stable")))
