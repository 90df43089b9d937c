"""Check token shards: what the manifest states, the form of each file, and every row of it; without pictures.

Rows of one key and view have one hash, by which rows are assigned to shards and ordered in them: where each row is in
its shard and in its place, two such rows stand side by side. So no key has to be kept to find that one is there twice.
"""

import re
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from parti_data.errors import PartiError, ShardError
from parti_data.progress import show_progress
from parti_data.quality import TokenMeter, TokenQuality
from parti_data.storage import digest_json, join, list_directory
from parti_data.text import TextTokenizer
from parti_data.threads import map_in_threads
from parti_data.token_directory import TokenDirectory
from parti_data.token_faults import key_faults, text_faults, token_faults
from parti_data.token_form import form_faults
from parti_data.token_shard import ShardMetadata, order_hash, read_metadata, read_row_group, token_matrix
from parti_data.views import Views
from pipelines.findings import Findings

TEXTS_A_GROUP = 64
"""Rows of each row group whose captions are tokenized again."""
_PLACES = ("source", "image_tokenizer", "text_tokenizer")
_NAME = re.compile(r"tokens-(\d{5,})-of-(\d{5,})\.parquet")


def check_tokens(directory: TokenDirectory, broken: set[str]) -> Findings:
    """Return what is found in the shards but the broken ones, which are left alone."""
    if digest_json(directory.manifest.config) != directory.metadata.config_digest:
        fault = "expected the config that its shards were made with, found another in its manifest"
        return Findings([], [f"{directory.path}: {fault}"])
    findings = Findings([], list(manifest_faults(directory)))
    text_tokenizer = _open_text_tokenizer(directory, findings)
    whole = [number for number, shard in enumerate(directory.shards) if shard.name not in broken]

    def check(number: int) -> list[str]:
        path = directory.shard_path(number)
        return [f"{path}: {fault}" for fault in shard_faults(directory, number, text_tokenizer)]

    done = 0
    with show_progress("verify rows", directory.num_rows) as bar:
        for number, faults in zip(whole, map_in_threads(check, whole), strict=True):
            findings.faults.extend(faults)
            done += directory.shards[number].rows
            bar.update(done, directory.shards[number].name)
    return findings


def manifest_faults(directory: TokenDirectory) -> Iterator[str]:
    """Yield what the manifest states that does not fit together, and files that it does not know."""
    manifest, metadata = directory.manifest, directory.metadata
    tokenizers = {name: manifest.inputs.get(name) for name in ("image_tokenizer", "text_tokenizer")}
    execution = manifest.config.get("execution", {})
    stated: dict[str, Any] = tokenizers | (execution if isinstance(execution, dict) else {"execution": execution})
    for name, expected in stated.items():
        if (found := metadata.model_dump().get(name)) != expected:
            yield f"{directory.path}: expected {name} {expected!r} as the run was configured, found {found!r}"
    rows = manifest.counts.get("rows")
    if rows != directory.num_rows:
        yield f"{directory.path}: expected {rows} rows as the manifest counts, found shards of {directory.num_rows}"
    pairs = manifest.counts.get("pairs")
    try:
        num_views = Views.model_validate(manifest.config.get("views", {})).num_views
        if pairs is not None and pairs * num_views != rows:
            yield f"{directory.path}: expected {num_views} rows of each of {pairs} pairs, found {rows} rows"
    except ValidationError as error:
        yield f"{directory.path}: expected a config that tells views, found {error.errors()[0]['msg']}"
    known = {shard.name for shard in directory.shards}
    for name in list_directory(directory.path):
        if name.endswith(".parquet") and name not in known:
            yield f"{join(directory.path, name)}: expected only files of the manifest, found another"


def shard_faults(directory: TokenDirectory, number: int, text_tokenizer: TextTokenizer | None) -> Iterator[str]:
    """Yield what is wrong with a shard whose bytes are those that the manifest states."""
    path, shard = directory.shard_path(number), directory.shards[number]
    try:
        metadata, groups = read_metadata(path)
        yield from _metadata_faults(metadata, directory.metadata)
        if sum(groups) != shard.rows:
            yield f"expected {shard.rows} rows, found {sum(groups)}"
        yield from form_faults(path, metadata, directory.row_group_rows)
        kept = _kept_quality(directory, shard.name)
        meter = TokenMeter(metadata.codebook_size) if kept else None
        rows = RowChecker(metadata, RowOrder.of(directory, shard.name), text_tokenizer, meter)
        for group in range(len(groups)):
            table = read_row_group(path, group)
            yield from (f"row group {group}, {fault}" for fault in rows.check(table))
        if meter:
            yield from _quality_faults(kept, meter.measured())
    except ShardError as error:
        yield str(error).removeprefix(f"{path}: ")


def _metadata_faults(found: ShardMetadata, expected: ShardMetadata) -> Iterator[str]:
    for name in type(found).model_fields:
        if (other := getattr(found, name)) != (stated := getattr(expected, name)):
            yield f"expected the {name} {stated!r} that the manifest states, found {other!r}"


def _kept_quality(directory: TokenDirectory, name: str) -> Any:
    """Return what the manifest keeps of a shard's tokens, None where it keeps nothing."""
    details = directory.manifest.details
    shards = details.get("quality", details).get("shards")
    return shards.get(name) if isinstance(shards, dict) else None


