"""Real images to compare samples with, from whatever the project reads pairs from, as squares of the samples' side."""

from collections.abc import Iterator

import numpy as np

from model.evaluation.evaluate_config import FidelitySettings, Preprocessing
from parti_data.augmentation import LISTING_2, cut_random
from parti_data.errors import ConfigError
from parti_data.image_dataset import ImagePlaces, Images, load_pixels
from parti_data.image_index import IndexedImages, index_images
from parti_data.ledger import LedgerRow, PairDirectory
from parti_data.manifest import manifest_digest
from parti_data.recipes import apply_recipe
from parti_data.storage import join

INDEX = "real_images.parquet"
"""The ledger of images that no filter has read."""


def real_digest(settings: FidelitySettings) -> str:
    """Return the digest of the real images: of a directory's manifest, or of a source's list of files."""
    return manifest_digest(settings.real) if isinstance(settings.real, str) else settings.real.digest()


def open_real(settings: FidelitySettings, output: str) -> Images:
    """Return the real images; those of a source are first read through once, and their index written to `output`."""
    if isinstance(settings.real, str):
        return PairDirectory(settings.real)
    index_images(join(output, INDEX), settings.real, settings.limits, settings.decode_threads)
    return IndexedImages(join(output, INDEX), settings.real, settings.limits)


def choose_real(images: Images, settings: FidelitySettings) -> list[LedgerRow]:
    """Return the rows of the images that are measured, in their order."""
    places = ImagePlaces(images.kept())
    numbers = choose(len(places), settings.num_images, settings.seed, f"real images in {images}")
    return [places[number] for number in numbers]


def choose(available: int, wanted: int | None, seed: int, what: str) -> list[int]:
    """Return ascending numbers below `available`, so many as wanted; raises ConfigError where there are fewer."""
    if not available or (wanted or 0) > available:
        raise ConfigError(
            f"fidelity.num_images: expected at least {wanted or 1} {what}, found {available}; lower it or give more"
        )
    return np.sort(np.random.default_rng(seed).permutation(available)[:wanted]).tolist()


def real_pictures(images: Images, rows: list[LedgerRow], settings: FidelitySettings, side: int) -> Iterator[np.ndarray]:
    """Yield the square of each row's image, uint8 (S, S, 3)."""
    for number, pixels in enumerate(load_pixels(images, rows)):
        yield preprocess(settings.preprocessing, pixels, side, np.random.default_rng([settings.seed, number]))


def preprocess(name: Preprocessing, pixels: np.ndarray, side: int, generator: np.random.Generator) -> np.ndarray:
    """Return the square that a recipe, or DALL-E's random cut, makes of uint8 (height, width, 3)."""
    if name == "dalle_listing_2":
        return cut_random(pixels, side, LISTING_2, generator).pixels
    return apply_recipe(name, pixels, side).pixels
