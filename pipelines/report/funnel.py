"""The funnel of a filter stage: how many rows ended how, and a few examples of each."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from parti_data.errors import ConfigError, PartiError, StorageError
from parti_data.images import decode
from parti_data.ledger import DROPPED, KEPT, MERGED, NEAR_DUPLICATE, OUTCOMES, LedgerRow, PairDirectory
from pipelines.report.pictures import Picture, embed
from pipelines.report.stages import FinishedStage
from pipelines.report.told import ToldOfPairs, read_told

_EXAMPLES = 6
_MAX_ROWS = 20_000
"""Ledger rows read in search of examples."""
_THUMBNAIL_PX = 128
_MAX_TEXT = 200


class Example(NamedTuple):
    """One row of the ledger; no picture where its bytes show none."""

    picture: Picture | None
    caption: str
    detail: str


class Ending(NamedTuple):
    """Rows that ended alike: an outcome as a whole, or one reason of it."""

    outcome: str
    reason: str
    count: int
    share: float
    """Of all rows read."""
    examples: list[Example]


class Funnel(NamedTuple):
    """What became of a source's rows; the note says why pictures are missing, where they are."""

    name: str
    read: int
    outcomes: list[Ending]
    reasons: list[Ending]
    note: str


class _Fetcher:
    """Thumbnails of ledger rows; remembers why the first bytes that could not be fetched could not.

    Of a source that cannot be reached nothing more is asked: each answer would be long in coming.
    """

    def __init__(self, pairs: PairDirectory):
        self._pairs = pairs
        self.note = ""
        self._is_out_of_reach = False

    def example(self, row: LedgerRow) -> Example:
        """Return a row as the page shows it."""
        pixels = self._pixels(row)
        caption = row.captions[0] if row.captions else ""
        likeness = "looks like" if row.reason == NEAR_DUPLICATE else "same image as"
        merged = f"{likeness} {row.merged_into[:8]}" if row.merged_into else ""
        more = f"{len(row.captions)} captions" if len(row.captions) > 1 else ""
        detail = (row.detail if row.detail != caption else "") or merged or more
        return Example(None if pixels is None else embed(pixels, _THUMBNAIL_PX), _cut(caption), _cut(detail))

    def _pixels(self, row: LedgerRow) -> np.ndarray | None:
        if self._is_out_of_reach or not 0 < row.size <= self._pairs.limits.max_bytes:
            return None
        try:
            image = self._pairs.fetch(row)
        except (PartiError, OSError) as error:
            self._is_out_of_reach = isinstance(error, StorageError | ConfigError)
            self.note = self.note or f"Some pictures could not be fetched from the source: {error}"
            return None
        pixels = decode(image, self._pairs.limits)
        return pixels if isinstance(pixels, np.ndarray) else None


def read_funnel(stage: FinishedStage) -> Funnel:
    """Return the funnel of a finished filter stage; where the source has gone, without pictures."""
    told = read_told(stage, ToldOfPairs)
    read, reasons = told.read, told.reasons
    counts = {KEPT: told.kept, MERGED: told.merged, DROPPED: told.dropped}
    pairs = PairDirectory(stage.path)
    fetcher = _Fetcher(pairs)
    examples = {name: [fetcher.example(row) for row in rows] for name, rows in find_examples(pairs, reasons).items()}
    return Funnel(
        stage.name,
        read,
        [Ending(outcome, "", count, _share(count, read), []) for outcome, count in counts.items()],
        [
            Ending(*_split(name), count, _share(count, read), examples.get(name, []))
            for name, count in sorted(reasons.items(), key=_place)
        ],
        fetcher.note,
    )


def find_examples(pairs: PairDirectory, reasons: dict[str, int]) -> dict[str, list[LedgerRow]]:
    """Return the first few rows of each reason; reading stops when there are enough, or after `_MAX_ROWS`."""
    missing = {name: min(count, _EXAMPLES) for name, count in reasons.items() if count}
    found: dict[str, list[LedgerRow]] = defaultdict(list)
    for _, row in zip(range(_MAX_ROWS), pairs.ledger(), strict=False):
        name = f"{row.outcome} {row.reason}".strip()
        if name in missing:
            found[name].append(row)
            missing[name] -= 1
            if not missing[name]:
                del missing[name]
        if not missing:
            break
    return found


def _split(name: str) -> tuple[str, str]:
    outcome, _, reason = name.partition(" ")
    return outcome, reason.replace("_", " ")


def _place(reason: tuple[str, int]) -> tuple[int, int, str]:
    """Return where a reason stands: kept first, then merged, then dropped, each by falling count."""
    name, count = reason
    outcome = _split(name)[0]
    return OUTCOMES.index(outcome), -count, name


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
