"""The proof that nothing else changed: files against the manifest before and after, new files against old ones.

What is compared here is read from the files; nothing of what wrote them is used but the numbers of the rows.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from parti_data.contact_sheet import cut_pairs
from parti_data.errors import ShardError
from parti_data.images import image_key
from parti_data.ledger import DROPPED, FORGOTTEN
from parti_data.manifest import ShardRecord
from parti_data.progress import show_progress
from parti_data.storage import join, on_disk, read_bytes, sha256_file
from parti_data.threads import map_in_threads
from pipelines.forget.find_rows import Keys, read_columns
from pipelines.forget.rewrite import Audited, RowChange, audited, pair_members, read_groups, read_pixels

pc: Any = pyarrow.compute  # its functions are made when it is imported, where pyright sees none

_AT_ONCE = 4096


def check_files(files: list[tuple[str, ShardRecord]], when: str) -> None:
    """Raise ShardError where a file of a (directory, record) has another digest or is gone."""

    def check(place: tuple[str, ShardRecord]) -> None:
        path, record = join(place[0], place[1].name), place[1]
        try:
            found = sha256_file(path)[:12]
        except FileNotFoundError:
            found = "none"
        if found != record.sha256[:12]:
            raise ShardError(
                f"{path}: expected {record.bytes} bytes with SHA-256 {record.sha256[:12]} {when}, found {found}; put "
                "it back as it was, or make its directory anew, then forget"
            )

    with show_progress("check files", len(files)) as bar:
        for number, _ in enumerate(map_in_threads(check, files), 1):
            bar.update(number, "files")


def prove_buried(old: str, new: str, change: RowChange) -> int:
    """Return how many rows of a ledger of filter are as they were; raises ShardError where others changed."""
    equal, first = 0, 0
    for before, after in _pairs_of(read_groups(old), read_groups(new), new):
        last = first + len(before[1])
        gone = _inside(change.gone, first, last)
        _require(len(after[1]) == len(before[1]), new, first, "as many rows")
        for record in after[1].take(gone).to_pylist():
            said = {name for name, value in record.items() if value and name != "source"}
            is_buried = said == {"outcome", "reason"} and (record["outcome"], record["reason"]) == (DROPPED, FORGOTTEN)
            _require(is_buried, new, first, "nothing of a forgotten row but its place")
        stays = np.setdiff1d(np.arange(len(before[1])), gone)
        equal += _compare(before[1].take(stays), after[1].take(stays), first + stays, change, new)
        first = last
    return equal


def prove_removed(old: str, new: str, change: RowChange, but: tuple[str, ...] = ()) -> int:
    """Return how many rows of a file are as they were and in order, `but` for some columns; raises ShardError."""
    equal = 0
    left = _remaining(old, change, but)
    numbers, before = np.empty(0, np.int64), None
    for first, table in read_groups(new):
        after = table.drop_columns(list(but))
        while len(numbers) < len(after):
            more = next(left, None)
            if more is None:
                raise _altered(new, first, "no row more than before")
            numbers = np.concatenate([numbers, more[0]])
            before = more[1] if before is None else pa.concat_tables([before, more[1]])
        if before is None or not len(after):
            continue
        equal += _compare(before.slice(0, len(after)), after, numbers[: len(after)], change, new)
        numbers, before = numbers[len(after) :], before.slice(len(after))
    rest = len(numbers) + sum(len(more[0]) for more in left)
    _require(not rest, new, equal, "every row that stays")
    return equal


def _remaining(old: str, change: RowChange, but: tuple[str, ...]) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Yield numbers and rows of what has to remain of each row group."""
    for first, table in read_groups(old):
        is_gone = np.zeros(len(table), bool)
        is_gone[_inside(change.gone, first, first + len(table))] = True
        stays = np.flatnonzero(~is_gone)
        yield first + stays, table.drop_columns(list(but)).take(stays)


def _inside(numbers: np.ndarray, first: int, last: int) -> np.ndarray:
    return numbers[np.searchsorted(numbers, first) : np.searchsorted(numbers, last)] - first


def _pairs_of(one: Iterable[Any], other: Iterable[Any], path: str) -> Iterator[tuple[Any, Any]]:
    for before, after in zip_longest(one, other):
        if before is None or after is None:
            raise _altered(path, 0, "as many parts as before")
        yield before, after


