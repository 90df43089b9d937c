"""What `parti filter --retry-reason` measures again, and whether the config and the source may have changed for it.

The reasons are those of measuring; a rule's reason is a matter of `--rejudge`. Of the config, a limit may be loosened
when the rows that it dropped are retried: no other row measures otherwise. Of the source, a file may have changed when
rows of it are retried.
"""

import difflib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from parti_data.errors import ConfigError, ShardError
from parti_data.ledger import FORGOTTEN, KEPT, read_outcomes
from parti_data.manifest import Beginning, read_beginning, reopen, require_reopening
from parti_data.sources.pairs import SourceSplit
from parti_data.storage import canonical_json, is_file, join, list_directory, publish_bytes, read_bytes, remove
from pipelines.fragments import FRAGMENTS, fragment_path
from pipelines.measure_pairs import MEASURED_REASONS, SOURCE_UNREADABLE

RULE_REASONS = (
    "image_too_small", "image_too_elongated", "image_blank", "image_placeholder", "opted_out", "licence_not_allowed",
    "domain_blocked", "score_missing", "score_out_of_range", "caption_missing", "caption_too_short", "caption_too_long",
    "caption_boilerplate", "caption_repeated", "caption_mostly_numbers", "caption_with_contact", "caption_with_markup",
    "caption_with_adult_text", "caption_wrong_language",
    "exact_duplicate", "near_duplicate", "benchmark_image", "benchmark_caption",
)  # fmt: skip
"""Why a row is not kept that was measured."""
LOOSENED_BY = {
    "limits.max_bytes": "image_too_many_bytes",
    "limits.max_pixels": "image_too_many_pixels",
    "limits.formats": "image_format_not_allowed",
    "limits.animated": "image_animated",
    "source.max_tar_bytes": SOURCE_UNREADABLE,
}
"""What may be loosened, and the reason of all rows that then measure otherwise."""
_PENDING = f"{FRAGMENTS}/retrying.json"
SPLITS = f"{FRAGMENTS}/splits.json"
"""Which files there are, and how large, a line each: what has changed since is told from it."""
_THREADS = 16


class Retry(NamedTuple):
    """What is measured again, as it stood when it began."""

    reasons: list[str]
    changed: list[int]
    """Numbers of the splits whose files have changed; they are read whole."""
    num_rows: int
    """Rows that ended for these reasons."""
    num_usable: int
    """Rows of all that could be used."""
    written: list[int]
    """Numbers of the splits whose fragments it writes, anew or for the first time."""


class Counts(NamedTuple):
    """How many rows of a fragment ended for some reasons, and how many could be used."""

    num_rows: int
    num_usable: int


def check_reasons(reasons: Iterable[str]) -> None:
    """Raise ConfigError for a reason that no measuring gives."""
    for reason in reasons:
        where = f"--retry-reason {reason}"
        if reason in RULE_REASONS:
            raise ConfigError(
                f"{where}: expected why an image could not be used, found what rules decide; change the rules and "
                "add --rejudge"
            )
        if reason not in MEASURED_REASONS:
            near = difflib.get_close_matches(reason, MEASURED_REASONS, n=3, cutoff=0)
            raise ConfigError(f"{where}: expected a reason of the ledger, found none; did you mean {', '.join(near)}?")


def begin_retry(
    output: str, beginning: Beginning, splits: list[SourceSplit], reasons: Iterable[str], changeable: tuple[str, ...]
) -> Retry | None:
    """Return what to measure again, written down, in a directory that is open for it; None where nothing is wanted.

    What an earlier run left undone is wanted too. Raises ShardError where more has changed than `changeable` and a
    retry for these reasons allow.
    """
    pending = _read_pending(output)
    wanted = sorted(set(reasons).union(pending.reasons if pending else []))
    if not wanted:
        return None
    begun = read_beginning(output, beginning.stage)
    counts = count_rows(output, splits, wanted)
    changed = sorted(set(find_changed(output, splits)).union(pending.changed if pending else []))
    if pending is None:
        _refuse_changes_elsewhere(output, splits, counts, changed)
    changeable = (*changeable, *retry_changes(begun, beginning, wanted))
    require_reopening(output, beginning, changeable)
    num_rows, num_usable = (sum(column) for column in zip(*counts, strict=True))
    written = _find_written(output, splits, counts, changed)
    retry = Retry(wanted, changed, *(pending[2:4] if pending else (num_rows, num_usable)), written)
    if retry.num_rows or retry.changed:
        publish_bytes(join(output, _PENDING), canonical_json(retry._asdict()).encode())
    reopen(output, beginning, changeable, anew=retry.num_rows > 0 or bool(retry.changed))
    return retry


