"""A probe: some pairs encoded in the chosen way and as the record is, float32 with torch on a CPU, to say what differs.

Nothing is written. The run itself repeats the comparison on the sample of its first slice, for the manifest to keep.
"""

import time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.tokenizers import RECORD, Execution, ImageTokenizer, open_tokenizer
from model.tokenizers.precision import PrecisionMeasure
from parti_data.errors import SourceError
from parti_data.figures import say_count, say_figure, say_share
from parti_data.ledger import PairDirectory
from parti_data.quality import psnr_db
from parti_data.views import Cut, load_views
from pipelines.plan.pair_slices import read_slices
from pipelines.tokenize import TokenizeConfig

_SLICE_ROWS = 16


class WayProbe(NamedTuple):
    """What one way to run the encoder gave."""

    execution: Execution
    tokens: Tensor  # int64 (B, I)
    images_per_s: float
    """Of the encoder alone, on one thread where that is a CPU's."""
    psnr_db: float
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
    torch.set_num_threads(1)  # as a worker has it
    slices = read_slices(pairs, num_pairs, min(num_pairs, _SLICE_ROWS))
    tokenizer = open_tokenizer(config.image_tokenizer, config.tokenizer, config.execution)
    rows, spec = slices.all(), tokenizer.spec
    views = load_views(pairs, rows, Cut(spec.image_side, spec.resize_recipe, config.views))
    pictures = np.stack([view.pixels for made in views for view in made])
    chosen = _probe_way(tokenizer, pictures)
    record = _probe_way(open_tokenizer(config.image_tokenizer, config.tokenizer, RECORD), pictures)
    return Probe(len(rows), len(slices.rows), len(pairs), chosen, record)


def _probe_way(tokenizer: ImageTokenizer, pictures: np.ndarray) -> WayProbe:
    tokenizer.encode(pictures[: tokenizer.batch_size])  # what is made at the first use is no part of the speed
    started = time.perf_counter()
    tokens = tokenizer.encode(pictures)
    seconds = time.perf_counter() - started
    usage = len(tokens.unique()) / tokenizer.spec.codebook_size
    psnr = psnr_db(pictures, tokenizer.decode(tokens).numpy())
    return WayProbe(tokenizer.execution, tokens, len(pictures) / seconds, psnr, usage)


def probe_lines(probe: Probe) -> list[str]:
    """Return what a probe found, in words."""
    ways = (probe.chosen, probe.record)
    rows = [
        ("", "chosen", "record"),
        ("encoder", *(_say_execution(way.execution) for way in ways)),
        ("images/s", *(say_figure(way.images_per_s) for way in ways)),
        ("PSNR", *(f"{way.psnr_db:.2f} dB" for way in ways)),
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
