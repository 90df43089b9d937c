"""Which rows are forgotten: the one place that says what a name takes with it.

1. A key names every row of that image. A URL or a host names the rows with such an address.
2. An image goes as a whole: with a named row go all rows with its key, in every stage, for they are the same bytes,
   wherever they came from. A row without a key, whose image could not be had, goes alone.
3. What filter merged into a forgotten image because it looks like it goes too: nothing would stand for it, and another
   judging would bring it back as the same picture.
4. What a forgotten row was merged into because it only looks like it stays, for it is another file from another place;
   but it loses the captions that forgotten rows alone had.

Of each file the column of keys is read, in filter's ledgers that of merges too, and addresses where they are asked for;
row groups whose statistics hold no such key stay unread.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from parti_data.errors import ShardError
from parti_data.ledger import KEPT, MERGED, LedgerRow, read_rows
from parti_data.manifest import Manifest
from parti_data.progress import show_progress
from parti_data.rules import Rules, judge_row
from parti_data.storage import join, open_file
from parti_data.token_directory import STAGES as TOKEN_STAGES
from parti_data.token_shard import BROKEN, say_broken
from pipelines.forget.chain import Chain, Stage
from pipelines.forget.names import Names, match_addresses
from pipelines.fragments import fragment_name, read_repeated

pc: Any = pyarrow.compute  # its functions are made when it is imported, where pyright sees none

_GROUPS_AT_ONCE = 32
_MAY_LACK = "attributes"
_BLOCK_BYTES = 1 << 18
"""Read ahead of an object store: columns are small and far apart."""


class Keys(NamedTuple):
    """Keys that are looked for in many files."""

    values: list[str]
    """Sorted."""
    array: pa.Array

    @classmethod
    def of(cls, keys: Collection[str]) -> "Keys":
        """Return them as they are looked for."""
        values = sorted(keys)
        return cls(values, pa.array(values, pa.string()))

    def are_in(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return which rows of a column have one of them."""
        return pc.is_in(column, self.array)


class Place(NamedTuple):
    """A file of a stage."""

    stage: str
    """Its path."""
    name: str

    @property
    def path(self) -> str:
        """Where it lies."""
        return join(self.stage, self.name)


@dataclass
class Found:
    """What is to be forgotten."""

    rows: dict[Place, np.ndarray] = field(default_factory=dict)
    """Numbers of rows by file, sorted; only files that hold some."""
    keys: set[str] = field(default_factory=set)
    """Of all images that go."""
    by_name: Counter[str] = field(default_factory=Counter)
    """How many rows each name has by itself, in any file."""
    captions: dict[Place, dict[int, frozenset[str]]] = field(default_factory=dict)
    """Captions that go from rows which stay, by file and the number of the row."""
    num_alike: int = 0
    """Images that go because they look like a named one."""

    def of(self, place: Place) -> np.ndarray:
        """Return the numbers of a file's rows."""
        return self.rows.get(place, np.empty(0, np.int64))

    def add(self, place: Place, numbers: Any) -> None:
        """Take more rows of a file."""
        if len(numbers):
            self.rows[place] = np.union1d(self.of(place), np.asarray(numbers, np.int64))

    def missing(self, names: Names) -> list[str]:
        """Return the names, in words, that no row has."""
        return [name for name in names.each() if not self.by_name[name]]


def find_rows(chain: Chain, names: Names) -> Found:
    """Return all rows that the names take with them; raises ShardError for a file that cannot be read."""
    found = Found(keys=set(names.keys))
    files = [(stage, Place(stage.path, name)) for stage in chain.stages for name in stage.row_files()]
    with show_progress("find rows", len(files) * (1 + names.are_addresses)) as bar:
        done = 0
        if names.are_addresses:
            for stage, place in files:
                _find_addresses(stage, place, names, found)
                done += 1
                bar.update(done, "files")
        named, new = set(found.keys), set(found.keys)
        while new:
            before, wanted = set(found.keys), Keys.of(new)
            for number, (stage, place) in enumerate(files, 1):
                _find_keys(stage, place, wanted, names, found)
                bar.update(min(done + number, done + len(files)), "files")
            new = found.keys - before
    found.num_alike = len(found.keys - named)
    for stage in chain.stages:
        if stage.kind == "filter":
            _find_captions(chain, stage, found)
    return found


