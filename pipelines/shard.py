"""The shard stage: kept pairs copied into WebDataset tars of equal size, with a ledger of where each now lies."""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import PositiveInt

from parti_data.config import Place, StageConfig
from parti_data.ledger import LedgerRow, PairDirectory, to_json, write_ledger
from parti_data.manifest import (
    Beginning,
    Manifest,
    ShardRecord,
    StageDirectory,
    begin,
    manifest_digest,
    record_shard,
    refuse_changed_input,
    shard_name,
)  # fmt: skip
from parti_data.metrics import IMAGE_BYTES, ROWS, WRITTEN_BYTES
from parti_data.step_times import count, timed, timed_each
from parti_data.storage import file_size, is_file, join, publish
from parti_data.tar_members import add_member
from parti_data.watch import Watched, watch
from pipelines.run_metrics import reported_steps, run_recorded
from pipelines.runner import make_pipeline


class ShardConfig(StageConfig):
    """What `parti shard` is told."""

    source: Place
    """A directory that filter finished."""
    pairs_per_shard: PositiveInt = 10_000

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"source"})


class ShardPlan(NamedTuple):
    """The kept rows `first` to before `last`, which make one tar."""

    number: int
    total: int
    first: int
    last: int


@dataclass(eq=False)
class WriteShards(beam.PTransform):
    """ShardPlan to the records of its two files, (tar, ledger)."""

    source: str
    input_digest: str
    output: str

    def expand(self, plans):
        """Wire the step."""
        write = beam.Map(write_shard, source=self.source, input_digest=self.input_digest, output=self.output)
        return plans | "WriteShard" >> write


def plan_shards(num_pairs: int, pairs_per_shard: int) -> list[ShardPlan]:
    """Split the kept rows evenly, so that no shard has more than `pairs_per_shard` or two sizes differ by over one."""
    total = max(-(-num_pairs // pairs_per_shard), 1)
    bounds = [number * num_pairs // total for number in range(total + 1)]
    return [ShardPlan(number, total, bounds[number], bounds[number + 1]) for number in range(total)]


@reported_steps()
def write_shard(plan: ShardPlan, source: str, input_digest: str, output: str) -> tuple[ShardRecord, ShardRecord]:
    """Write a tar and then its ledger, unless both are there; bytes are a function of the plan and the source."""
    tar = shard_name("pairs", plan.number, plan.total, "tar")
    ledger = shard_name("ledger", plan.number, plan.total, "parquet")
    if not (is_file(join(output, tar)) and is_file(join(output, ledger))):
        pairs = PairDirectory(source)
        with timed("write"):
            with publish(join(output, tar)) as file, tarfile.open(
                fileobj=file, mode="w", format=tarfile.USTAR_FORMAT
            ) as archive:  # fmt: skip
                kept = timed_each("ledger", pairs.kept(plan.first, plan.last))
                rows = list(append_pairs(archive, pairs, kept, plan.first, tar))
                refuse_changed_input(source, input_digest)
            write_ledger(join(output, ledger), rows)
            count(WRITTEN_BYTES, file_size(join(output, tar)) + file_size(join(output, ledger)))
    num_rows = plan.last - plan.first
    with timed("digest"):
        return record_shard(output, tar, num_rows), record_shard(output, ledger, num_rows)


def append_pairs(
    archive: tarfile.TarFile, pairs: PairDirectory, rows: Iterable[LedgerRow], first: int, tar: str
) -> Iterator[LedgerRow]:
    """Append kept pairs, numbered from `first` on, to an open tar; yield the row of each, with where it now lies."""
    for number, (row, image) in enumerate(timed_each("fetch", pairs.fetch_each(rows)), first):
        count(ROWS)
        count(IMAGE_BYTES, len(image))
        name = f"{number:09d}"
        offset = add_member(archive, f"{name}.{row.format.lower()}", image)
        add_member(archive, f"{name}.txt", row.captions[0].encode())
        add_member(archive, f"{name}.json", to_json(row).encode())
        yield row._replace(path=tar, offset=offset, size=len(image))


def shard_pairs(config: ShardConfig, options: PipelineOptions) -> Manifest:
    """Copy the kept pairs of a filter directory into tars and return the manifest."""
    pairs = PairDirectory(config.source)
    plans = plan_shards(len(pairs), config.pairs_per_shard)
    digest = manifest_digest(config.source)
    begun = begin(config.output, Beginning(stage="shard", config=config.deciding(), inputs={"source": digest}))
    if isinstance(begun, Manifest):
        return begun
    limits = pairs.limits.model_dump(mode="json")
    pipeline = make_pipeline(options)
    _ = (
        pipeline
        | "Plans" >> beam.Create(plans, reshuffle=True)
        | WriteShards(config.source, digest, config.output)
        | "ToOneKey" >> beam.Map(lambda records: (0, records))
        | "GatherRecords" >> beam.GroupByKey()
        | "Finish" >> beam.MapTuple(lambda _, records: finish(begun, records, limits))
    )
    rows = {shard_name("ledger", plan.number, plan.total, "parquet"): plan.last - plan.first for plan in plans}
    with watch(Watched("shard", config.output, rows, "rows")):
        run_recorded(pipeline, "shard", config.output)
    return begun.finished()


def finish(
    directory: StageDirectory, records: Iterable[tuple[ShardRecord, ShardRecord]], limits: dict[str, Any]
) -> Manifest:
    """Write the manifest from the records of all shards and the limits that filter decoded under."""
    pairs = sorted((tuple(record) for record in records), key=lambda pair: pair[1].name)
    kept = [ledger.rows for _, ledger in pairs]
    return directory.finish(
        [record for pair in pairs for record in pair], {"kept": sum(kept)}, {"kept": kept, "limits": limits}
    )
