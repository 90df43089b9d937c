"""Where measured rows lie: a fragment for each split, and while it is being filled, parts of a thousand rows.

A huge tar is one split. Its parts are there from its first seconds on, and a run that was stopped goes on after the
last of them; when all rows are measured they become the fragment and go.
"""

from collections.abc import Iterable, Iterator
from itertools import count, islice

from parti_data.ledger import LedgerRow, read_ledger, write_measures
from parti_data.storage import is_file, join, list_directory, remove

FRAGMENTS = "measured"
"""The subdirectory of fragments; it stays, so that other rules can judge the same measures."""
PART_ROWS = 1000
_PART = "part-"


def fragment_name(split: int) -> str:
    """Return the name of a split's fragment in its directory."""
    return f"{FRAGMENTS}/split-{split:05d}.parquet"


def fragment_path(output: str, split: int) -> str:
    """Return the path of a split's fragment."""
    return join(output, fragment_name(split))


def part_path(output: str, split: int, part: int) -> str:
    """Return the path of a part of a split that is not yet measured whole."""
    return join(output, f"{FRAGMENTS}/{_PART}{split:05d}-{part:06d}.parquet")


def read_parts(output: str, split: int) -> Iterator[LedgerRow]:
    """Yield the rows of the parts that an earlier run left of a split."""
    for part in count():
        path = part_path(output, split, part)
        if not is_file(path):
            return
        yield from read_ledger(path, with_thumbnails=True)


def keep_parts(output: str, split: int, rows: Iterable[LedgerRow], first_row: int) -> Iterator[LedgerRow]:
    """Yield rows as they come, of which `first_row` went before; each whole part of them is written first."""
    rows = iter(rows)
    for part in count(first_row // PART_ROWS):
        batch = list(islice(rows, PART_ROWS))
        if len(batch) == PART_ROWS:
            write_measures(part_path(output, split, part), batch)
        yield from batch
        if len(batch) < PART_ROWS:
            return


def remove_parts(output: str, split: int | None = None) -> None:
    """Remove the parts of a split, or of all."""
    prefix = _PART if split is None else f"{_PART}{split:05d}-"
    for name in list_directory(join(output, FRAGMENTS)):
        if name.startswith(prefix):
            remove(join(join(output, FRAGMENTS), name))
