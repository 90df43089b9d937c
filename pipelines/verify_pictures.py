"""Make a sample of rows again: encode their images and compare, decode their tokens and see what they show."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError

from model.tokenizers import Execution, ImageTokenizer, Reading, open_tokenizer
from parti_data.errors import PartiError, ShardError, TokenizerError
from parti_data.ledger import LedgerRow, PairDirectory
from parti_data.progress import show_progress
from parti_data.quality import mean_square, to_db
from parti_data.reference_picture import reference_picture
from parti_data.text import TextTokenizer
from parti_data.token_directory import TokenDirectory
from parti_data.token_shard import read_row_group
from parti_data.views import Views
from pipelines.encode_images import encode_rows, open_tokenizers
from pipelines.findings import Findings
from pipelines.verify_tokens import find_replaced, read_places

ROWS_AT_ONCE = 64
_REMADE = ("box", "flipped", "image_tokens", "text_ids")


class Maker(NamedTuple):
    """What made the tokens of a directory; of imported ones there are no pictures."""

    image_tokenizer: ImageTokenizer
    text_tokenizer: TextTokenizer | None
    pairs: PairDirectory | None
    views: Views


def check_pictures(directory: TokenDirectory, sample: int) -> Findings:
    """Return what is found by making about so many rows again, spread over all shards, as far as that can be done."""
    done = "encoded" if directory.manifest.stage == "tokenize" else "decoded"
    torch.set_num_threads(1)  # as encode does: another number of threads may change a token
    try:
        maker = _open_maker(directory)
        place = read_places(directory)["image_tokenizer"]
        if fault := find_replaced(directory, "image_tokenizer", place, maker.image_tokenizer.fingerprint):
            return Findings([], [fault])
        places = choose_rows(directory, -(-sample // maker.views.num_views))
        if maker.pairs and maker.text_tokenizer:
            return _make_again(directory, places, maker.pairs, maker.text_tokenizer, maker)
        return _decode_alone(directory, places, maker.image_tokenizer)
    except (PartiError, OSError) as error:
        line = f"{directory.path}: tokens not {done} again, for want of what made them ({error})"
        return Findings([line], [])


def choose_rows(directory: TokenDirectory, count: int) -> list[int]:
    """Return the places of some rows among those of all shards: one of each of so many equal parts, by chance, though
    the same ones of the same directory.
    """
    rng = np.random.default_rng(int(directory.digest[:16], 16))
    edges = np.linspace(0, directory.num_rows, min(count, directory.num_rows) + 1).astype(np.int64)
    return rng.integers(edges[:-1], edges[1:]).tolist()


def read_rows(directory: TokenDirectory, places: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the rows of these places, in order; each row group that holds some is read once."""
    ends = np.cumsum([shard.rows for shard in directory.shards])

    def find_group(place: int) -> tuple[int, int]:
        shard = int(np.searchsorted(ends, place, side="right"))
        return shard, (place - int(ends[shard]) + directory.shards[shard].rows) // directory.row_group_rows

    for (shard, group), inside in groupby(places, find_group):
        first = int(ends[shard]) - directory.shards[shard].rows + group * directory.row_group_rows
        table = read_row_group(directory.shard_path(shard), group)
        yield from table.take([place - first for place in inside]).to_pylist()


def _open_maker(directory: TokenDirectory) -> Maker:
    manifest, places = directory.manifest, read_places(directory)
    try:
        reading = Reading.model_validate(manifest.details.get("tokenizer", {}))
        execution = Execution.model_validate(manifest.config.get("execution", {}))
        views = Views.model_validate(manifest.config.get("views", {}))
    except ValidationError as error:
        raise ShardError(
            f"{directory.path}: expected a manifest that tells how its tokenizer is read, found "
            f"{error.errors()[0]['msg']}"
        ) from None
    if manifest.stage == "tokenize":
        pairs = PairDirectory(places["source"])
        opened = open_tokenizers(places["image_tokenizer"], places["text_tokenizer"], execution, reading)
        return Maker(*opened, pairs, views)
    if not places["image_tokenizer"]:
        raise TokenizerError("it was declared, and no file given")
    return Maker(open_tokenizer(places["image_tokenizer"], reading), None, None, Views())