def _compare(before: pa.Table, after: pa.Table, numbers: np.ndarray, change: RowChange, path: str) -> int:
    """Return how many rows there are; raises ShardError where one differs by more than the captions it loses."""
    less = np.isin(numbers, np.fromiter(change.captions, np.int64, len(change.captions)))
    same = np.flatnonzero(~less)
    if not (before.equals(after) if len(same) == len(numbers) else before.take(same).equals(after.take(same))):
        _compare_slowly(before.take(same), after.take(same), numbers[same], path)
    for place in np.flatnonzero(less).tolist():
        one, other = before.slice(place, 1).to_pylist()[0], after.slice(place, 1).to_pylist()[0]
        captions = change.captions[int(numbers[place])]
        stays = [text not in captions for text in one["captions"]]
        for name in {"captions", "text_ids"} & one.keys():
            one[name] = [value for value, is_left in zip(one[name], stays, strict=True) if is_left]
        _require(_say(one) == _say(other), path, int(numbers[place]), "a row without those captions")
    return len(numbers)


def _compare_slowly(before: pa.Table, after: pa.Table, numbers: np.ndarray, path: str) -> None:
    """Raise ShardError for the first row that differs; a score that is no number equals itself."""
    for start in range(0, len(numbers), _AT_ONCE):
        one, other = (table.slice(start, _AT_ONCE).to_pylist() for table in (before, after))
        for place, (old, new) in enumerate(zip(one, other, strict=True)):
            _require(_say(old) == _say(new), path, int(numbers[start + place]), "the row as it was")


def _say(record: dict[str, Any]) -> str:
    return repr(sorted(record.items()))


def _require(is_so: bool, path: str, row: int, expected: str) -> None:
    if not is_so:
        raise _altered(path, row, expected)


def _altered(path: str, row: int, expected: str) -> ShardError:
    return ShardError(
        f"{path}: expected {expected}, found another at row {row} of the old file; nothing was replaced, so report it "
        "and keep the directory as it is"
    )


def prove_tar(old: str, new: str, gone: set[int], less: set[int]) -> int:
    """Return how many members of a tar are as they were, but for the pairs whose images lay at the offsets `gone`.

    Of the pairs `less` the texts may differ. Raises ShardError.
    """
    stays = (member for member in pair_members(old) if member.image not in gone)
    equal = 0
    for before, after in _pairs_of(stays, pair_members(new), new):
        _require(before.info.name == after.info.name, new, equal, "the members in order")
        if before.image in less and before.info.name.endswith((".txt", ".json")):
            continue
        headers = [(one.info.size, one.info.mode, one.info.mtime, one.info.type) for one in (before, after)]
        is_same = headers[0] == headers[1] and before.content.read() == after.content.read()
        _require(is_same, new, equal, f"member {before.info.name} as it was")
        equal += 1
    return equal


def prove_places(ledger: str, tar: str) -> int:
    """Return how many images of a tar lie where its ledger says, by their keys; raises ShardError."""
    count = 0
    with on_disk(tar) as place, open(place, "rb") as file:
        for first, table in read_groups(ledger):
            for row, record in enumerate(table.select(["key", "offset", "size"]).to_pylist(), first):
                file.seek(record["offset"])
                found = image_key(file.read(record["size"]))
                _require(found == record["key"], tar, row, f"image {record['key']} at {record['offset']}")
                count += 1
    return count


def prove_lines(old: str, new: str, rows: Counter[Audited]) -> int:
    """Return how many lines of a list are as they were; raises ShardError where others than those of `rows` went."""
    before, after = (read_bytes(path).decode().split("\n")[:-1] for path in (old, new))
    lost = Counter(before) - Counter(after)
    is_right = Counter(audited(line) for line in lost.elements()) == rows and not Counter(after) - Counter(before)
    in_order = [line for line in before if line not in lost] == [line for line in after if line not in lost]
    _require(is_right and in_order, new, len(after), "the other lines as they were")
    return len(after)


def prove_sheet(old: str, new: str, count: int, gone: list[int]) -> int:
    """Return how many pictures of a contact sheet are as they were; raises ShardError."""
    stays = [number for number in range(count) if number not in gone]
    before = cut_pairs(read_pixels(old), count)
    for number, found in zip(stays, cut_pairs(read_pixels(new), len(stays)), strict=True):
        _require(np.array_equal(before[number], found), new, number, "the picture as it was")
    return len(stays)


def refuse_left_behind(path: str, columns: list[str], keys: Keys) -> None:
    """Raise ShardError where a row of a new file has one of the keys."""
    for first, table in read_columns(path, columns, keys):
        for column in columns:
            left = pc.any(keys.are_in(table.column(column))).as_py()
            _require(not left, path, first, "no row of what is forgotten")
