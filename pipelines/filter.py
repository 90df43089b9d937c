"""The filter stage: a source in, the ledger out.

Two pipelines: one measures every pair, whatever the rules; the other judges the measures. So other rules need no image.
"""

from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Self

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import Field, model_validator

from parti_data.benchmarks import Benchmark, read_benchmarks
from parti_data.config import StageConfig
from parti_data.errors import SourceError
from parti_data.images import ImageLimits
from parti_data.ledger import DROPPED, KEPT
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin, record_shard, reopen
from parti_data.progress import watch_files
from parti_data.rules import Rules
from parti_data.sources import Source, SyntheticSource
from parti_data.sources.pairs import SourceSplit
from parti_data.storage import join, publish_bytes, remove, sweep
from pipelines.candidates import Packing, count_buckets
from pipelines.duplicates import Duplicates
from pipelines.judge_pairs import JudgePairs, Judging, repeated_path, write_repeated
from pipelines.measure_pairs import FRAGMENTS, MeasurePairs, Measuring
from pipelines.merge_duplicates import MergeDuplicates
from pipelines.runner import make_pipeline, run
from pipelines.write_ledgers import LedgerFile, WriteLedgers

FIELDS = ("url", "license", "similarity", "punsafe", "pwatermark", "aesthetic")
"""What img2dataset and LAION call what most users want to judge by."""
AUDIT = "benchmarks.jsonl"
"""What benchmarks removed, a line a row, in the order of the ledger."""
JUDGING = ("rules", "duplicates", "benchmarks")
"""The parts of the config that a rejudged directory may change."""


class FilterConfig(StageConfig):
    """What `parti filter` is told."""

    source: Source = Field(default_factory=SyntheticSource)
    rules: Rules = Field(default_factory=Rules)
    limits: ImageLimits = Field(default_factory=ImageLimits)
    duplicates: Duplicates = Field(default_factory=Duplicates)
    benchmarks: list[Benchmark] = Field(default_factory=list)
    """Evaluation pictures and prompts that no kept pair may hold."""
    fields: list[str] = Field(default_factory=lambda: list(FIELDS))
    """What the ledger keeps of the source's other columns, for rules and readers: numbers as scores, texts as
    attributes."""
    max_dropped_fraction: float = 0.5
    """Beyond this share of dropped rows the stage fails instead of finishing."""

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"max_dropped_fraction"})

    @model_validator(mode="after")
    def _refuse_fields_that_are_not_kept(self) -> Self:
        if missing := sorted(set(self.rules.fields()) - set(self.fields)):
            raise ValueError(f"rules should look at fields that the ledger keeps, found {missing}; add them to fields")
        return self


def filter_pairs(config: FilterConfig, options: PipelineOptions, rejudge: bool = False) -> Manifest:
    """Write the ledger of a source and return the manifest; a finished directory is left as it is.

    With `rejudge` a directory may have been begun with other rules: its measures are judged again, no image is read.
    """
    splits = config.source.splits()
    benchmarks = read_benchmarks(config.benchmarks, config.limits)
    inputs = {"source": config.source.digest()} | ({"benchmarks": benchmarks.digest()} if config.benchmarks else {})
    beginning = Beginning(stage="filter", config=config.deciding(), inputs=inputs)
    if rejudge:
        reopen(config.output, beginning, JUDGING)
    begun = begin(config.output, beginning)
    if isinstance(begun, Manifest):
        return begun
    sweep(join(config.output, FRAGMENTS))
    measure(config, splits, options)
    refuse_changed_source(config, inputs["source"])
    judging = Judging(config.rules, config.output, benchmarks)
    judge(begun, config, judging, len(splits), options)
    return begun.finished()


