"""Read: a slice of tokens that another project made in, one fragment out, as encode leaves it, for gather to go on.

A fragment's bytes depend on nothing but the slice, the text tokenizer and the config.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import apache_beam as beam
from pydantic import ValidationError

from parti_data.captions import clean_caption
from parti_data.errors import ShardError
from parti_data.metrics import ROWS
from parti_data.step_times import count, timed, timed_each
from parti_data.storage import is_file
from parti_data.text import TextTokenizer
from parti_data.token_shard import TokenRow
from parti_data.token_sources.import_counts import ImportCounts
from parti_data.token_sources.token_grid import TokenGrid, to_views, tokens_key
from parti_data.token_sources.tokenized import NO_CAPTION, Fault, ReadsTokens, TokenizedImage, TokenSlice, writable_name
from pipelines.run_metrics import reported_steps
from pipelines.token_fragments import (
    Gathering,
    fragment_path,
    read_note,
    refuse_other_tokenizer,
    spread_rows,
    write_fragment,
)  # fmt: skip

_CAPTIONS_KEPT = 4096
"""Ids of so many captions are kept: names of classes come again and again."""


class ReadPlan(NamedTuple):
    """A slice of the source, which makes one fragment."""

    number: int
    part: TokenSlice


class Importing(NamedTuple):
    """What all slices share."""

    source: ReadsTokens
    text_tokenizer: str
    gathering: Gathering

    @property
    def grid(self) -> TokenGrid:
        """What the tokens of every image should be."""
        metadata = self.gathering.metadata
        return TokenGrid(metadata.codebook_size, metadata.grid_side, metadata.num_quantizers)


@dataclass(eq=False)
class ReadTokens(beam.PTransform):
    """ReadPlan to the number of its fragment."""

    importing: Importing

    def expand(self, plans):
        """Wire the step."""
        return plans | "ReadSlice" >> beam.Map(read_slice, importing=self.importing)


def read_slice(plan: ReadPlan, importing: Importing) -> int:
    """Write the slice's fragment unless it is there; what was dropped, and why, is its note."""
    gathering = importing.gathering
    path = fragment_path(gathering.output, plan.number)
    if not is_file(path):
        text_tokenizer = TextTokenizer(importing.text_tokenizer)
        refuse_other_tokenizer(importing.text_tokenizer, gathering.metadata.text_tokenizer, text_tokenizer.fingerprint)
        counts = ImportCounts()
        with reported_steps(), timed("write"):
            images = timed_each("read", importing.source.read(plan.part))
            rows = to_rows(images, plan.part.path, importing, text_tokenizer, counts)
            shards = spread_rows(first_of_each(rows), gathering.num_shards, gathering.seed)
            write_fragment(path, shards, gathering.metadata, counts.model_dump_json())
    return plan.number


def to_rows(
    images: Iterable[TokenizedImage],
    source: str,
    importing: Importing,
    text_tokenizer: TextTokenizer,
    counts: ImportCounts,
) -> Iterator[TokenRow]:
    """Yield the token rows of images, one a view, counting each image; those that cannot be taken are left out."""
    side = importing.gathering.metadata.image_side
    text_ids_of: Callable[[str], list[int]] = lru_cache(_CAPTIONS_KEPT)(text_tokenizer.encode)
    source = writable_name(source)
    for image in images:
        source_key = writable_name(image.source_key)
        views = image.tokens if isinstance(image.tokens, Fault) else to_views(image.tokens, importing.grid)
        captions = plain_captions(image.captions)
        if isinstance(views, Fault) or isinstance(captions, Fault):
            counts.drop(f"{source} {source_key}", views if isinstance(views, Fault) else captions)  # type: ignore[arg-type]
            continue
        with timed("text"):
            text_ids = [text_ids_of(caption) for caption in captions]
        key = tokens_key(views[0])
        counts.take(len(views))
        count(ROWS, len(views))
        flipped = image.flipped or (False,) * len(views)
        for number, tokens in enumerate(views):
            yield TokenRow(
                key, number, [0, 0, side, side], flipped[number], captions, text_ids, tokens, source, source_key
            )


def first_of_each(rows: Iterable[TokenRow]) -> Iterator[TokenRow]:
    """Yield the first row of each key and view: gather would drop the others, and holds a shard's rows at once."""
    met: set[tuple[str, int]] = set()
    for row in rows:
        if (row.key, row.view) not in met:
            met.add((row.key, row.view))
            yield row


def plain_captions(captions: list[str] | Fault | None) -> list[str] | Fault:
    """Return captions as filter would keep them, each once; the empty one where the source has none at all."""
    if captions is None:
        return [""]
    if isinstance(captions, Fault):
        return captions
    cleaned = dict.fromkeys(map(clean_caption, captions))
    return [caption for caption in cleaned if caption] or Fault(NO_CAPTION, "a caption without text")


def read_counts(path: str) -> ImportCounts:
    """Return what a fragment keeps of its counts; raises ShardError where it keeps nothing."""
    try:
        return ImportCounts.model_validate_json(read_note(path))
    except ValidationError as error:
        raise ShardError(
            f"{path}: expected what was counted of it, found {error.errors()[0]['msg']}; remove it to make it again"
        ) from None
