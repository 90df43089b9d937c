"""Encode: a slice of kept pairs in, one fragment out, with a batch of token rows for each final shard.

Rows go to shards by the hash of key and seed. The encoder runs on one thread a worker, in batches of one size in one
order, so a fragment's bytes depend on nothing but the slice and the tokenizers; another thread loads pictures for it.
"""

import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import torch

from model.tokenizers import (
    RECORD,
    Execution,
    ImageTokenizer,
    Reading,
    TokenizerNetwork,
    open_network,
    refuse_missing,
    tokenizer_files,
)
from parti_data.ledger import LedgerRow, PairDirectory
from parti_data.manifest import refuse_changed_input
from parti_data.metrics import IMAGE_BYTES, ROWS
from parti_data.quality import QualityFloors
from parti_data.read_ahead import read_ahead
from parti_data.recipes import Box
from parti_data.step_times import count, timed, timed_each
from parti_data.storage import file_size, file_version, is_file, is_local, sha256_file
from parti_data.text import TextTokenizer
from parti_data.token_shard import ShardMetadata, TokenRow
from parti_data.views import CENTER, Cut, Views, load_views
from pipelines.run_metrics import reported_steps
from pipelines.slice_gate import SliceGate, judge_slice, read_quality, to_note
from pipelines.token_fragments import Gathering, fragment_path, refuse_other_tokenizer, spread_rows, write_fragment

PICTURES_LOADED = 16
"""Pictures are loaded at least so many at a time."""
PICTURES_A_PROCESS = 32
"""So many a process where processes decode."""
BATCHES_AHEAD = 2
_LARGEST_HASHED_BYTES = 256 << 20
_loading = threading.Lock()


class EncodePlan(NamedTuple):
    """Kept rows `first` to before `last`, which make one fragment."""

    number: int
    first: int
    last: int


class Encoding(NamedTuple):
    """What all slices share: the tokenizers, and how rows spread over the shards."""

    source: str
    image_tokenizer: str
    text_tokenizer: str
    metadata: ShardMetadata
    num_shards: int
    seed: int
    output: str
    execution: Execution = RECORD
    reading: Reading = Reading()
    views: Views = CENTER
    quality: QualityFloors = QualityFloors()
    decode_processes: int = 0

    def gathering(self, num_fragments: int) -> Gathering:
        """Return what gather is told."""
        return Gathering(self.output, self.metadata, num_fragments, self.num_shards, self.seed)


class View(NamedTuple):
    """Which part of a row's image a picture shows."""

    number: int
    box: Box
    flipped: bool


class PictureBatch(NamedTuple):
    """N pictures, ready for the encoder, each with its row; a row of several views comes as often."""

    rows: list[LedgerRow]
    views: list[View]
    pictures: np.ndarray  # uint8 (N, S, S, 3)
    text_ids: list[list[list[int]]]


@dataclass(eq=False)
class EncodeImages(beam.PTransform):
    """EncodePlan to the number of its fragment."""

    encoding: Encoding

    def expand(self, plans):
        """Wire the step."""
        return plans | "EncodeSlice" >> beam.Map(encode_slice, encoding=self.encoding)


@reported_steps()
def encode_slice(plan: EncodePlan, encoding: Encoding) -> int:
    """Write the slice's fragment unless it is there; raises TokenizerError where its tokens are no good."""
    path, sheet = (place(encoding.output, plan.number) for place in (fragment_path, sheet_path))
    if not is_file(path):
        torch.set_num_threads(1)
        image_tokenizer, text_tokenizer = open_tokenizers(
            encoding.image_tokenizer, encoding.text_tokenizer, encoding.execution, encoding.reading
        )
        refuse_other_tokenizer(encoding.image_tokenizer, encoding.metadata.image_tokenizer, image_tokenizer.fingerprint)
        refuse_other_tokenizer(encoding.text_tokenizer, encoding.metadata.text_tokenizer, text_tokenizer.fingerprint)
        pairs = PairDirectory(encoding.source)
        gate = SliceGate(plan.number, plan.first, pairs, image_tokenizer, encoding.quality, sheet)
        if plan.number == 0 and encoding.execution != RECORD:
            gate.compared = encoding.views
        with timed("write"):
            kept = pairs.kept(plan.first, plan.last)
            encoded = encode_rows(
                pairs, kept, image_tokenizer, text_tokenizer, encoding.views, encoding.decode_processes
            )
            with closing(encoded) as rows:
                shards = spread_rows(gate.watch(rows), encoding.num_shards, encoding.seed)
            refuse_changed_input(encoding.source, encoding.metadata.input_digest)
            write_fragment(path, shards, encoding.metadata, to_note(gate.measured()))
    judge_slice(read_quality(path), encoding.quality, sheet)
    return plan.number


def sheet_path(output: str, number: int) -> str:
    """Return the path of a slice's contact sheet."""
    return fragment_path(output, number).removesuffix(".arrow") + ".png"