def _read_pending(output: str) -> Retry | None:
    path = join(output, _PENDING)
    return Retry(**{"written": [], **json.loads(read_bytes(path))}) if is_file(path) else None


def _find_written(output: str, splits: list[SourceSplit], counts: list[Counts], changed: list[int]) -> list[int]:
    folder = join(output, FRAGMENTS)
    there = {join(folder, name) for name in list_directory(folder)}
    return [
        split.number
        for split, count in zip(splits, counts, strict=True)
        if count.num_rows or split.number in changed or fragment_path(output, split.number) not in there
    ]


def end_retry(output: str, splits: list[SourceSplit], retry: Retry) -> str:
    """Forget what was to be measured again, now that it is, and return how it went, in words."""
    publish_bytes(join(output, SPLITS), _describe_splits(splits))
    remove(join(output, _PENDING))
    usable = sum(counts.num_usable for counts in count_rows(output, splits, retry.reasons))
    rows = "1 row" if retry.num_rows == 1 else f"{retry.num_rows} rows"
    return f"retry: {rows} read again, {usable - retry.num_usable} more than before can be used"


def retry_changes(begun: Beginning, now: Beginning, reasons: list[str]) -> list[str]:
    """Return what of a beginning may differ: the source's digest, and the limits that these reasons allow to loosen."""
    allowed = [name for name, reason in LOOSENED_BY.items() if reason in reasons and _is_looser(name, begun, now)]
    return ["inputs.source", *(f"config.{name}" for name in allowed)]


def _is_looser(name: str, begun: Beginning, now: Beginning) -> bool:
    table, key = name.split(".")
    before, after = begun.config[table].get(key), now.config[table].get(key)
    if isinstance(before, int) and isinstance(after, int):
        return after > before
    if isinstance(before, list) and isinstance(after, list):
        return set(after) >= set(before)
    return (before, after) == ("drop", "first_frame")


def count_rows(output: str, splits: list[SourceSplit], reasons: list[str]) -> list[Counts]:
    """Return the counts of each split's fragment; of none where there is no fragment."""

    def count(split: SourceSplit) -> Counts:
        path = fragment_path(output, split.number)
        rows = list(read_outcomes(path)) if is_file(path) else []
        return Counts(sum(reason in reasons for _, reason in rows), sum(outcome == KEPT for outcome, _ in rows))

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(count, splits))


def remember_splits(output: str, splits: list[SourceSplit]) -> None:
    """Write down which files there are, and how large, where that is not written yet."""
    if not is_file(join(output, SPLITS)):
        publish_bytes(join(output, SPLITS), _describe_splits(splits))


def _describe_splits(splits: list[SourceSplit]) -> bytes:
    return b"".join(canonical_json(split).encode() + b"\n" for split in splits)


def find_changed(output: str, splits: list[SourceSplit]) -> list[int]:
    """Return the numbers of the splits whose files have changed; raises ShardError where there are others."""
    path = join(output, SPLITS)
    if not is_file(path):  # stopped before any file was read
        return []
    known = [_as_split(json.loads(line)) for line in read_bytes(path).splitlines()]
    before, now = {split._replace(marker=()) for split in known}, {split._replace(marker=()) for split in splits}
    if other := sorted(before ^ now):
        verb = "is gone" if other[0] in before else "is new"
        raise ShardError(
            f"{output}: expected the files that it was begun with, found that {other[0].path} {verb}; put it back, or "
            "filter into a new directory"
        )
    return [split.number for split, old in zip(splits, known, strict=True) if split != old]


def _as_split(values: list[Any]) -> SourceSplit:
    number, path, first, count, marker = values
    return SourceSplit(number, path, first, count, tuple(marker))


def refuse_forgotten(output: str, split: SourceSplit) -> None:
    """Raise ShardError where rows of a split are forgotten: in a file that has changed they cannot be told any more."""
    (counts,) = count_rows(output, [split], [FORGOTTEN])
    if counts.num_rows:
        raise ShardError(
            f"{split.path}: expected a file as it was, as rows of it are forgotten (parti forget), found that it has "
            "changed; put it back, or filter into a new directory and forget there again"
        )


def _refuse_changes_elsewhere(output: str, splits: list[SourceSplit], counts: list[Counts], changed: list[int]) -> None:
    """Raise ShardError where a file has changed that was measured and of which no row is retried, or one forgotten."""
    for number in changed:
        refuse_forgotten(output, splits[number])
        if not counts[number].num_rows and is_file(fragment_path(output, number)):
            raise ShardError(
                f"{splits[number].path}: expected a file as it was, as none of its rows is retried, found that it has "
                "changed; put it back, add the reasons of its rows, or filter into a new directory"
            )
