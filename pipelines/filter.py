"""The filter stage: a source in, the ledger out.

Two pipelines: one measures every pair, whatever the rules; the other judges the measures. So other rules need no image.
"""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Literal, Self

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import Field, model_validator

from parti_data.benchmarks import Benchmark, read_benchmarks
from parti_data.config import StageConfig
from parti_data.errors import ShardError, SourceError
from parti_data.held_out import FOR_TRAINING, HELD_OUT
from parti_data.images import ImageLimits
from parti_data.ledger import DROPPED, FORGOTTEN, KEPT, read_beginning_digest
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin, record_shard, reopen, shard_name
from parti_data.rules import Rules
from parti_data.sources import ParquetSource, Source, SyntheticSource, WebDatasetSource
from parti_data.sources.pairs import SourceSplit
from parti_data.storage import join, listed_sizes, publish_bytes, remove, sweep
from parti_data.watch import Watched, watch
from pipelines.candidates import Packing, count_buckets
from pipelines.duplicates import Duplicates
from pipelines.fragments import FRAGMENTS, fragment_path, remove_parts, repeated_path, write_repeated
from pipelines.judge_pairs import JudgePairs, Judging
from pipelines.measure_again import MeasureAgain
from pipelines.measure_pairs import SOURCE_UNREADABLE, MeasurePairs, Measuring
from pipelines.merge_duplicates import MergeDuplicates
from pipelines.retry import SPLITS, Retry, begin_retry, check_reasons, end_retry, remember_splits
from pipelines.run_metrics import run_recorded
from pipelines.runner import make_pipeline
from pipelines.write_ledgers import LedgerFile, SkippedSplit, WriteLedgers

FIELDS = ("url", "license", "similarity", "punsafe", "pwatermark", "aesthetic")
"""What img2dataset and LAION call what most users want to judge by."""
AUDIT = "benchmarks.jsonl"
"""What benchmarks removed, a line a row, in the order of the ledger."""
JUDGING = ("config.rules", "config.duplicates", "config.benchmarks", "inputs.benchmarks")
"""What a rejudged directory may change."""
_WANTED = (FORGOTTEN, HELD_OUT, FOR_TRAINING)
"""Why rows are dropped of which nothing is wrong."""
_THREADS = 16


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
    """Beyond this share of dropped rows, or of skipped files, the stage fails instead of finishing."""
    on_bad_split: Literal["fail", "skip"] = "fail"
    """What becomes of a file that is cut short or broken: the run ends, or the file ends as one dropped row,
    source_unreadable, however much of it could be read; --retry-reason source_unreadable reads it when it is mended."""

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"max_dropped_fraction", "on_bad_split"})
    OPENED_BY_WORKERS: ClassVar[tuple[str, ...]] = ("source.root",)

    @model_validator(mode="after")
    def _refuse_fields_that_are_not_kept(self) -> Self:
        if missing := sorted(set(self.rules.fields()) - set(self.fields)):
            raise ValueError(f"rules should look at fields that the ledger keeps, found {missing}; add them to fields")
        return self


def filter_pairs(
    config: FilterConfig, options: PipelineOptions, rejudge: bool = False, retry_reasons: Iterable[str] = ()
) -> Manifest:
    """Write the ledger of a source and return the manifest; a finished directory is left as it is.

    With `rejudge` a directory may have been begun with other rules: its measures are judged again, no image is read.
    With `retry_reasons` the rows that were dropped for one of them when they were measured are measured again.
    """
    check_reasons(retry_reasons)
    splits = config.source.splits()
    benchmarks = read_benchmarks(config.benchmarks, config.limits)
    inputs = {"source": config.source.digest(splits)}
    inputs |= {"benchmarks": benchmarks.digest()} if config.benchmarks else {}
    beginning = Beginning(stage="filter", config=config.deciding(), inputs=inputs)
    changeable = JUDGING if rejudge else ()
    retry = begin_retry(config.output, beginning, splits, retry_reasons, changeable)
    if rejudge and retry is None:
        reopen(config.output, beginning, changeable)
    begun = begin(config.output, beginning)
    if isinstance(begun, Manifest):
        if retry:
            print(f"retry: no row of {config.output} ended as {' or '.join(retry.reasons)}")
        return begun
    sweep(join(config.output, FRAGMENTS))
    if retry:
        remove_parts(config.output)  # measured under other limits, or of a file that has changed
    remember_splits(config.output, splits)
    measure(config, splits, options, retry)
    if retry:
        print(end_retry(config.output, splits, retry))
    remove_parts(config.output)  # of runs that were stopped between a fragment and its parts
    judging = Judging(config.rules, config.output, benchmarks, beginning.digest)
    judge(begun, config, judging, len(splits), options)
    return begun.finished()


def measure(config: FilterConfig, splits: list[SourceSplit], options: PipelineOptions, retry: Retry | None) -> None:
    """Write a fragment for each split, and the captions that stand in too many rows."""
    most = config.rules.max_rows_per_caption
    measuring = Measuring(
        config.source, config.limits, tuple(config.fields), config.output, config.on_bad_split == "skip"
    )
    remove(repeated_path(config.output))
    pipeline = make_pipeline(options)
    elements = pipeline | "Splits" >> beam.Create(splits, reshuffle=True)
    elements = elements | MeasureAgain(measuring, retry) if retry else elements
    hashes = elements | MeasurePairs(measuring, counts_captions=most > 0)
    _ = (
        hashes
        | "One" >> beam.Map(lambda caption: (caption, 1))
        | "CountRows" >> beam.CombinePerKey(sum)
        | "TooMany" >> beam.Filter(lambda counted: counted[1] > most)
        | "ToOneKey" >> beam.Map(lambda counted: (0, counted[0]))
        | "GatherCaptions" >> beam.GroupByKey()
        | "WriteRepeated" >> beam.MapTuple(lambda _, captions: write_repeated(config.output, captions))
    )
    with watch(_measure_watch(config, splits, retry)):
        run_recorded(pipeline, "measure", config.output)


