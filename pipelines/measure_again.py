"""Measure again only the rows that ended for some reasons, in a directory that filter has filled before.

What is retried is written down first, so that a run that was stopped goes on with it, told so or not; each fragment is
replaced whole. A row that could be used stays as it is: its image is not read, and a file that has changed may hold
more than before, but not less. The directory ends as a run on the mended source would have left it, where no other
row's bytes have changed.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace

import apache_beam as beam

from parti_data.errors import SourceError
from parti_data.ledger import KEPT, LedgerRow, read_ledger, read_outcomes, write_measures
from parti_data.sources.pairs import Location, SourceSplit
from parti_data.step_times import timed
from parti_data.storage import is_file
from pipelines.measure_pairs import (
    SOURCE_UNREADABLE,
    Measuring,
    fragment_path,
    measure_pair,
    read_pairs,
    write_fragment,
)  # fmt: skip
from pipelines.retry import Retry, refuse_forgotten
from pipelines.run_metrics import reported_steps


class FileChangedError(Exception):
    """The file of a split is another one, of the same size and without a mark that says so."""


@dataclass(eq=False)
class MeasureAgain(beam.PTransform):
    """SourceSplit to itself, when its rows that ended for the reasons are measured again."""

    measuring: Measuring
    retry: Retry

    def expand(self, splits):
        """Wire the step."""
        return splits | "MeasureSplitAgain" >> beam.Map(measure_split_again, measuring=self.measuring, retry=self.retry)


def measure_split_again(split: SourceSplit, measuring: Measuring, retry: Retry) -> SourceSplit:
    """Replace the split's fragment where rows of it ended for the reasons; a file without such rows is not opened."""
    path = fragment_path(measuring.output, split.number)
    reasons = [reason for _, reason in read_outcomes(path)] if is_file(path) else []
    numbers = {number for number, reason in enumerate(reasons) if reason in retry.reasons}
    never_skipped = replace(measuring, skips_bad_splits=False)  # its rows would be lost
    with reported_steps(), timed("write"):
        if reasons == [SOURCE_UNREADABLE] and numbers:
            write_fragment(split, measuring)
        elif split.number in retry.changed and is_file(path):
            write_measures(path, measure_file_again(split, never_skipped))
        elif numbers:
            try:
                write_measures(path, measure_rows_again(split, never_skipped, numbers))
            except FileChangedError:
                write_measures(path, measure_file_again(split, never_skipped))
    return split


def measure_rows_again(split: SourceSplit, measuring: Measuring, numbers: Container[int]) -> Iterator[LedgerRow]:
    """Yield the rows of a fragment, those of these numbers measured again; no other image is read.

    Raises FileChangedError where one of them is not in its place any more, so that the others may not be either.
    """
    pairs = read_pairs(split, measuring, numbers)
    rows = read_ledger(fragment_path(measuring.output, split.number), with_thumbnails=True)
    for number, row in enumerate(rows):
        if number not in numbers:
            yield row
            continue
        pair = next(pairs, None)
        if pair is None or pair.source_key != row.source_key or _has_moved(pair.location, row.location, split.path):
            raise FileChangedError
        yield measure_pair(pair, split.path, measuring)


def _has_moved(now: Location, before: Location, path: str) -> bool:
    """Whether an image that lies in the split's own file lies elsewhere in it, or is larger or smaller."""
    return now.path == before.path == path and now != before


def measure_file_again(split: SourceSplit, measuring: Measuring) -> Iterator[LedgerRow]:
    """Yield all rows of a file that has changed; raises SourceError where a row is lost that could be used.

    Raises ShardError where a row of it is forgotten.
    """
    refuse_forgotten(measuring.output, split)
    path = fragment_path(measuring.output, split.number)
    usable = {(row.source_key, row.key) for row in read_ledger(path) if row.outcome == KEPT}
    for pair in read_pairs(split, measuring):
        row = measure_pair(pair, split.path, measuring)
        if row.outcome == KEPT:
            usable.discard((row.source_key, row.key))
        yield row
    if usable:
        raise SourceError(
            f"{split.path}: expected every row that could be used before, found {len(usable)} gone or with another "
            f"image, such as {min(usable)[0]!r}; put that back, or run filter into a new directory"
        )
