"""Files written anew without the rows that are forgotten; all else in them stays as it is.

A ledger of filter, and the measures beside it, keep the place of a forgotten row and nothing of what it said, for other
rows are found by their number; everywhere else the row goes. Rows that lose captions change in nothing else.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from parti_data.contact_sheet import remove_cells
from parti_data.errors import ShardError
from parti_data.images import to_png
from parti_data.ledger import (
    LEDGER_SCHEMA,
    MEASURED_SCHEMA,
    ROW_GROUP_ROWS,
    LedgerRow,
    forget_record,
    read_rows,
    to_json,
    write_ledger_tables,
)  # fmt: skip
from parti_data.sources.tar_headers import BoundedTarFile
from parti_data.storage import on_disk, open_file, publish, publish_bytes, read_bytes
from parti_data.tar_members import add_member
from parti_data.token_shard import BROKEN, ShardMetadata, say_broken, write_tables


class RowChange(NamedTuple):
    """What happens to the rows of a file, by their number."""

    gone: np.ndarray
    """Sorted."""
    captions: dict[int, frozenset[str]]
    """What rows that stay lose of their captions."""


def bury_rows(old: str, new: str, change: RowChange) -> None:
    """Write a ledger of filter, or measures, in which nothing but the place is left of the rows that go."""
    gone = set(change.gone.tolist())

    def changed() -> Iterator[pa.Table]:
        for first, table in read_groups(old):
            buried = dict.fromkeys(gone.intersection(range(first, first + len(table))), forget_record)
            yield replace_rows(table, first, buried, change)

    write_ledger_tables(new, changed(), _schema(old))


def remove_ledger_rows(old: str, new: str, change: RowChange) -> None:
    """Write a ledger without the rows that go."""
    write_ledger_tables(new, regroup(_remaining(old, change), ROW_GROUP_ROWS), _schema(old))


def remove_token_rows(old: str, new: str, change: RowChange, metadata: ShardMetadata, row_group_rows: int) -> None:
    """Write a token shard, which is held in memory meanwhile, without the rows that go."""
    write_tables(new, list(regroup(_remaining(old, change), row_group_rows)), metadata)


def move_ledger_rows(old: str, new: str, change: RowChange, tar: str) -> None:
    """Write the ledger of a tar without the rows that go, with the places that the images have in the new tar."""
    offsets, first = [place for place, _ in _images(tar)], 0

    def moved() -> Iterator[pa.Table]:
        nonlocal first
        for table in regroup(_remaining(old, change), ROW_GROUP_ROWS):
            part = pa.array(offsets[first : first + len(table)], pa.int64())
            column = table.schema.get_field_index("offset")
            first += len(table)
            yield table.set_column(column, table.schema.field(column), part)

    write_ledger_tables(new, moved(), _schema(old))


def read_groups(path: str) -> Iterator[tuple[int, pa.Table]]:
    """Yield (first row, table) of each row group; raises ShardError."""
    first = 0
    try:
        with on_disk(path) as place, pq.ParquetFile(place, page_checksum_verification=True) as parquet:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, use_threads=False)
                yield first, table
                first += len(table)
    except BROKEN as error:
        found = say_broken(error)
        raise ShardError(f"{path}: expected a Parquet file with rows, found {found}; run its stage again") from None


def _schema(path: str) -> pa.Schema:
    """Return the schema of a ledger file as it was written, which a file does not give back to the letter."""
    with open_file(path) as file:
        found = pq.read_schema(file)
    for schema in (LEDGER_SCHEMA, MEASURED_SCHEMA):
        if found == schema:
            return schema.with_metadata(found.metadata)
    raise ShardError(f"{path}: expected the columns of a ledger, found {', '.join(found.names)}; run its stage again")


def _remaining(path: str, change: RowChange) -> Iterator[pa.Table]:
    """Yield what remains of each row group."""
    for first, table in read_groups(path):
        stays = np.setdiff1d(np.arange(first, first + len(table)), change.gone, assume_unique=True) - first
        changed = replace_rows(table, first, {}, change)
        yield changed.take(stays) if len(stays) < len(table) else changed


def replace_rows(table: pa.Table, first: int, replaced: dict[int, Any], change: RowChange) -> pa.Table:
    """Return the table with some rows, by their number in the file, as functions return their records."""
    inside = range(first, first + len(table))
    less = {number: captions for number, captions in change.captions.items() if number in inside}
    numbers = sorted(replaced.keys() | less.keys())
    if not numbers:
        return table
    places = [number - first for number in numbers]
    records = table.take(places).to_pylist()
    for place, (number, record) in enumerate(zip(numbers, records, strict=True)):
        records[place] = replaced[number](record) if number in replaced else drop_captions(record, less[number])
    order = np.arange(len(table))
    order[places] = len(table) + np.arange(len(places))
    both = pa.concat_tables([table, pa.Table.from_pylist(records, table.schema)])
    return both.take(order).combine_chunks()


def drop_captions(record: dict[str, Any], captions: frozenset[str]) -> dict[str, Any]:
    """Return a record without some captions, and without their text ids where it has some."""
    places = [place for place, caption in enumerate(record["captions"]) if caption not in captions]
    lists = [name for name in ("captions", "text_ids") if name in record]
    return record | {name: [record[name][place] for place in places] for name in lists}


def regroup(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the rows of all tables in tables of so many rows, the last perhaps of fewer; of no row one empty table."""
    waiting: list[pa.Table] = []
    num_waiting, is_empty, schema = 0, True, None
    for table in tables:
        schema = table.schema
        waiting.append(table)
        num_waiting += len(table)
        while num_waiting >= rows:
            together = pa.concat_tables(waiting).combine_chunks()
            yield together.slice(0, rows)
            is_empty, waiting, num_waiting = False, [together.slice(rows)], num_waiting - rows
    if num_waiting or (is_empty and schema is not None):
        yield pa.concat_tables(waiting).combine_chunks()


