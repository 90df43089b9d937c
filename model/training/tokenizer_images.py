"""The images that a tokenizer is trained on and measured on, wherever they come from."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from model.training.ranks import Ranks
from model.training.tokenizer_config import TrainTokenizerConfig
from parti_data.augmentation import LISTING_1, cut_random
from parti_data.errors import ConfigError
from parti_data.image_dataset import ImageDataset, Images, Reading
from parti_data.image_index import ImageShare, IndexedImages, index_images
from parti_data.ledger import PairDirectory
from parti_data.manifest import manifest_digest
from parti_data.sources.pairs import PairSource
from parti_data.storage import is_file, join

INDEXES = {"source": "images.parquet", "held_out": "held_out.parquet"}
"""The ledgers of what was read without filter."""


class TrainingImages(NamedTuple):
    """What is trained on, and what is measured on."""

    pictures: ImageDataset
    held_out: ImageDataset


def input_digests(config: TrainTokenizerConfig) -> dict[str, str]:
    """Return the digest of each input: of a directory's manifest, or of a source's list of files."""
    return {name: _digest(getattr(config, name)) for name in INDEXES if getattr(config, name)}


def _digest(source: str | PairSource) -> str:
    return manifest_digest(source) if isinstance(source, str) else source.digest()


def open_images(config: TrainTokenizerConfig, image_side: int, ranks: Ranks) -> TrainingImages:
    """Return the datasets of a begun directory; a source that no filter has read is first read through once."""
    if config.held_out and config.held_out_share:
        raise ConfigError("held_out_share: expected none beside held_out, found both; remove one of them")
    if ranks.is_first:
        for name in INDEXES:
            _index(config, name)
    ranks.from_first(None)  # wait for the indexes
    cut = _cut_by_listing_1 if config.augmentation == "dalle" else None
    reading = Reading(ranks.rank, ranks.world_size, cut, config.running.decode_threads)
    source, share = _open(config, "source"), config.held_out_share
    train = ImageShare(source, share, is_held_out=False) if share else source
    pictures = ImageDataset(train, image_side, config.batch_size, config.seed, reading=reading)
    if config.held_out or share:
        measured = ImageShare(source, share, is_held_out=True) if share else _open(config, "held_out")
        return TrainingImages(pictures, ImageDataset(measured, image_side, config.measured_pictures))
    return TrainingImages(pictures, pictures)


def _cut_by_listing_1(pixels: np.ndarray, side: int, generator: np.random.Generator) -> np.ndarray:
    return cut_random(pixels, side, LISTING_1, generator).pixels


def _index(config: TrainTokenizerConfig, name: str) -> None:
    source = getattr(config, name)
    if not isinstance(source, str):
        index_images(join(config.output, INDEXES[name]), source, config.limits, config.running.decode_threads)


def _open(config: TrainTokenizerConfig, name: str) -> Images:
    source = getattr(config, name)
    if isinstance(source, str):
        return PairDirectory(source)
    return IndexedImages(join(config.output, INDEXES[name]), source, config.limits)


def index_files(config: TrainTokenizerConfig) -> list[str]:
    """Return the names of the index files in the output."""
    return [name for name in INDEXES.values() if is_file(join(config.output, name))]


def count_dropped(config: TrainTokenizerConfig) -> dict[str, int]:
    """Return how many images of source tables could not be used, by reason."""
    reasons: Counter[str] = Counter()
    for name in INDEXES:
        opened = None if isinstance(getattr(config, name), str) else _open(config, name)
        reasons.update(opened.dropped() if isinstance(opened, IndexedImages) else {})
    return dict(sorted(reasons.items()))
