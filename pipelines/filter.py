"""The filter stage: a source in, the ledger out."""

from collections import Counter
from collections.abc import Iterable
from typing import ClassVar

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import Field

from parti_data.config import StageConfig
from parti_data.errors import SourceError
from parti_data.images import ImageLimits
from parti_data.ledger import DROPPED, KEPT
from parti_data.manifest import Beginning, Manifest, StageDirectory, begin
from parti_data.progress import watch_files
from parti_data.rules import Rules
from parti_data.sources import Source, SyntheticSource
from parti_data.storage import join, remove, sweep
from pipelines.measure_pairs import FRAGMENTS, MeasurePairs
from pipelines.merge_duplicates import MergeDuplicates
from pipelines.runner import make_pipeline, run
from pipelines.write_ledgers import LedgerFile, WriteLedgers


class FilterConfig(StageConfig):
    """What `parti filter` is told."""

    source: Source = Field(default_factory=SyntheticSource)
    rules: Rules = Field(default_factory=Rules)
    limits: ImageLimits = Field(default_factory=ImageLimits)
    max_dropped_fraction: float = 0.5
    """Beyond this share of dropped rows the stage fails instead of finishing."""

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"max_dropped_fraction"})


def filter_pairs(config: FilterConfig, options: PipelineOptions) -> Manifest:
    """Write the ledger of a source and return the manifest; a finished directory is left as it is."""
    splits = config.source.splits()
    begun = begin(config.output, Beginning(
        stage="filter", config=config.deciding(), inputs={"source": config.source.digest()}
    ))  # fmt: skip
    fragments = join(config.output, FRAGMENTS)
    if isinstance(begun, StageDirectory):
        sweep(fragments)
        directory = begun
        pipeline = make_pipeline(options)
        _ = (
            pipeline
            | "Splits" >> beam.Create(splits, reshuffle=True)
            | MeasurePairs(config.source, config.rules, config.limits, config.output)
            | MergeDuplicates()
            | WriteLedgers(config.output, len(splits))
            | "ToOneKey" >> beam.Map(lambda file: (0, file))
            | "GatherFiles" >> beam.GroupByKey()
            | "Finish" >> beam.MapTuple(
                lambda _, files: finish(directory, files, config.max_dropped_fraction)
            )
        )  # fmt: skip
        with watch_files("filter", fragments, ("split-",), len(splits)):
            run(pipeline)
        begun = begin(config.output, begun.beginning)
        assert isinstance(begun, Manifest), begun
    remove(fragments)
    return begun


def finish(directory: StageDirectory, files: Iterable[LedgerFile], max_dropped_fraction: float) -> Manifest:
    """Write the manifest from the ledger files; raises SourceError where too many rows were dropped."""
    files = sorted((LedgerFile(*file) for file in files), key=lambda file: file.shard.name)
    reasons: Counter[str] = Counter()
    for file in files:
        reasons.update(file.counts)
    read = reasons.total()
    dropped = Counter({name: count for name, count in reasons.items() if name.startswith(DROPPED)})
    if dropped.total() > max_dropped_fraction * read:
        most = ", ".join(f"{name.removeprefix(DROPPED).strip()} {count}" for name, count in dropped.most_common(3))
        raise SourceError(
            f"{directory.path}: expected at most {max_dropped_fraction:.0%} of rows dropped, found {dropped.total()} "
            f"of {read} ({most}); look into the ledger, then mend the rules or raise max_dropped_fraction"
        )
    counts = {"read": read, "dropped": dropped.total(), "merged": 0, "kept": 0} | {
        name: count for name, count in reasons.items() if name == KEPT
    }
    counts["merged"] = read - counts["kept"] - counts["dropped"]
    details = {
        "reasons": dict(sorted(reasons.items())),
        "kept": [file.counts.get(KEPT, 0) for file in files],
    }
    return directory.finish([file.shard for file in files], counts, details)