def _measure_watch(config: FilterConfig, splits: list[SourceSplit], retry: Retry | None) -> Watched:
    """Return the fragments with the size of their splits: rows where they are told, else the bytes of their files.

    Of a retry those that it writes.
    """
    splits = [split for split in splits if not retry or split.number in retry.written]
    names = [_last(fragment_path(config.output, split.number)) for split in splits]
    is_counted = all(split.count for split in splits)
    sizes = [split.count if is_counted else int(split.marker[0]) for split in splits]
    holds_images = isinstance(config.source, WebDatasetSource | ParquetSource)
    unit = "size" if retry else "rows" if is_counted else "image_bytes" if holds_images else "size"
    weights = dict(zip(names, sizes, strict=True))
    return Watched("measure", join(config.output, FRAGMENTS), weights, unit, replaced=retry is not None)


def _judge_watch(output: str, num_splits: int) -> Watched:
    """Return the ledger files with the size of the fragments that they are made of."""
    names = [shard_name("ledger", split, num_splits, "parquet") for split in range(num_splits)]
    sizes = listed_sizes(join(output, FRAGMENTS))
    weights = [sizes.get(_last(fragment_path(output, split)), 0) for split in range(num_splits)]
    return Watched("judge", output, dict(zip(names, weights, strict=True)), "size")


def _last(path: str) -> str:
    return path.rpartition("/")[2]


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
    with watch(_judge_watch(config.output, num_splits)):
        run_recorded(pipeline, "judge", config.output)


def finish(directory: StageDirectory, files: Iterable[LedgerFile], config: FilterConfig) -> Manifest:
    """Write what benchmarks removed, and the manifest.

    Raises ShardError where another job has written into the directory, SourceError where too much was dropped.
    """
    files = sorted((LedgerFile(*file) for file in files), key=lambda file: file.shard.name)
    refuse_other_ledgers(directory, [file.shard.name for file in files])
    reasons: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for file in files:
        reasons.update(file.counts)
        totals.update(file.totals)
    read = reasons.total()
    dropped = Counter({name: count for name, count in reasons.items() if name.startswith(DROPPED)})
    wanted = Counter({name: reasons[name] for name in (f"{DROPPED} {reason}" for reason in _WANTED)})
    skipped = [file.skipped for file in files if file.skipped]
    refuse_dropped(directory.path, dropped - wanted, read, config.max_dropped_fraction)
    refuse_skipped(directory.path, skipped, len(files), config)
    counts = {"read": read, "dropped": dropped.total(), "merged": 0, "kept": 0} | {
        name: count for name, count in reasons.items() if name == KEPT
    }
    counts["merged"] = read - counts["kept"] - counts["dropped"]
    details = {
        "reasons": dict(sorted(reasons.items())),
        "kept": [file.counts.get(KEPT, 0) for file in files],
        "totals": dict(sorted(totals.items())),
    }
    details |= {"skipped": skipped} if skipped else {}
    records = [record for file in files for record in (file.shard, file.fragment)]
    records.append(record_shard(directory.path, SPLITS, len(files)))
    remove(join(directory.path, AUDIT))  # of an earlier judging
    if config.benchmarks:
        removed = [line for file in files for line in file.removed]
        publish_bytes(join(directory.path, AUDIT), "".join(f"{line}\n" for line in removed).encode())
        records.append(record_shard(directory.path, AUDIT, len(removed)))
    return directory.finish(records, counts, details)


def refuse_other_ledgers(directory: StageDirectory, names: list[str]) -> None:
    """Raise ShardError where a ledger is not of the beginning that it was written under."""
    paths = [join(directory.path, name) for name in names]
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, found in zip(paths, pool.map(read_beginning_digest, paths), strict=True):
            if found != directory.beginning.digest:
                raise ShardError(
                    f"{path}: expected the ledger that this run wrote, found one by the rules of an earlier run, whose "
                    "job goes on; cancel that on its engine, then run the same command again"
                )


def refuse_dropped(path: str, dropped: Counter[str], read: int, allowed: float) -> None:
    """Raise SourceError where too many rows were dropped."""
    if dropped.total() > allowed * read:
        most = ", ".join(f"{name.removeprefix(DROPPED).strip()} {count}" for name, count in dropped.most_common(3))
        raise SourceError(
            f"{path}: expected at most {allowed:.0%} of rows dropped, found {dropped.total()} of {read} "
            f"({most}); look into the ledger, then mend the rules and add --rejudge, or raise max_dropped_fraction"
        )


def refuse_skipped(path: str, skipped: list[SkippedSplit], num_splits: int, config: FilterConfig) -> None:
    """Raise SourceError where files were skipped that may not be, or too many."""
    allowed = config.max_dropped_fraction * num_splits if config.on_bad_split == "skip" else 0
    if len(skipped) > allowed:
        raise SourceError(
            f"{path}: expected at most {int(allowed)} of {num_splits} files skipped, found {len(skipped)} "
            f"({skipped[0]['path']}: {skipped[0]['error']}); mend them and add --retry-reason {SOURCE_UNREADABLE}, or "
            "set on_bad_split=skip and raise max_dropped_fraction"
        )
