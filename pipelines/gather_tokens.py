"""Gather: final shard s takes batch s of every fragment, in the order of the hash, and becomes one token shard."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from parti_data.manifest import Manifest, ShardRecord, record_shard, shard_name
from parti_data.metrics import WRITTEN_BYTES
from parti_data.quality import TokenQuality, measure_shard
from parti_data.step_times import count, timed
from parti_data.storage import file_size, is_file, join
from parti_data.token_shard import order_hash, write_token_shard
from parti_data.watch import Watched, watch
from pipelines.run_metrics import reported_steps, run_recorded
from pipelines.runner import make_pipeline
from pipelines.token_fragments import FRAGMENTS, Gathering, fragment_name, fragment_path, read_fragment


class GatheredShard(NamedTuple):
    """A final shard, and what its tokens tell."""

    record: ShardRecord
    quality: TokenQuality


class TokenStage(NamedTuple):
    """How a stage makes fragments: its name, what it makes them of, and what then becomes of all shards."""

    name: str
    plans: list[Any]
    """What each fragment is made of, in order."""
    rows: list[int]
    """About how many rows each has."""
    encode: beam.PTransform
    """A plan to the number of its fragment."""
    finish: Callable[[Iterable[GatheredShard]], Manifest]


@dataclass(eq=False)
class GatherTokens(beam.PTransform):
    """The number of a final shard to its GatheredShard."""

    gathering: Gathering

    def expand(self, numbers):
        """Wire the step."""
        return numbers | "GatherShard" >> beam.Map(gather_shard, gathering=self.gathering)


def run_to_shards(stage: TokenStage, gathering: Gathering, options: PipelineOptions) -> None:
    """Make every fragment, then every shard, then the manifest; what is there already is not made again."""
    numbers, finish = range(gathering.num_shards), stage.finish
    pipeline = make_pipeline(options)
    _ = (
        pipeline
        | "Plans" >> beam.Create(stage.plans, reshuffle=True)
        | stage.encode
        | "AllFragments" >> beam.Map(lambda number: (0, number))
        | "WaitForFragments" >> beam.GroupByKey()
        | "Numbers" >> beam.FlatMapTuple(lambda _, __: numbers)
        | "Spread" >> beam.Reshuffle()
        | GatherTokens(gathering)
        | "AllShards" >> beam.Map(lambda shard: (0, shard))
        | "GatherRecords" >> beam.GroupByKey()
        | "Finish" >> beam.MapTuple(lambda _, shards: finish(shards))
    )
    rows = {fragment_name(number): count for number, count in enumerate(stage.rows)}
    with watch(Watched(stage.name, join(gathering.output, FRAGMENTS), rows, "rows")):
        run_recorded(pipeline, stage.name, gathering.output)


def gather_shard(number: int, gathering: Gathering) -> GatheredShard:
    """Write a final shard unless it is there, and return what is told of it."""
    name = shard_name("tokens", number, gathering.num_shards, "parquet")
    path = join(gathering.output, name)
    with reported_steps(), timed("gather"):
        if not is_file(path):
            fragments = [fragment_path(gathering.output, fragment) for fragment in range(gathering.num_fragments)]
            table = pa.concat_tables([read_fragment(fragment, number) for fragment in fragments])
            table = drop_repeated(table) if gathering.may_repeat else table
            write_token_shard(path, order_rows(table, gathering.seed), gathering.metadata)
            count(WRITTEN_BYTES, file_size(path))
        quality = measure_shard(path)
        return GatheredShard(record_shard(gathering.output, name, quality.rows), quality)


def drop_repeated(table: pa.Table) -> pa.Table:
    """Return the first row of each key and view."""
    places = zip(table.column("key").to_pylist(), table.column("view").to_pylist(), strict=True)
    first = {place: row for row, place in reversed(list(enumerate(places)))}
    return table if len(first) == len(table) else table.take(pa.array(sorted(first.values())))


def order_rows(table: pa.Table, seed: int) -> pa.Table:
    """Return the rows in the order of their hash, a global shuffle that no worker count changes."""
    places = zip(table.column("key").to_pylist(), table.column("view").to_pylist(), strict=True)
    hashes = np.array([order_hash(key, view, seed) for key, view in places], np.uint64)
    return table.take(pa.array(np.argsort(hashes, kind="stable")))
