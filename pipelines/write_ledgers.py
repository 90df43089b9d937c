"""Write the final ledger of each split: its rows as the rules judge them, with the merges applied.

(split, merges) enters; the file's record and the counts of its outcomes leave.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import apache_beam as beam

from parti_data.benchmarks import BENCHMARK_CAPTION, BENCHMARK_IMAGE
from parti_data.ledger import (
    DROPPED,
    EXACT_DUPLICATE,
    KEPT,
    MERGED,
    NEAR_DUPLICATE,
    LedgerRow,
    amounts,
    ledger_schema,
    read_beginning_digest,
    read_ledger,
    say_ending,
    write_ledger,
)  # fmt: skip
from parti_data.manifest import ShardRecord, record_shard, shard_name
from parti_data.metrics import ROWS, WRITTEN_BYTES
from parti_data.step_times import count, timed, timed_each
from parti_data.storage import file_size, is_file, join
from pipelines.fragments import fragment_name
from pipelines.judge_pairs import Judging, judged_rows
from pipelines.measure_pairs import SOURCE_UNREADABLE
from pipelines.merge_duplicates import Merge
from pipelines.run_metrics import reported_steps


class SkippedSplit(TypedDict):
    """A file of the source that could not be read."""

    path: str
    error: str


class LedgerFile(NamedTuple):
    """A finished ledger file, the fragment it was made of, and how many rows ended how: by outcome and reason.

    And what all rows together hold, and what benchmarks removed, a line of JSON each; and the file of the source where
    it was skipped.
    """

    shard: ShardRecord
    fragment: ShardRecord
    counts: dict[str, int]
    totals: dict[str, int]
    removed: list[str]
    skipped: SkippedSplit | None


@dataclass(eq=False)
class WriteLedgers(beam.PTransform):
    """(split, Merge) to LedgerFile."""

    judging: Judging
    num_splits: int

    def expand(self, merges):
        """Wire the step."""
        return (
            merges
            | "GroupBySplit" >> beam.GroupByKey()
            | "WriteSplit" >> beam.Map(write_split_ledger, judging=self.judging, num_splits=self.num_splits)
        )


@reported_steps()
def write_split_ledger(group: tuple[int, Iterable[Merge]], judging: Judging, num_splits: int) -> LedgerFile:
    """Write the ledger of a (split, merges) unless it is there, and return its record and counts.

    One of another beginning, which a job left that was not cancelled, is not taken for it.
    """
    split, merges = group
    name = shard_name("ledger", split, num_splits, "parquet")
    path = join(judging.output, name)
    is_new = not is_file(path) or read_beginning_digest(path) != judging.beginning
    if is_new:
        by_row = {merge.row: merge for merge in map(_as_merge, merges)}
        with timed("write"):
            rows = apply_merges(judged_rows(split, judging), by_row)
            write_ledger(path, rows, ledger_schema(judging.beginning))
        count(WRITTEN_BYTES, file_size(path))
    counts: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    removed, skipped = [], None
    for row in timed_each("read", read_ledger(path)):
        counts[say_ending(row)] += 1
        totals.update(amounts(row))
        if row.reason in (BENCHMARK_IMAGE, BENCHMARK_CAPTION):
            removed.append(describe_removed(row))
        elif row.reason == SOURCE_UNREADABLE:
            skipped = SkippedSplit(path=row.path, error=row.detail)
    with timed("digest"):
        shard = record_shard(judging.output, name, counts.total())
        fragment = record_shard(judging.output, fragment_name(split), counts.total())
    if is_new:
        count(ROWS, counts.total())
    return LedgerFile(
        shard,
        fragment,
        dict(sorted(counts.items())),
        dict(sorted(totals.items())),
        removed,
        skipped,
    )


def describe_removed(row: LedgerRow) -> str:
    """Return the line of JSON that tells which row a benchmark removed, and why."""
    names = ("reason", "detail", "key", "source", "source_key", "captions")
    return json.dumps({name: getattr(row, name) for name in names}, ensure_ascii=False)


def _as_merge(value: Iterable) -> Merge:
    return Merge(*value)


def apply_merges(rows: Iterable[LedgerRow], merges: dict[int, Merge]) -> Iterator[LedgerRow]:
    """Yield the rows, those that merging touched with their new outcome or captions."""
    for number, row in enumerate(rows):
        merge = merges.get(number)
        if merge is None:
            yield row
        elif merge.dropped:
            yield row._replace(outcome=DROPPED, reason=merge.dropped)
        elif merge.merged_into:
            reason = NEAR_DUPLICATE if merge.is_near else EXACT_DUPLICATE
            yield row._replace(outcome=MERGED, reason=reason, merged_into=merge.merged_into)
        else:
            yield row._replace(outcome=KEPT, captions=merge.captions)