def open_tokenizers(
    image_tokenizer: str,
    text_tokenizer: str,
    execution: Execution = RECORD,
    reading: Reading = Reading(),  # noqa: B008
) -> tuple[ImageTokenizer, TextTokenizer]:
    """Return both tokenizers, loaded once a process as long as their files stay the same."""
    refuse_missing(execution)
    files = (*tokenizer_files(image_tokenizer, reading), text_tokenizer)
    versions = tuple(_version(path) if is_file(path) else "" for path in files)
    with _loading:
        return _open_tokenizers(image_tokenizer, text_tokenizer, execution, reading, versions)  # type: ignore[arg-type]


def _version(path: str) -> str:
    """Return what changes with a file's content; of an object store what it says itself, to spare a download, and so
    of a large file, which a published tokenizer may be a part of: this is asked for each slice.
    """
    is_hashed = is_local(path) and file_size(path) <= _LARGEST_HASHED_BYTES
    return sha256_file(path) if is_hashed else str(file_version(path))


@lru_cache(maxsize=1)
def _open_tokenizers(
    image_tokenizer: str, text_tokenizer: str, execution: Execution, reading: Reading, versions: tuple
) -> tuple[ImageTokenizer, TextTokenizer]:
    network = _open_network(image_tokenizer, reading, versions[:-1])  # type: ignore[arg-type]
    return ImageTokenizer(network, execution), TextTokenizer(text_tokenizer)


@lru_cache(maxsize=1)
def _open_network(path: str, reading: Reading, _versions: tuple) -> TokenizerNetwork:
    return open_network(path, reading)


def encode_rows(
    pairs: PairDirectory,
    rows: Iterator[LedgerRow],
    image_tokenizer: ImageTokenizer,
    text_tokenizer: TextTokenizer,
    views: Views = CENTER,
    decode_processes: int = 0,
) -> Generator[TokenRow, None, None]:
    """Yield the token rows of each kept row, one a view, in order; a thread loads the next pictures while some are
    encoded.

    Close it where it is not read to its end.
    """
    batches = load_batches(pairs, rows, image_tokenizer, text_tokenizer, views, decode_processes)
    with closing(read_ahead(batches, BATCHES_AHEAD)) as loaded:
        for batch in loaded:
            yield from encode_batch(batch, image_tokenizer)


def load_batches(
    pairs: PairDirectory,
    rows: Iterator[LedgerRow],
    image_tokenizer: ImageTokenizer,
    text_tokenizer: TextTokenizer,
    views: Views = CENTER,
    decode_processes: int = 0,
) -> Iterator[PictureBatch]:
    """Yield kept rows with their pictures and text ids, in order, in numbers that the encoder takes without padding."""
    size, spec = image_tokenizer.batch_size, image_tokenizer.spec
    rows = timed_each("ledger", rows)

    def load_each() -> Iterator[tuple[LedgerRow, View, np.ndarray, list[list[int]]]]:
        while group := list(islice(rows, max(PICTURES_LOADED, PICTURES_A_PROCESS * decode_processes))):
            loaded = load_views(pairs, group, Cut(spec.image_side, spec.resize_recipe, views), decode_processes)
            for row, made in zip(group, loaded, strict=True):
                with timed("text"):
                    text_ids = [text_tokenizer.encode(caption) for caption in row.captions]
                for number, view in enumerate(made):
                    yield row, View(number, view.box, view.flipped), view.pixels, text_ids

    each = load_each()
    while several := list(islice(each, -(-PICTURES_LOADED // size) * size)):
        batch_rows, shown, pictures, text_ids = zip(*several, strict=True)
        yield PictureBatch(list(batch_rows), list(shown), np.stack(pictures), list(text_ids))


def encode_batch(batch: PictureBatch, image_tokenizer: ImageTokenizer) -> Iterator[TokenRow]:
    """Yield the token row of each picture."""
    with timed("encode"):
        tokens = image_tokenizer.encode(batch.pictures).numpy()
    count(ROWS, len(batch.rows))
    firsts = (row for row, view in zip(batch.rows, batch.views, strict=True) if view.number == 0)
    count(IMAGE_BYTES, sum(row.num_bytes for row in firsts))
    for row, view, text_ids, image_tokens in zip(batch.rows, batch.views, batch.text_ids, tokens, strict=True):
        yield TokenRow(
            row.key, view.number, list(view.box), view.flipped, row.captions, text_ids, image_tokens, row.source,
            row.source_key,
        )  # fmt: skip


def shard_metadata(
    image_tokenizer: ImageTokenizer,
    text_tokenizer: TextTokenizer,
    config_digest: str,
    input_digest: str,
    views: Views = CENTER,
    execution: Execution = RECORD,
) -> ShardMetadata:
    """Return what every shard says of its making; raises ConfigError where the recipe's library is missing."""
    spec = image_tokenizer.spec
    return ShardMetadata(
        image_tokenizer=image_tokenizer.fingerprint,
        image_tokenizer_name=spec.name,
        codebook_size=spec.codebook_size,
        grid_side=spec.grid_side,
        num_quantizers=spec.num_quantizers,
        image_side=spec.image_side,
        resize_recipe=views.name_recipe(spec.resize_recipe),
        resize_library=views.library(spec.resize_recipe),
        precision=execution.precision,
        device=execution.device,
        backend=execution.backend,
        compile=execution.compile,
        text_tokenizer=text_tokenizer.fingerprint,
        text_vocabulary_size=text_tokenizer.vocabulary_size,
        config_digest=config_digest,
        input_digest=input_digest,
    )