def _decode_alone(directory: TokenDirectory, places: list[int], tokenizer: ImageTokenizer) -> Findings:
    tokenizer.refuse_without_decoder()
    with show_progress("verify pictures", len(places)) as bar:
        for start in range(0, len(places), ROWS_AT_ONCE):
            rows = list(read_rows(directory, places[start : start + ROWS_AT_ONCE]))
            tokenizer.decode(np.array([row["image_tokens"] for row in rows]))
            bar.update(start + len(rows))
    return Findings([f"{directory.path}: {len(places)} rows decoded again; there are no pictures to compare"], [])


def _make_again(
    directory: TokenDirectory, places: list[int], pairs: PairDirectory, text: TextTokenizer, maker: Maker
) -> Findings:
    keys = {row["key"] for row in read_rows(directory, places)}
    kept = {row.key: row for row in pairs.find(keys)}
    if len(kept) < len(keys):
        fault = (
            f"{directory.path}: expected the pairs of {len(keys)} rows in {pairs}, found {len(kept)}; the source was "
            "replaced, so tokenize into a new directory"
        )
        return Findings([], [fault])
    findings, errors = Findings([], []), []
    with show_progress("verify pictures", len(places)) as bar:
        for start in range(0, len(places), ROWS_AT_ONCE):
            stated = list(read_rows(directory, places[start : start + ROWS_AT_ONCE]))
            findings.faults.extend(_compare(directory.path, stated, kept, pairs, text, maker))
            errors += _decode_beside(stated, kept, pairs, maker.image_tokenizer)
            bar.update(start + len(stated))
    if errors:
        found = to_db(float(np.mean(errors)))
        findings.lines.append(
            f"{directory.path}: {len(errors)} rows decoded again, PSNR of their pictures {found:.1f} dB"
        )
    if not findings.faults:
        findings.lines.append(f"{directory.path}: {len(places)} rows encoded again, all ids equal")
    return findings


def _compare(
    path: str,
    stated: list[dict[str, Any]],
    kept: dict[str, LedgerRow],
    pairs: PairDirectory,
    text: TextTokenizer,
    maker: Maker,
) -> Iterator[str]:
    """Yield which rows are made otherwise than they are stated."""
    rows = {(row["key"], row["view"]): row for row in stated}
    images = iter([kept[key] for key in dict.fromkeys(row["key"] for row in stated)])
    for row in encode_rows(pairs, images, maker.image_tokenizer, text, maker.views):
        if (expected := rows.get((row.key, row.view))) is None:
            continue
        for name in _REMADE:
            again = getattr(row, name)
            if expected[name] != (again.tolist() if isinstance(again, np.ndarray) else again):
                yield (
                    f"{path}: expected the {name} that its tokenizer gives for {row.key}, found others; tokenize into "
                    "a new directory"
                )


def _decode_beside(
    stated: list[dict[str, Any]], kept: dict[str, LedgerRow], pairs: PairDirectory, tokenizer: ImageTokenizer
) -> list[float]:
    """Return the mean squared error of each row whose picture can be shown plainly; of none without a decoder."""
    try:
        tokenizer.refuse_without_decoder()
    except TokenizerError:
        return []
    images = pairs.fetch_each(kept[row["key"]] for row in stated)
    originals = [
        reference_picture(image, row["box"], row["flipped"], tokenizer.spec.image_side, pairs.limits)
        for row, (_, image) in zip(stated, images, strict=True)
    ]
    decoded = tokenizer.decode(np.array([row["image_tokens"] for row in stated])).numpy()
    return [mean_square(one, other) for one, other in zip(originals, decoded, strict=True) if one is not None]