def _quality_faults(kept: Any, found: TokenQuality) -> Iterator[str]:
    """Yield where a shard's tokens tell something else than the manifest keeps of them."""
    try:
        stated = TokenQuality.model_validate(kept)
    except ValidationError as error:
        yield f"expected a manifest that tells the quality of its tokens, found {error.errors()[0]['msg']}"
        return
    for figure, value in stated.model_dump().items():
        if (other := getattr(found, figure)) != value:
            yield f"expected {figure} {value} as the manifest keeps, found {other}"


class RowOrder:
    """Holds rows against the place that their hash gives them."""

    def __init__(self, seed: int, shard: int, num_shards: int):
        self._seed, self._shard, self._num_shards = seed, shard, num_shards
        self._last: tuple[int, str, int] = (0, "", 0)

    @classmethod
    def of(cls, directory: TokenDirectory, name: str) -> Self:
        """Return the order of a shard by its name; raises ShardError."""
        if not (numbers := _NAME.fullmatch(name)) or int(numbers[1]) >= int(numbers[2]):
            raise ShardError("expected a name like tokens-00000-of-00001.parquet, found another")
        return cls(directory.manifest.config.get("seed", 0), int(numbers[1]), int(numbers[2]))

    def check(self, keys: list[str], views: list[int]) -> Iterator[str]:
        """Yield the first row of each way in which the next rows are out of place."""
        told: set[str] = set()
        for key, view in zip(keys, views, strict=True):
            row = (order_hash(key, view, self._seed), key, view)
            fault = self._fault(row)
            self._last = row
            if fault and fault not in told:
                told.add(fault)
                yield f"row {key}, view {view}: {fault}"

    def _fault(self, row: tuple[int, str, int]) -> str:
        if row == self._last:
            return "expected every key and view once, found them twice"
        if row[0] < self._last[0]:
            return "expected rows in the order of their hash, found it out of order"
        number = row[0] % self._num_shards
        return "" if number == self._shard else f"expected it in shard {number} by its hash, found it in {self._shard}"


class RowChecker:
    """Checks the rows of one shard, row group by row group."""

    def __init__(
        self,
        metadata: ShardMetadata,
        order: RowOrder,
        text_tokenizer: TextTokenizer | None,
        meter: TokenMeter | None,
    ):
        self._metadata, self._order = metadata, order
        self._text_tokenizer, self._meter = text_tokenizer, meter

    def check(self, table: pa.Table) -> Iterator[str]:
        """Yield what is wrong with the next row group."""
        try:
            table.validate(full=True)
        except pa.ArrowInvalid as error:
            yield f"expected columns that can be read, found {error}"
            return
        yield from key_faults(table)
        yield from text_faults(table, self._metadata.text_vocabulary_size)
        keys = table.column("key").to_pylist()
        yield from self._order.check(keys, table.column("view").to_pylist())
        beyond = list(token_faults(table, self._metadata.codebook_size))
        yield from beyond
        if self._meter and not beyond:
            self._meter.add(keys, token_matrix(table))
        if self._text_tokenizer and len(table):
            yield from _caption_faults(table, self._text_tokenizer)


def _caption_faults(table: pa.Table, text_tokenizer: TextTokenizer) -> Iterator[str]:
    """Yield the first of some rows spread over a row group whose text ids are not those of its captions."""
    places = np.unique(np.linspace(0, len(table) - 1, TEXTS_A_GROUP).astype(int))
    for row in table.select(["key", "captions", "text_ids"]).take(pa.array(places)).to_pylist():
        if row["text_ids"] != [text_tokenizer.encode(caption) for caption in row["captions"]]:
            yield f"row {row['key']}: expected the text_ids that the text tokenizer gives its captions, found others"
            return


def _open_text_tokenizer(directory: TokenDirectory, findings: Findings) -> TextTokenizer | None:
    """Return the tokenizer of the captions; where it is not at hand, None, and that is said."""
    try:
        place = read_places(directory)["text_tokenizer"]
        tokenizer = TextTokenizer(place)
    except PartiError as error:
        findings.lines.append(f"{directory.path}: captions not tokenized again, for want of what did it ({error})")
        return None
    if fault := find_replaced(directory, "text_tokenizer", place, tokenizer.fingerprint):
        findings.faults.append(fault)
        return None
    return tokenizer


def read_places(directory: TokenDirectory) -> dict[str, str]:
    """Return where a directory's source and tokenizers were; raises ShardError where its manifest does not tell."""
    places = directory.manifest.places
    if not places.keys() >= set(_PLACES):
        raise ShardError(f"{directory.path}: expected a manifest that tells the places of {_PLACES}, found none")
    return places


def find_replaced(directory: TokenDirectory, name: str, place: str, found: str) -> str:
    """Say so where a tokenizer's file is not the one that made a directory, else nothing."""
    expected = directory.manifest.inputs.get(name, "")
    if found == expected:
        return ""
    return (
        f"{place}: expected the {name} {expected[:12]} that made {directory.path}, found {found[:12]}; the file was "
        f"replaced, so {directory.manifest.stage.replace('_', '-')} into a new directory"
    )