def _find_addresses(stage: Stage, place: Place, names: Names, found: Found) -> None:
    columns = ["key", "source_key", *([] if stage.kind in TOKEN_STAGES else ["attributes"])]
    for first, table in read_columns(place.path, columns):
        hits = list(match_addresses(table, names))
        rows = np.array(sorted({hit.row for hit in hits}), np.int64)
        found.by_name.update(hit.name for hit in hits)
        found.keys.update(key for key in table.column("key").take(rows).to_pylist() if key)
        found.add(place, first + rows)


def _find_keys(stage: Stage, place: Place, wanted: Keys, names: Names, found: Found) -> None:
    columns = ["key", "merged_into"] if stage.kind == "filter" else ["key"]
    for first, table in read_columns(place.path, columns, wanted):
        masks = [wanted.are_in(table.column(column)) for column in columns]
        rows = pc.indices_nonzero(masks[0] if len(masks) == 1 else pc.or_(*masks)).to_numpy()
        keys = table.column("key").take(rows).to_pylist()
        found.by_name.update(f"key {key}" for key in keys if key in names.keys)
        found.keys.update(key for key in keys if key)
        found.add(place, first + rows.astype(np.int64))


def read_columns(path: str, columns: list[str], wanted: Keys | None = None) -> Iterator[tuple[int, pa.Table]]:
    """Yield (first row, table) of some columns, many row groups at a time.

    With `wanted` only of row groups in which, by their statistics, one of the columns may hold one of the keys.
    """

    def may_hold(group: Any, _: range) -> bool:
        parts = [group.column(number) for number in range(group.num_columns)] if wanted else []
        return not wanted or any(_may_hold(part, wanted.values) for part in parts if part.path_in_schema in columns)

    yield from _read_groups(path, columns, may_hold)


def read_column_at(path: str, column: str, numbers: np.ndarray) -> list[Any]:
    """Return a column's values in some rows, by their sorted numbers; row groups without any stay unread."""

    def holds(_: Any, rows: range) -> bool:
        return bool(np.searchsorted(numbers, rows.stop) - np.searchsorted(numbers, rows.start))

    values = []
    for first, table in _read_groups(path, [column], holds):
        inside = numbers[np.searchsorted(numbers, first) : np.searchsorted(numbers, first + len(table))]
        values += table.column(column).take(pa.array(inside - first)).to_pylist()
    return values


def _read_groups(
    path: str, columns: list[str], is_read: Callable[[Any, range], bool]
) -> Iterator[tuple[int, pa.Table]]:  # fmt: skip
    """Yield (first row, table) of neighbouring row groups that are read, by their footer and their rows."""
    try:
        with open_file(path, block_size=_BLOCK_BYTES) as file:
            parquet = pq.ParquetFile(file)
            needed = [name for name in columns if name != _MAY_LACK]
            parquet.schema_arrow.empty_table().select(needed)  # raises KeyError, where reading would leave one out
            for first, groups in _runs(parquet.metadata, is_read):
                yield first, parquet.read_row_groups(groups, columns=columns, use_threads=False)
    except (*BROKEN, KeyError) as error:
        found = say_broken(error)
        raise ShardError(f"{path}: expected a Parquet file with rows, found {found}; run its stage again") from None


def _runs(footer: Any, is_read: Callable[[Any, range], bool]) -> Iterator[tuple[int, list[int]]]:
    """Yield (first row, row groups) of neighbours that have to be read."""
    first, start, groups = 0, 0, []
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        if is_read(group, range(first, first + group.num_rows)):
            start = start if groups else first
            groups.append(number)
        elif groups:
            yield start, groups
            groups = []
        first += group.num_rows
        if len(groups) == _GROUPS_AT_ONCE:
            yield start, groups
            groups = []
    if groups:
        yield start, groups