def remove_members(old: str, new: str, ledger: str, change: RowChange) -> None:
    """Write a tar of pairs without those that go; of pairs that lose captions the texts are written anew."""
    gone = {row.offset for row in read_rows(ledger, change.gone)}
    numbers = sorted(change.captions)
    rows = zip(numbers, read_rows(ledger, numbers), strict=True)
    less = {row.offset: _less(row, change.captions[number]) for number, row in rows}
    with publish(new) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member in pair_members(old):
            if member.image in gone:
                continue
            row = less.get(member.image)
            text = _text(member.info.name, row) if row else None
            if text is None:
                archive.addfile(member.info, member.content)
            else:
                add_member(archive, member.info.name, text)


def _less(row: LedgerRow, captions: frozenset[str]) -> LedgerRow:
    return row._replace(captions=[caption for caption in row.captions if caption not in captions])


def _text(name: str, row: LedgerRow) -> bytes | None:
    """Return what a member that holds captions says of a row; None for one that holds none."""
    if name.endswith(".txt"):
        return row.captions[0].encode()
    return to_json(row).encode() if name.endswith(".json") else None


class PairMember(NamedTuple):
    """A member of a tar of pairs, and where the image of its pair lies."""

    info: tarfile.TarInfo
    content: BinaryIO
    image: int


def pair_members(path: str) -> Iterator[PairMember]:
    """Yield the members of a tar that shard wrote, in which the image of a pair comes first."""
    stem, image = "", 0
    with on_disk(path) as place, open(place, "rb") as file, BoundedTarFile(fileobj=file, mode="r") as archive:
        for info in archive:
            if (name := info.name.partition(".")[0]) != stem:
                stem, image = name, info.offset_data
            content: Any = archive.extractfile(info)
            yield PairMember(info, content, image)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has seen


def _images(path: str) -> Iterator[tuple[int, int]]:
    """Yield offset and size of each image of a tar of pairs."""
    for member in pair_members(path):
        if member.info.offset_data == member.image:
            yield member.image, member.info.size


Audited = tuple[str, str, str]
"""Key, source and source_key of a row that benchmarks removed."""


def remove_lines(old: str, new: str, rows: Counter[Audited]) -> None:
    """Write the list of what benchmarks removed without the lines of rows that go."""
    left = Counter(rows)
    kept = []
    for line in read_bytes(old).decode().split("\n")[:-1]:
        row = audited(line)
        left[row] -= 1
        if left[row] < 0:
            kept.append(f"{line}\n")
    publish_bytes(new, "".join(kept).encode())


def audited(line: str) -> Audited:
    """Return which row a line of that list is on."""
    record = json.loads(line)
    return record["key"], record["source"], record["source_key"]


def cut_sheet(old: str, new: str, count: int, gone: list[int]) -> None:
    """Write a contact sheet of `count` pictures without those of some numbers; those behind them move up."""
    publish_bytes(new, to_png(remove_cells(read_pixels(old), count, gone)))


def read_pixels(path: str) -> np.ndarray:
    """Return the pixels of a picture that a stage drew, uint8 (height, width, 3)."""
    with open_file(path) as file, Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def blank_picture(old: str, new: str) -> None:
    """Write a grey picture as large as another."""
    publish_bytes(new, to_png(np.full_like(read_pixels(old), 200)))
