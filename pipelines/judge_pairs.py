"""Judge the measured rows of a split by the rules, and by the benchmarks that no kept pair may hold.

The number of a split enters; a small record for each row that the rules keep leaves, and one for the split itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import apache_beam as beam

from parti_data.benchmarks import BenchmarkHashes
from parti_data.errors import ShardError
from parti_data.ledger import DROPPED, KEPT, LedgerRow, read_ledger
from parti_data.rules import Rules, judge_row
from pipelines.measure_pairs import fragment_path

_ROWS_A_BATCH = 4096


class Candidate(NamedTuple):
    """A row that the rules keep: where it stands, and what merging needs of it."""

    split: int
    row: int
    captions: list[str]
    num_pixels: int = 0
    perceptual_hash: str = ""


@dataclass(frozen=True)
class Judging:
    """What judging depends on, beside the measures."""

    rules: Rules
    repeated: frozenset[str]
    """Hashes of the captions that stand beside too many images."""
    output: str
    near: bool = False
    """Whether candidates carry what finding near-duplicates needs."""
    benchmarks: BenchmarkHashes = field(default_factory=BenchmarkHashes)
    """What no kept pair may hold."""

    def needs_hashes(self) -> bool:
        """Whether every image that could be used must have a perceptual hash."""
        return self.near or bool(self.benchmarks.images)


@dataclass(eq=False)
class JudgePairs(beam.PTransform):
    """Number of a split to (key, Candidate), and (split marker, Candidate) once for each split."""

    judging: Judging

    def expand(self, splits):
        """Wire the step."""
        return splits | "JudgeSplit" >> beam.FlatMap(judge_split, judging=self.judging)


def judge_split(split: int, judging: Judging) -> Iterator[tuple[str, Candidate]]:
    """Yield the split's marker and its candidates."""
    yield f"split {split}", Candidate(split, -1, [])
    for number, row in enumerate(judged_rows(split, judging)):
        if row.outcome == KEPT:
            candidate = Candidate(split, number, row.captions)
            if judging.near:
                candidate = candidate._replace(num_pixels=row.width * row.height, perceptual_hash=row.perceptual_hash)
            yield row.key, candidate


def judged_rows(split: int, judging: Judging) -> Iterator[LedgerRow]:
    """Yield the rows of a split's fragment with their outcome by the rules and the benchmarks."""
    path = fragment_path(judging.output, split)
    rows = read_ledger(path)
    while batch := list(islice(rows, _ROWS_A_BATCH)):
        if judging.needs_hashes() and any(row.outcome == KEPT and not row.perceptual_hash for row in batch):
            raise ShardError(
                f"{path}: expected perceptual hashes, found a measured image without; an older version measured it, so "
                "filter into a new directory"
            )
        yield from judge_batch(batch, judging)


def judge_batch(batch: list[LedgerRow], judging: Judging) -> list[LedgerRow]:
    """Return measured rows with their outcome: by the rules first, then by the benchmarks.

    A benchmark's prompt is looked for among the captions as they were measured and as the rules leave them.
    """
    judged = [judge_row(row, judging.rules, judging.repeated) for row in batch]
    places = [place for place, row in enumerate(judged) if row.outcome == KEPT]
    looked_at = [batch[place]._replace(captions=batch[place].captions + judged[place].captions) for place in places]
    for number, drop in judging.benchmarks.find(looked_at).items():
        place = places[number]
        judged[place] = batch[place]._replace(outcome=DROPPED, reason=drop.reason, detail=drop.detail)
    return judged
