"""The ledger: one row for every input row, kept or not, with its reason; and the pairs that it says are kept."""

import json
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, NonNegativeInt

from parti_data.errors import ShardError, SourceError
from parti_data.images import ImageLimits, image_key
from parti_data.manifest import check_told, read_manifest
from parti_data.sources import Source
from parti_data.sources.pairs import Location
from parti_data.sources.unpacked_tar import is_compressed
from parti_data.storage import file_version, is_local, join, open_file, publish

KEPT, MERGED, DROPPED = "kept", "merged", "dropped"
OUTCOMES = (KEPT, MERGED, DROPPED)
EXACT_DUPLICATE, NEAR_DUPLICATE = "exact_duplicate", "near_duplicate"
"""Why a row is merged."""
FORGOTTEN = "forgotten"
"""Why a row is dropped of which `parti forget` left nothing but its place, by which the rows behind it are found."""
LEDGER_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("source_key", pa.string()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("merged_into", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("num_bytes", pa.int64()),
        ("format", pa.string()),
        ("perceptual_hash", pa.string()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)
MEASURED_SCHEMA = LEDGER_SCHEMA.append(pa.field("thumbnail", pa.binary()))
"""Of the files of measures that ledgers are made of."""
_BEGINNING = b"parti_beginning"
ROW_GROUP_ROWS = 4096
_SLICE_BLOCK_BYTES = 4 << 20
FETCHES_AT_ONCE = 16
"""Images on their way from an object store, each some 30 ms."""


_NOTHING: tuple[Any, ...] = ("", "", [], 0, 0, 0, "", "", {}, {}, "", 0, 0)
"""What a row says from its detail on where there is nothing to say."""


class LedgerRow(NamedTuple):
    """What became of one input row; empty strings and zeros where there is nothing to say."""

    key: str
    source: str
    source_key: str
    outcome: str
    reason: str
    detail: str
    merged_into: str
    captions: list[str]
    width: int
    height: int
    num_bytes: int
    format: str
    perceptual_hash: str
    """In hex; empty where the image was not decoded."""
    scores: dict[str, float]
    """Numbers that the source says of the pair."""
    attributes: dict[str, str]
    """Texts that the source says of the pair: url, licence."""
    path: str
    offset: int
    size: int
    thumbnail: bytes = b""
    """A small JPEG; empty where the image was not decoded, and in every ledger: only files of measures hold it."""

    @property
    def location(self) -> Location:
        """Where the image's bytes lie."""
        return Location(self.path, self.offset, self.size)


def say_ending(row: LedgerRow) -> str:
    """Return how a row ended as manifests count it: its outcome and, where there is one, its reason."""
    return f"{row.outcome} {row.reason}".strip()


def amounts(row: LedgerRow) -> dict[str, int]:
    """Return what one row adds to the totals of a manifest: bytes read, images decoded, captions kept."""
    return {
        "image_bytes": row.num_bytes,
        "images_decoded": int(bool(row.perceptual_hash)),
        "captions_kept": len(row.captions) if row.outcome == KEPT else 0,
    }


def write_measures(path: str, rows: Iterable[LedgerRow]) -> int:
    """Write a file of measures, which hold thumbnails, whole or not at all; return how many rows it has."""
    return write_ledger(path, rows, MEASURED_SCHEMA)


def write_ledger(path: str, rows: Iterable[LedgerRow], schema: pa.Schema = LEDGER_SCHEMA) -> int:
    """Write a ledger file whole or not at all; return how many rows it has."""
    tables = (pa.Table.from_pylist([_to_record(row) for row in batch], schema) for batch in _batches(rows))
    return write_ledger_tables(path, tables, schema)


def ledger_schema(beginning: str) -> pa.Schema:
    """Return the schema of a ledger that says what its directory was begun with, by that digest."""
    return LEDGER_SCHEMA.with_metadata({_BEGINNING: beginning})


def read_beginning_digest(path: str) -> str:
    """Return what a ledger says its directory was begun with; empty where it does not say."""
    with _ledger_errors(path), open_file(path) as file:
        return (pq.read_schema(file).metadata or {}).get(_BEGINNING, b"").decode()


def write_ledger_tables(path: str, tables: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write each table as a row group of a ledger file, whole or not at all; return how many rows it has."""
    total = 0
    with publish(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            total += len(table)
    return total


def read_ledger(path: str, with_thumbnails: bool = False) -> Iterator[LedgerRow]:
    """Yield the rows of a ledger file or of one of measures, in order; thumbnails are read only where asked for."""
    schema = MEASURED_SCHEMA if with_thumbnails else LEDGER_SCHEMA
    with _ledger_errors(path), open_file(path) as file:
        for batch in _open_ledger(path, file, schema).iter_batches(ROW_GROUP_ROWS, columns=schema.names):
            yield from (_from_record(record) for record in batch.to_pylist())


def read_kept(path: str, start: int, stop: int) -> Iterator[LedgerRow]:
    """Yield the kept rows of a ledger file from number `start` to before `stop`; row groups without any stay unread."""
    first = 0
    with _ledger_errors(path), open_file(path, block_size=_SLICE_BLOCK_BYTES) as file:
        parquet = _open_ledger(path, file)
        for group, count in enumerate(_kept_by_group(path, file_version(path))):
            if max(first, start) < min(first + count, stop):
                rows = [row for row in map(_from_record, _read_records(parquet, group)) if row.outcome == KEPT]
                yield from rows[max(start - first, 0) : stop - first]
            first += count


def find_kept(path: str, keys: set[str]) -> Iterator[LedgerRow]:
    """Yield the kept rows of a ledger file that have one of these keys, in order."""
    wanted = pa.array(sorted(keys), pa.string())
    with _ledger_errors(path), open_file(path) as file:
        for batch in _open_ledger(path, file).iter_batches(ROW_GROUP_ROWS, columns=LEDGER_SCHEMA.names):
            found = batch.filter(pc.call_function("is_in", [batch["key"]], pc.SetLookupOptions(wanted))).to_pylist()
            yield from (row for row in map(_from_record, found) if row.outcome == KEPT)


def read_outcomes(path: str) -> Iterator[tuple[str, str]]:
    """Yield the outcome and the reason of each row of a ledger file, in order, reading nothing else of it."""
    with _ledger_errors(path), open_file(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(ROW_GROUP_ROWS, columns=["outcome", "reason"]):
            yield from zip(batch["outcome"].to_pylist(), batch["reason"].to_pylist(), strict=True)


@lru_cache(256)
def _kept_by_group(path: str, version: tuple[int | str, ...]) -> list[int]:
    """Return how many kept rows each row group of a ledger file has; counted once a process for each state of it."""
    with _ledger_errors(path), open_file(path) as file:
        parquet = _open_ledger(path, file)
        groups = (parquet.read_row_group(n, columns=["outcome"]) for n in range(parquet.num_row_groups))
        return [group["outcome"].to_pylist().count(KEPT) for group in groups]


def _open_ledger(path: str, file: Any, schema: pa.Schema = LEDGER_SCHEMA) -> pq.ParquetFile:
    parquet = pq.ParquetFile(file)
    if parquet.schema_arrow not in (schema, MEASURED_SCHEMA):
        missing = [field.name for field in schema if field not in list(parquet.schema_arrow)]
        raise ShardError(f"{path}: expected a ledger file, found none of its {missing}; run its stage again")
    return parquet


def _read_records(parquet: pq.ParquetFile, group: int) -> list[dict[str, Any]]:
    return parquet.read_row_group(group).to_pylist()


@contextmanager
def _ledger_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise ShardError(f"{path}: expected a ledger file, found {error}; run its stage again") from None


def _to_record(row: LedgerRow) -> dict[str, Any]:
    """Return the row as pyarrow takes it: maps as sorted pairs."""
    return row._asdict() | {"scores": sorted(row.scores.items()), "attributes": sorted(row.attributes.items())}


def read_rows(path: str, numbers: Iterable[int]) -> Iterator[LedgerRow]:
    """Yield the rows of these numbers, in order; row groups without any stay unread, and so do thumbnails."""
    wanted, first = sorted(numbers), 0
    with _ledger_errors(path), open_file(path, block_size=_SLICE_BLOCK_BYTES) as file:
        parquet = _open_ledger(path, file)
        for group in range(parquet.num_row_groups):
            last = first + parquet.metadata.row_group(group).num_rows
            inside = [number - first for number in wanted[bisect_left(wanted, first) : bisect_left(wanted, last)]]
            if inside:
                table = parquet.read_row_group(group, columns=LEDGER_SCHEMA.names)
                yield from (_from_record(record) for record in table.take(inside).to_pylist())
            first = last


def forget_record(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a record of a ledger or of measures becomes when it is forgotten: its source and its place stay."""
    nothing = _to_record(LedgerRow("", record["source"], "", DROPPED, FORGOTTEN, *_NOTHING))
    return {name: nothing[name] for name in record}


def _from_record(record: dict[str, Any]) -> LedgerRow:
    record["scores"], record["attributes"] = dict(record["scores"]), dict(record["attributes"])
    return LedgerRow(**record)


def _batches(rows: Iterable[LedgerRow]) -> Iterator[list[LedgerRow]]:
    batch: list[LedgerRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROW_GROUP_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


class ImageReader:
    """The original bytes of the images that rows of a ledger name."""

    def __init__(self, source: Any, limits: ImageLimits):
        self._source, self.limits = source, limits

    def fetch(self, row: LedgerRow) -> bytes:
        """Return the original bytes of a row's image; raises SourceError where they are not what filter read."""
        try:
            image = self._source.fetch(row.location)
        except OSError as error:  # of the machine or the network
            raise SourceError(
                f"{row.path} at {row.offset}: expected to read it, found {error.strerror or error}; mend that and run "
                "the same command again, what is finished is kept"
            ) from None
        if row.key and image_key(image) != row.key:
            raise SourceError(
                f"{row.path} at {row.offset}: expected image {row.key}, found other bytes; the source changed since "
                "filter read it, so run filter into a new directory"
            )
        return image

    def fetch_each(self, rows: Iterable[LedgerRow]) -> Iterator[tuple[LedgerRow, bytes]]:
        """Yield rows with their images, in order; from an object store several are fetched at a time."""
        waiting: deque[tuple[LedgerRow, Future[bytes]]] = deque()
        with ThreadPoolExecutor(FETCHES_AT_ONCE) as pool:
            for row in rows:
                is_alone = self._is_fetched_alone(row.path)
                while waiting and (not is_alone or len(waiting) == FETCHES_AT_ONCE):
                    yield _finish(waiting.popleft())
                if is_alone:
                    waiting.append((row, pool.submit(self.fetch, row)))
                else:
                    yield row, self.fetch(row)
            while waiting:
                yield _finish(waiting.popleft())

    def _is_fetched_alone(self, path: str) -> bool:
        """Whether an image takes one request of its own, however the rows are ordered."""
        return not (is_local(path) or is_compressed(path) or self._source.kind == "parquet")


class _PairsManifest(BaseModel):
    """What a manifest of `filter` or `shard` tells of its pairs."""

    kept: list[NonNegativeInt]
    """Rows of each file of the ledger."""
    source: Source
    limits: ImageLimits = Field(default_factory=ImageLimits)
    """As filter let images be decoded: whoever decodes them again must see the same pixels."""


class PairDirectory(ImageReader):
    """The kept pairs of a finished `filter` or `shard` directory, in ledger order."""

    def __init__(self, path: str):
        self.path = path
        self.manifest = read_manifest(path, ("filter", "shard"))
        self._files = [shard for shard in self.manifest.shards if shard.name.startswith("ledger-")]
        values = self.manifest.config | self.manifest.details
        if self.manifest.stage == "shard":
            values["source"] = {"kind": "webdataset", "path": path}
        told = check_told(path, self.manifest.stage, values, _PairsManifest)
        if len(told.kept) != len(self._files):
            raise ShardError(
                f"{path}: expected the kept rows of {len(self._files)} ledgers, found of {len(told.kept)}; run "
                f"{self.manifest.stage} into a new directory"
            )
        self._kept = told.kept
        super().__init__(told.source, told.limits)

    def __str__(self) -> str:
        return self.path

    def __len__(self) -> int:
        """Return the number of kept pairs."""
        return sum(self._kept)

    def ledger(self) -> Iterator[LedgerRow]:
        """Yield every row of the ledger, kept or not."""
        for file in self._files:
            yield from read_ledger(join(self.path, file.name))

    def kept(self, start: int = 0, stop: int | None = None) -> Iterator[LedgerRow]:
        """Yield the kept rows from number `start` to before `stop`; only row groups that hold them are read whole."""
        first, stop = 0, len(self) if stop is None else stop
        for file, count in zip(self._files, self._kept, strict=True):
            if first < stop and first + count > start:
                path = join(self.path, file.name)
                if start <= first and first + count <= stop:
                    rows = (row for row in read_ledger(path) if row.outcome == KEPT)
                else:
                    rows = read_kept(path, start - first, stop - first)
                yield from map(self._resolve, rows)
            first += count

    def find(self, keys: set[str]) -> Iterator[LedgerRow]:
        """Yield the kept rows that have one of these keys, in order, each once; no more is read than it takes."""
        left = set(keys)
        for file in self._files:
            for row in find_kept(join(self.path, file.name), keys) if left else ():
                left.discard(row.key)
                yield self._resolve(row)

    def _resolve(self, row: LedgerRow) -> LedgerRow:
        """Return the row with the path of its shard, which the ledger of `shard` states relative to the directory."""
        return row._replace(path=join(self.path, row.path)) if self.manifest.stage == "shard" else row


def _finish(fetched: tuple[LedgerRow, Future[bytes]]) -> tuple[LedgerRow, bytes]:
    return fetched[0], fetched[1].result()


def to_json(row: LedgerRow) -> str:
    """Return what a tar shard keeps of a row, as JSON."""
    return json.dumps(
        {"key": row.key, "source": row.source, "source_key": row.source_key, "captions": row.captions},
        sort_keys=True, ensure_ascii=False,
    )  # fmt: skip
