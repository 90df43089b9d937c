"""A probe: some pairs encoded in the chosen way and as the record is, float32 with torch on a CPU, to say what differs.

Nothing is written. The run itself repeats the comparison on its first pictures, for the manifest to keep.
"""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.tokenizers import RECORD, Execution, ImageTokenizer, open_tokenizer, refuse_missing
from model.tokenizers.precision import PrecisionMeasure
from parti_data.errors import SourceError
from parti_data.figures import say_count, say_figure, say_share
from parti_data.ledger import LedgerRow, PairDirectory
from parti_data.quality import mean_square, to_db
from parti_data.views import Cut, Views, load_views
from pipelines.plan.pair_slices import read_slices
from pipelines.tokenize import TokenizeConfig

_SLICE_VIEWS = 16


class WayProbe(NamedTuple):
    """What one way to run the encoder gave."""

    execution: Execution
    tokens: Tensor  # int64 (B, I)
    images_per_s: float
    """Of the encoder alone, on one thread where that is a CPU's."""
    psnr_db: float | None
    """None for a tokenizer without a decoder."""
    code_usage: float


class Probe(NamedTuple):
    """What a config was probed for."""

    pairs: int
    places: int
    all_pairs: int
    chosen: WayProbe
    record: WayProbe

    @property
    def differences(self) -> PrecisionMeasure:
        """The tokens of both ways."""
        return PrecisionMeasure(self.chosen.tokens, self.record.tokens)


def probe_tokenizer(config: TokenizeConfig, num_pairs: int) -> Probe:
    """Encode some pairs, from the first to the last kept one, both ways; raises SourceError where none is kept."""
    pairs = PairDirectory(config.source)
    if not len(pairs):
        raise SourceError(f"{config.source}: expected kept pairs, found none; see its ledger for the reasons")
    refuse_missing(config.execution)
    torch.set_num_threads(1)  # as a worker has it
    views = config.views.num_views
    slices = read_slices(pairs, max(num_pairs // views, 1), max(min(num_pairs, _SLICE_VIEWS) // views, 1))
    tokenizer = open_tokenizer(config.image_tokenizer, config.tokenizer, config.execution)
    chosen, record = _Way(tokenizer), _Way(tokenizer.executed(RECORD))
    for rows in slices.rows:
        pictures = _load_pictures(pairs, rows, tokenizer, config.views)
        for way in (chosen, record):
            way.encode(pictures)
    return Probe(len(slices.all()), len(slices.rows), len(pairs), chosen.probed(), record.probed())


def _load_pictures(
    pairs: PairDirectory, rows: list[LedgerRow], tokenizer: ImageTokenizer, views: Views
) -> np.ndarray:  # uint8 (N, S, S, 3)
    spec = tokenizer.spec
    loaded = load_views(pairs, rows, Cut(spec.image_side, spec.resize_recipe, views))
    return np.stack([view.pixels for made in loaded for view in made])


@dataclass
class _Way:
    """One way to run the encoder, and what it gave so far."""

    tokenizer: ImageTokenizer
    tokens: list[Tensor] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    """The mean squared error of each picture."""
    seconds: float = 0.0

    def encode(self, pictures: np.ndarray) -> None:
        """Encode pictures, and decode them again where there is a decoder."""
        if not self.tokens:
            self.tokenizer.encode(pictures[: self.tokenizer.batch_size])  # what it makes once is no speed
        started = time.perf_counter()
        self.tokens.append(self.tokenizer.encode(pictures))
        self.seconds += time.perf_counter() - started
        if self.tokenizer.has_decoder:
            decoded = self.tokenizer.decode(self.tokens[-1]).numpy()
            self.errors += map(mean_square, pictures, decoded)

    def probed(self) -> WayProbe:
        """Return what all pictures gave."""
        tokens = torch.cat(self.tokens)
        psnr_db = to_db(float(np.mean(self.errors))) if self.errors else None
        usage = len(tokens.unique()) / self.tokenizer.spec.codebook_size
        return WayProbe(self.tokenizer.execution, tokens, len(tokens) / self.seconds, psnr_db, usage)


def probe_lines(probe: Probe) -> list[str]:
    """Return what a probe found, in words."""
    ways = (probe.chosen, probe.record)
    rows = [
        ("", "chosen", "record"),
        ("encoder", *(_say_execution(way.execution) for way in ways)),
        ("images/s", *(say_figure(way.images_per_s) for way in ways)),
        ("PSNR", *("no decoder" if way.psnr_db is None else f"{way.psnr_db:.2f} dB" for way in ways)),
        ("codes in use", *(say_share(way.code_usage) for way in ways)),
    ]
    differing = probe.differences
    return [
        f"probe of {say_count(probe.pairs)} pairs in {say_count(probe.places)} places, of {say_count(probe.all_pairs)}",
        *(f"  {name:<13} {chosen:<28} {record}".rstrip() for name, chosen, record in rows),
        f"  {'differing':<13} {say_share(differing.differing_tokens)} of the tokens, in "
        f"{say_share(differing.differing_rows)} of the pictures",
    ]


def _say_execution(execution: Execution) -> str:
    compiled = ", compiled" if execution.compile else ""
    return f"{execution.precision}, {execution.backend} on {execution.device}{compiled}"