def _may_hold(part: Any, values: list[str]) -> bool:
    statistics = part.statistics
    if statistics is None or not statistics.has_min_max:
        return True
    place = bisect_left(values, statistics.min)
    return place < len(values) and values[place] <= statistics.max


def _find_captions(chain: Chain, stage: Stage, found: Found) -> None:
    """Find which captions a filter's kept rows lose, there and in what was made of it."""
    places = [Place(stage.path, name) for name in stage.row_files()]
    alike = [row for place in places if place in found.rows for row in _merged_rows(place, found)]
    survivors = {row.merged_into for row in alike if row.merged_into not in found.keys}
    if not survivors:
        return
    lost = _lost_captions(stage, places, survivors, found)
    wanted = Keys.of(lost)
    for after in [stage, *chain.after({stage.path}, ("shard", *TOKEN_STAGES))]:
        for name in after.row_files():
            place = Place(after.path, name)
            columns = ["key"] if after.kind in TOKEN_STAGES else ["key", "outcome"]
            for first, table in read_columns(place.path, columns, wanted if len(columns) == 1 else None):
                is_one = wanted.are_in(table.column("key"))
                if len(columns) > 1:
                    is_one = pc.and_(is_one, pc.equal(table.column("outcome"), KEPT))
                rows = pc.indices_nonzero(is_one)
                keys = table.column("key").take(rows).to_pylist()
                changes = {first + row: lost[key] for row, key in zip(rows.to_pylist(), keys, strict=True)}
                if changes:
                    found.captions.setdefault(place, {}).update(changes)


def _merged_rows(place: Place, found: Found) -> Iterator[LedgerRow]:
    return (row for row in read_rows(place.path, found.of(place)) if row.outcome == MERGED)


def _lost_captions(
    stage: Stage, places: list[Place], survivors: set[str], found: Found
) -> dict[str, frozenset[str]]:  # fmt: skip
    """Return the captions that each survivor took from forgotten rows and that no row of it which stays has."""
    merged: defaultdict[str, list[LedgerRow]] = defaultdict(list)
    kept: dict[str, tuple[Place, int, LedgerRow]] = {}
    wanted = set(survivors)
    roots = {key: key for key in survivors}
    for _ in range(2):  # what was merged into a survivor, then the same images as those
        for place in places:
            for number, row in _rows_of(place, wanted, found):
                if row.outcome == KEPT and row.key in survivors:
                    kept[row.key] = place, number, row
                elif row.merged_into in roots and row.key not in found.keys:
                    roots.setdefault(row.key, roots[row.merged_into])
                    merged[roots[row.merged_into]].append(row)
        wanted = roots.keys() - survivors
    lost = {}
    for key, (place, number, row) in kept.items():
        own = judged_captions(stage.manifest, stage.path, place.name, number)
        stays = own.union(*(other.captions for other in merged[key]))
        lost[key] = frozenset(row.captions) - stays
    return {key: captions for key, captions in lost.items() if captions}


def _rows_of(place: Place, keys: set[str], found: Found) -> Iterator[tuple[int, LedgerRow]]:
    """Yield number and row of those that have one of the keys or were merged into it, and are not forgotten."""
    wanted = Keys.of(keys)
    numbers: list[int] = []
    for first, table in read_columns(place.path, ["key", "merged_into"], wanted) if keys else ():
        mask = pc.or_(*(wanted.are_in(table.column(column)) for column in ("key", "merged_into")))
        numbers += [first + row for row in pc.indices_nonzero(mask).to_pylist()]
    stays = sorted(set(numbers) - set(found.of(place).tolist()))
    yield from zip(stays, read_rows(place.path, stays), strict=True)


def judged_captions(manifest: Manifest, directory: str, ledger: str, number: int) -> set[str]:
    """Return the captions that a row had by itself, before others were merged into it."""
    split = int(ledger.split("-")[1])
    (row,) = read_rows(join(directory, fragment_name(split)), [number])
    rules = Rules.model_validate(manifest.config.get("rules", {}))
    return set(judge_row(row, rules, read_repeated(directory)).captions)
