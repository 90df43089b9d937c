"""Judge the measured rows of a split by the rules.

The number of a split enters; a small record for each row that the rules keep leaves, and one for the split itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam

from parti_data.ledger import KEPT, LedgerRow, read_ledger
from parti_data.rules import Rules, judge_row
from pipelines.measure_pairs import fragment_path


class Candidate(NamedTuple):
    """A row that the rules keep: where it stands, and what merging needs of it."""

    split: int
    row: int
    captions: list[str]


@dataclass(frozen=True)
class Judging:
    """What judging depends on, beside the measures."""

    rules: Rules
    repeated: frozenset[str]
    """Hashes of the captions that stand beside too many images."""
    output: str


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
            yield row.key, Candidate(split, number, row.captions)


def judged_rows(split: int, judging: Judging) -> Iterator[LedgerRow]:
    """Yield the rows of a split's fragment with their outcome by the rules."""
    for row in read_ledger(fragment_path(judging.output, split)):
        yield judge_row(row, judging.rules, judging.repeated)
