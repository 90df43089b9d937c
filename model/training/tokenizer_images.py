"""The images that a job is trained on and measured on, wherever they come from."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from model.training.image_config import ImagesConfig
from model.training.ranks import Ranks
from parti_data.augmentation import LISTING_1, cut_random
from parti_data.errors import ConfigError
from parti_data.held_out import is_held_out
from parti_data.image_dataset import ImageDataset, Images, Reading
from parti_data.image_index import ChosenImages, IndexedImages, index_images
from parti_data.ledger import PairDirectory
from parti_data.manifest import BEGUN, MANIFEST, manifest_digest
from parti_data.sources.pairs import PairSource
from parti_data.storage import is_file, join

INDEXES = {"source": "images.parquet", "held_out": "held_out.parquet"}
"""The ledgers of what was read without filter."""


class TrainingImages(NamedTuple):
    """What is trained on, and what is measured on."""

    pictures: ImageDataset
    held_out: ImageDataset
    """Without held-out images, those that are trained on."""

    @property
    def is_held_out(self) -> bool:
        """Whether what is measured on is never trained on."""
        return self.held_out is not self.pictures


def input_digests(config: ImagesConfig) -> dict[str, str]:
    """Return the digest of each input: of a directory's manifest, or of a source's list of files."""
    return {name: _digest(getattr(config, name)) for name in INDEXES if getattr(config, name)}


def _digest(source: str | PairSource) -> str:
    return manifest_digest(source) if isinstance(source, str) else source.digest()


def refuse_unfit_directories(config: ImagesConfig) -> None:
    """Raise ConfigError where finished directories leave nothing to train or to measure on; before anything is begun,
    as another share means another output.
    """
    if config.held_out and config.held_out_share:
        raise ConfigError("held_out_share: expected none beside held_out, found both; remove one of them")
    directories = {name: path for name in INDEXES if isinstance(path := getattr(config, name), str)}
    for name, path in directories.items():
        if path and not is_file(join(path, MANIFEST)) and not is_file(join(path, BEGUN)):
            raise ConfigError(
                f"{name}: expected a directory that filter or shard finished, found none at {path}; run one of them, "
                f"or name a folder of images by {name}.kind=images {name}.path={path}"
            )
    if directories.keys() == INDEXES.keys():
        _split(config)


def open_images(config: ImagesConfig, image_side: int, ranks: Ranks) -> TrainingImages:
    """Return the datasets of a begun directory; a source that no filter has read is first read through once."""
    if ranks.is_first:
        for name in INDEXES:
            _index(config, name)
    ranks.from_first(None)  # wait for the indexes
    cut = _cut_by_listing_1 if config.augmentation == "dalle" else None
    reading = Reading(ranks.rank, ranks.world_size, cut, config.running.decode_threads)
    trained, measured = _split(config)
    pictures = ImageDataset(trained, image_side, config.batch_size, config.seed, reading=reading)
    held_out = ImageDataset(measured, image_side, config.measured_pictures) if measured else pictures
    return TrainingImages(pictures, held_out)


def _split(config: ImagesConfig) -> tuple[Images, Images | None]:
    """Return what is trained on and what is measured on, without a common image; raises ConfigError."""
    source, share = _open(config, "source"), config.held_out_share
    if share:
        _refuse_one_sided(source, share)
        trained = ChosenImages(source, lambda key: not is_held_out(key, share))
        return trained, ChosenImages(source, lambda key: is_held_out(key, share), config.measured_pictures)
    if not config.held_out:
        return source, None
    held_out = _open(config, "held_out")
    keys = {row.key for row in held_out.kept()}
    common = {row.key for row in source.kept() if row.key in keys}
    if common and common == keys:
        raise ConfigError(f"held_out: expected images that are not in {source}, found none in {held_out}; name others")
    return source, ChosenImages(held_out, lambda key: key not in common, config.measured_pictures)


def _refuse_one_sided(source: Images, share: float) -> None:
    sides: set[bool] = set()
    for row in source.kept():
        sides.add(is_held_out(row.key, share))
        if len(sides) > 1:
            return
    if sides:
        found, remedy = ("all", "lower") if sides.pop() else ("none", "raise")
        raise ConfigError(
            f"held_out_share: expected some images of {source} to be held out, found {found} at {share}; {remedy} it, "
            "in a new output if this one is begun"
        )


def _cut_by_listing_1(pixels: np.ndarray, side: int, generator: np.random.Generator) -> np.ndarray:
    return cut_random(pixels, side, LISTING_1, generator).pixels


def _index(config: ImagesConfig, name: str) -> None:
    source = getattr(config, name)
    if not isinstance(source, str):
        index_images(join(config.output, INDEXES[name]), source, config.limits, config.running.decode_threads)


def _open(config: ImagesConfig, name: str) -> Images:
    source = getattr(config, name)
    if isinstance(source, str):
        return PairDirectory(source)
    return IndexedImages(join(config.output, INDEXES[name]), source, config.limits)


def index_files(config: ImagesConfig) -> list[str]:
    """Return the names of the index files in the output."""
    return [name for name in INDEXES.values() if is_file(join(config.output, name))]


def count_dropped(config: ImagesConfig) -> dict[str, int]:
    """Return how many images of source tables could not be used, by reason."""
    reasons: Counter[str] = Counter()
    for name in INDEXES:
        opened = None if isinstance(getattr(config, name), str) else _open(config, name)
        reasons.update(opened.dropped() if isinstance(opened, IndexedImages) else {})
    return dict(sorted(reasons.items()))