def measure(config: FilterConfig, splits: list[SourceSplit], options: PipelineOptions) -> None:
    """Write a fragment for each split, and the captions that stand in too many rows."""
    most = config.rules.max_rows_per_caption
    measuring = Measuring(config.source, config.limits, tuple(config.fields), config.output)
    remove(repeated_path(config.output))
    pipeline = make_pipeline(options)
    hashes = (
        pipeline
        | "Splits" >> beam.Create(splits, reshuffle=True)
        | MeasurePairs(measuring, counts_captions=most > 0)
    )  # fmt: skip
    _ = (
        hashes
        | "One" >> beam.Map(lambda caption: (caption, 1))
        | "CountRows" >> beam.CombinePerKey(sum)
        | "TooMany" >> beam.Filter(lambda counted: counted[1] > most)
        | "ToOneKey" >> beam.Map(lambda counted: (0, counted[0]))
        | "GatherCaptions" >> beam.GroupByKey()
        | "WriteRepeated" >> beam.MapTuple(lambda _, captions: write_repeated(config.output, captions))
    )
    with watch_files("measure", join(config.output, FRAGMENTS), ("split-",), len(splits)):
        run(pipeline)


def refuse_changed_source(config: FilterConfig, digest: str) -> None:
    """Raise SourceError, and keep no measure, where the source is not what it was when the run began."""
    if config.source.digest() != digest:
        remove(join(config.output, FRAGMENTS))
        raise SourceError(
            f"{config.output}: expected the source as it was when the run began, found files that were changed, added "
            "or removed since; let it come to rest and filter into a new output"
        )


def judge(
    directory: StageDirectory, config: FilterConfig, judging: Judging, num_splits: int, options: PipelineOptions
) -> None:
    """Write the ledger of each split and the manifest."""
    pipeline = make_pipeline(options)
    packing = Packing(
        count_buckets(num_splits),
        with_captions=config.duplicates.near and config.duplicates.max_captions_per_image > 0,
        with_hashes=config.duplicates.near,
    )
    _ = (
        pipeline
        | "Numbers" >> beam.Create(range(num_splits), reshuffle=True)
        | JudgePairs(judging, packing)
        | MergeDuplicates(config.duplicates, judging, packing)
        | WriteLedgers(judging, num_splits)
        | "ToOneKey" >> beam.Map(lambda file: (0, file))
        | "GatherFiles" >> beam.GroupByKey()
        | "Finish" >> beam.MapTuple(lambda _, files: finish(directory, files, config))
    )
    with watch_files("judge", config.output, ("ledger-",), num_splits):
        run(pipeline)


def finish(directory: StageDirectory, files: Iterable[LedgerFile], config: FilterConfig) -> Manifest:
    """Write what benchmarks removed, and the manifest; raises SourceError where too many rows were dropped."""
    files = sorted((LedgerFile(*file) for file in files), key=lambda file: file.shard.name)
    reasons: Counter[str] = Counter()
    for file in files:
        reasons.update(file.counts)
    read = reasons.total()
    dropped = Counter({name: count for name, count in reasons.items() if name.startswith(DROPPED)})
    allowed = config.max_dropped_fraction
    if dropped.total() > allowed * read:
        most = ", ".join(f"{name.removeprefix(DROPPED).strip()} {count}" for name, count in dropped.most_common(3))
        raise SourceError(
            f"{directory.path}: expected at most {allowed:.0%} of rows dropped, found {dropped.total()} of {read} "
            f"({most}); look into the ledger, then mend the rules and add --rejudge, or raise max_dropped_fraction"
        )
    counts = {"read": read, "dropped": dropped.total(), "merged": 0, "kept": 0} | {
        name: count for name, count in reasons.items() if name == KEPT
    }
    counts["merged"] = read - counts["kept"] - counts["dropped"]
    details = {
        "reasons": dict(sorted(reasons.items())),
        "kept": [file.counts.get(KEPT, 0) for file in files],
    }
    records = [record for file in files for record in (file.shard, file.fragment)]
    remove(join(directory.path, AUDIT))  # of an earlier judging
    if config.benchmarks:
        removed = [line for file in files for line in file.removed]
        publish_bytes(join(directory.path, AUDIT), "".join(f"{line}\n" for line in removed).encode())
        records.append(record_shard(directory.path, AUDIT, len(removed)))
    return directory.finish(records, counts, details)
