"""Judge the measured rows of a split by the rules, and by the benchmarks that no kept pair may hold.

The number of a split enters; a small record for each row that the rules keep leaves, and one for the split itself.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import apache_beam as beam

from parti_data.benchmarks import BenchmarkHashes
from parti_data.ledger import DROPPED, KEPT, LedgerRow, read_ledger
from parti_data.rules import Rules, judge_row
from parti_data.step_times import timed
from parti_data.storage import file_version, is_file, join, publish_bytes, read_bytes
from pipelines.measure_pairs import FRAGMENTS, fragment_path
from pipelines.run_metrics import report_steps

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
    output: str
    near: bool = False
    """Whether candidates carry what finding near-duplicates needs."""
    benchmarks: BenchmarkHashes = field(default_factory=BenchmarkHashes)
    """What no kept pair may hold."""


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
    report_steps()


def judged_rows(split: int, judging: Judging) -> Iterator[LedgerRow]:
    """Yield the rows of a split's fragment with their outcome by the rules and the benchmarks."""
    rows, repeated = read_ledger(fragment_path(judging.output, split)), read_repeated(judging.output)
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


def repeated_path(output: str) -> str:
    """Return the path of the file of captions that stand in too many rows, among the fragments."""
    return join(join(output, FRAGMENTS), "repeated-captions.txt")


def write_repeated(output: str, hashes: Iterable[str]) -> None:
    """Write the hashes of the captions that stand in too many rows, a line each."""
    publish_bytes(repeated_path(output), "".join(f"{line}\n" for line in sorted(hashes)).encode())


def read_repeated(output: str) -> frozenset[str]:
    """Return those hashes; none where there is no file."""
    path = repeated_path(output)
    return _read_hashes(path, file_version(path)) if is_file(path) else frozenset()


@lru_cache(maxsize=1)
def _read_hashes(path: str, _version: tuple[int | str, ...]) -> frozenset[str]:
    return frozenset(read_bytes(path).decode().split())
