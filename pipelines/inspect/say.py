"""An inspection as lines of text, the same on a terminal and in a log."""

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from parti_data.captions import clean_caption
from parti_data.code_counts import entropy
from parti_data.figures import say_bytes, say_count, say_figure, say_share
from parti_data.shard_footer import TOKENS, StoredColumn
from pipelines.inspect.bars import WIDTH, Bin, bar, bin_lengths
from pipelines.inspect.measure import Inspection

_MOST_FREQUENT = 8
_SHOWN_IDS = 16
_SHOWN_CHARS = 100
_CODE_EDGES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the histogram of codes, in even shares."""


def inspection_lines(found: Inspection) -> list[str]:
    """Return all that is said of token shards."""
    parts = [
        _about(found), _made_by(found), _columns(found), _texts(found), _codes(found), _token_bytes(found), _rows(found)
    ]  # fmt: skip
    return [line for part in parts for line in [*part, ""]][:-1]


def _about(found: Inspection) -> list[str]:
    shards = found.shards
    made = shards.manifest
    rows, files = shards.num_rows, len(shards.files)
    sizes = [file.rows for file in shards.files]
    lines = [("stage", f"{made.stage}, manifest {shards.digest[:12]}" if made else "none: one file")]
    lines += [
        ("format", f"token shards, version {shards.metadata.format_version}"),
        ("shards", f"{say_count(files)}{_say_range(sizes, 'rows')}"),
        ("rows", say_count(rows)),
        ("images", _say_images(found)),
        ("captions", _say_captions(found.sums.captions)),
        ("bytes", f"{say_bytes(shards.num_bytes)}, {say_figure(shards.num_bytes / max(rows, 1))} a row"),
        ("row groups", f"{say_count(found.all_groups)}{_say_range(_group_rows(found), 'rows')}"),
        ("read", _say_read(found)),
    ]
    return [shards.path, *_aligned(lines)]


def _say_range(numbers: list[int], unit: str) -> str:
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    return f" of {say_count(low)} {unit}" if low == high else f" of {say_count(low)} to {say_count(high)} {unit}"


def _group_rows(found: Inspection) -> list[int]:
    return [rows for footer in found.footers for rows in footer.group_rows]


def _say_images(found: Inspection) -> str:
    """Say how many images there are: as the manifest counts them, else by the rows that are a first view."""
    rows, read = found.shards.num_rows, max(found.codes.rows, 1)
    stated = found.shards.manifest.counts.get("pairs") if found.shards.manifest else None
    images = stated if stated is not None else round(rows * found.sums.views[0] / read)
    about = "" if stated is not None or found.is_whole else "about "
    views = f", {say_figure(rows / images)} views an image" if images and images != rows else ", one view each"
    return f"{about}{say_count(images)}{views if images else ''}"


def _say_captions(counts: Counter[int]) -> str:
    if not (rows := counts.total()):
        return "none"
    mean = sum(number * count for number, count in counts.items()) / rows
    shares = [f"{number}: {say_share(counts[number] / rows)}" for number in sorted(counts)[:_MOST_FREQUENT]]
    return f"{say_figure(mean)} an image ({', '.join(shares)}{', …' * (len(counts) > _MOST_FREQUENT)})"


def _say_read(found: Inspection) -> str:
    if found.is_whole:
        return f"all {say_count(found.codes.rows)} rows"
    return (
        f"{say_count(found.codes.rows)} rows, {say_count(found.groups)} row groups spread over all; the rest with --all"
    )


def _made_by(found: Inspection) -> list[str]:
    stated = found.shards.metadata.model_dump()
    return ["made by", *_aligned([(name, clean_caption(str(value))) for name, value in stated.items()])]


def _columns(found: Inspection) -> list[str]:
    if not found.footers:
        return ["columns: none, for want of a row"]
    heads = ("column", "type", "stored as", "encodings", "compression", "bytes", "a row", "share")
    rows, schema = max(found.looked_at_rows, 1), found.footers[0].schema
    total = max(sum(column.num_bytes for footer in found.footers for column in footer.columns), 1)
    table: list[tuple[str, ...]] = [heads]
    for number, first in enumerate(found.footers[0].columns):
        num_bytes = sum(footer.columns[number].num_bytes for footer in found.footers)
        table.append((
            first.name, say_type(schema.field(first.name).type), first.physical_type, " ".join(first.encodings),
            _say_compression(first), say_bytes(num_bytes), say_figure(num_bytes / rows), say_share(num_bytes / total),
        ))  # fmt: skip
    of = "" if len(found.footers) == len(found.shards.files) else f", of {say_count(len(found.footers))} shards"
    return [f"columns, by {clean_caption(found.footers[0].writer)}{of}", *_table(table, num_text=5)]


def _say_compression(column: StoredColumn) -> str:
    return f"{column.compression} {say_figure(column.raw_bytes / max(column.num_bytes, 1))}x" + (
        ", statistics" if column.has_statistics else ""
    )


def say_type(kind: pa.DataType) -> str:
    """Return an Arrow type in short: uint16[64] has as many items a row, uint16[] any number."""
    if pa.types.is_fixed_size_list(kind):
        return f"{say_type(kind.value_type)}[{kind.list_size}]"
    return f"{say_type(kind.value_type)}[]" if pa.types.is_list(kind) else str(kind)


def _texts(found: Inspection) -> list[str]:
    lengths = found.sums.text_lengths
    if not (captions := lengths.total()):
        return ["text ids: none"]
    mean = sum(number * count for number, count in lengths.items()) / captions
    return [
        f"text ids of {say_count(captions)} captions: {say_figure(mean)} on average, at most {max(lengths)}",
        *_histogram(bin_lengths(lengths), captions),
    ]


def _codes(found: Inspection) -> list[str]:
    counts = found.codes.counts
    if not (tokens := int(counts.sum())):
        return ["codes: none"]
    used, size = int(np.count_nonzero(counts)), len(counts)
    order = np.argsort(-counts, kind="stable")[:_MOST_FREQUENT]
    frequent = ", ".join(f"{code} {say_share(float(counts[code]) / tokens)}" for code in order if counts[code])
    lines = [
        ("in use", f"{say_count(used)} of {say_count(size)}, {say_share(used / size)}"),
        ("entropy", f"{entropy(counts):.2f} bits a token, {math.log2(size):.2f} if all codes were as frequent"),
        ("most frequent", frequent),
    ]
    bins = bin_codes(counts)
    return [
        f"codes of {say_count(tokens)} tokens",
        *_aligned(lines),
        "  codes by how often they occur, against an even share",
        *_histogram(bins, size),
    ]


def bin_codes(counts: np.ndarray) -> list[Bin]:
    """Return how many codes, of those that occur so often (V,), occur never, and how many in some multiples of an
    even share.
    """
    even = counts.sum() / len(counts)
    places = np.searchsorted(_CODE_EDGES, counts[counts > 0] / even, side="right")
    edges = [say_figure(edge) for edge in _CODE_EDGES]
    names = [f"< {edges[0]}", *(f"{low}–{high}" for low, high in pairwise(edges)), f"≥ {edges[-1]}"]
    return [
        Bin("never", int((counts == 0).sum())),
        *(Bin(name, int((places == place).sum())) for place, name in enumerate(names)),
    ]


def _token_bytes(found: Inspection) -> list[str]:
    metadata = found.shards.metadata
    if not found.looked_at_rows:
        return ["bytes an image of its tokens: none"]
    num_bytes = sum(column.num_bytes for footer in found.footers for column in footer.columns if column.name == TOKENS)
    stored, packed_bits = num_bytes / found.looked_at_rows, math.ceil(math.log2(metadata.codebook_size))
    least, packed = (bits * metadata.num_tokens / 8 for bits in (entropy(found.codes.counts), packed_bits))
    lines = [
        ("on disk", f"{stored:,.1f}, {8 * stored / metadata.num_tokens:.2f} bits a token"),
        ("packed", f"{packed:,.1f}, {packed_bits} bits a token{_say_ratio(stored, packed)}"),
        ("entropy", f"{least:,.1f}, the least of order 0{_say_ratio(stored, least)}"),
    ]
    return [f"bytes of the {say_count(metadata.num_tokens)} tokens of a row", *_aligned(lines)]


def _say_ratio(stored: float, other: float) -> str:
    return f"; on disk {stored / other:.2f} times as much" if other else ""


def _rows(found: Inspection) -> list[str]:
    return [f"first {len(found.first_rows)} rows", *(line for row in found.first_rows for line in _say_row(row))]


def _say_row(row: dict[str, Any]) -> list[str]:
    box = " ".join(map(str, row["box"]))
    place = _cut(clean_caption(f"{row['source']} {row['source_key']}"))
    said = [("from", place)]
    for caption, ids in zip(row["captions"], row["text_ids"], strict=False):
        said += [("caption", _cut(clean_caption(caption))), ("ids", _say_ids(ids))]
    said.append(("tokens", _say_ids(row[TOKENS])))
    head = f"  {_cut(clean_caption(row['key']))}  view {row['view']}, box {box}{', flipped' * row['flipped']}"
    return [head, *(f"  {line}" for line in _aligned(said))]


def _say_ids(ids: list[int]) -> str:
    more = f" … {len(ids)} in all" if len(ids) > _SHOWN_IDS else ""
    return " ".join(map(str, ids[:_SHOWN_IDS])) + more


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _aligned(lines: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in lines)
    return [f"  {name:<{width}}  {value}" for name, value in lines]


def _histogram(bins: list[Bin], total: int) -> list[str]:
    width, most = max(len(one.name) for one in bins), max(one.count for one in bins)
    return [
        f"  {one.name:>{width}}  {bar(one.count / max(most, 1)):<{WIDTH}}  {say_share(one.count / total):>7}  "
        f"{say_count(one.count)}"
        for one in bins
    ]


def _table(rows: list[tuple[str, ...]], num_text: int) -> list[str]:
    """Return a table whose first columns are text, to the left, and whose others are numbers, to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  " + "  ".join(
            f"{cell:<{width}}" if place < num_text else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]  # fmt: skip
