"""Judge the measured rows of a split by the rules, and by the benchmarks that no kept pair may hold.

The number of a split enters; the rows that the rules keep leave, packed into arrays.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import apache_beam as beam

from parti_data.benchmarks import BenchmarkHashes
from parti_data.ledger import DROPPED, KEPT, LedgerRow, read_ledger
from parti_data.rules import Rules, judge_row
from parti_data.step_times import timed
from pipelines.candidates import Packing, deal_out, pack
from pipelines.fragments import fragment_path, read_repeated
from pipelines.run_metrics import reported_steps

_ROWS_A_BATCH = 4096


@dataclass(frozen=True)
class Judging:
    """What judging depends on, beside the measures."""

    rules: Rules
    output: str
    benchmarks: BenchmarkHashes = field(default_factory=BenchmarkHashes)
    """What no kept pair may hold."""
    beginning: str = ""
    """The digest of what the directory was begun with, which its ledgers hold."""


@dataclass(eq=False)
class JudgePairs(beam.PTransform):
    """Number of a split to (bucket, (split, packed rows))."""

    judging: Judging
    packing: Packing

    def expand(self, splits):
        """Wire the step."""
        return splits | "JudgeSplit" >> beam.FlatMap(judge_split, judging=self.judging, packing=self.packing)


def judge_split(split: int, judging: Judging, packing: Packing) -> Iterator[tuple[int, tuple[int, bytes]]]:
    """Yield what the rules keep of a split, packed, by bucket."""
    rows = enumerate(judged_rows(split, judging))
    with reported_steps(), timed("pack"):
        packed = pack(((place, row) for place, row in rows if row.outcome == KEPT), packing)
    yield from deal_out(split, packed, packing)


def judged_rows(split: int, judging: Judging, with_thumbnails: bool = False) -> Iterator[LedgerRow]:
    """Yield the rows of a split's fragment with their outcome by the rules and the benchmarks."""
    rows = read_ledger(fragment_path(judging.output, split), with_thumbnails)
    repeated = read_repeated(judging.output)
    while batch := _next_batch(rows):
        with timed("rules"):
            judged = judge_batch(batch, judging, repeated)
        yield from judged


def _next_batch(rows: Iterator[LedgerRow]) -> list[LedgerRow]:
    with timed("read"):
        return list(islice(rows, _ROWS_A_BATCH))


def judge_batch(batch: list[LedgerRow], judging: Judging, repeated: frozenset[str]) -> list[LedgerRow]:
    """Return measured rows with their outcome: by the rules first, then by the benchmarks.

    A benchmark's prompt is looked for among the captions as they were measured and as the rules leave them.
    """
    judged = [judge_row(row, judging.rules, repeated) for row in batch]
    places = [place for place, row in enumerate(judged) if row.outcome == KEPT]
    looked_at = [batch[place]._replace(captions=batch[place].captions + judged[place].captions) for place in places]
    for number, drop in judging.benchmarks.find(looked_at).items():
        place = places[number]
        judged[place] = batch[place]._replace(outcome=DROPPED, reason=drop.reason, detail=drop.detail)
    return judged
