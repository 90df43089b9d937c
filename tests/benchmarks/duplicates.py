"""Near-duplicates: are changed copies found, and nothing else? On made pictures and, where they are, on Noto Emoji.

A pair is true when both are copies of one original, or one is the original itself. The emoji are the hard case: clocks,
flags and skin tones that differ in less than a crop of 5% changes.
"""

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from parti_data.images import ImageLimits, decode
from parti_data.perceptual_hash import (
    band_values,
    hamming_distances,
    mirrored_hash,
    pack_hashes,
    perceptual_hash,
    rows_a_block,
)  # fmt: skip
from parti_data.sources import WebDatasetSource
from pipelines.duplicates import Duplicates
from tests.benchmarks.photographs import make_photo
from tests.benchmarks.run import Figure

EMOJI = Path(os.environ.get("PARTI_SHARED", "../shared")) / "data" / "noto-emoji"
NUM_PHOTOS = 800
LARGEST = 40
KINDS = ("original", "resized", "jpeg", "cropped", "brightness", "all at once")
NUM_SINGLE = 5
"""The original and the copies that changed in one way; the last is told apart."""


def figures() -> Iterator[Figure]:
    distance = Duplicates().max_distance
    draw = np.random.default_rng(0)
    photo = Image.fromarray(make_photo(draw, 500, 400))
    started = time.process_time()
    for _ in range(200):
        perceptual_hash(photo)
    yield Figure("hash_ms_500x400", round((time.process_time() - started) * 5, 3), 1.5, "less")
    photos = (make_photo(draw, int(draw.integers(200, 400)), int(draw.integers(200, 400))) for _ in range(NUM_PHOTOS))
    yield from measure("photos", photos, distance)
    if EMOJI.is_dir():
        yield from measure("emoji", emoji(), distance)
    else:
        print(f"duplicates: no {EMOJI}, skipped")


def measure(name: str, pictures: Iterator[np.ndarray], distance: int) -> Iterator[Figure]:
    draw = np.random.default_rng(1)
    hashes, mirrored = [], []
    for pixels in pictures:
        hashes.append([perceptual_hash(Image.fromarray(copy)) for copy in copies(pixels, draw)])
        mirrored.append(perceptual_hash(Image.fromarray(np.ascontiguousarray(pixels[:, ::-1]))))
    single = [text for row in hashes for text in row[:NUM_SINGLE]]
    true, false, shared, found = count_pairs(single, distance)
    print(f"{name}: distance recall precision")
    for at in range(0, LARGEST + 1, 2):
        print(f"{name}: {at:8d} {true[: at + 1].sum() / true.sum():.4f} {precision(true, false, at):.4f}")
    originals = pack_hashes([row[0] for row in hashes])
    for kind, changed in zip(KINDS[1:], list(zip(*hashes, strict=True))[1:], strict=True):
        print(f"{name}: {kind} within {distance}: {share_within(originals, list(changed), distance):.4f}")
    yield Figure(f"{name}_recall", round(float(true[: distance + 1].sum() / true.sum()), 4), 0.95, "more")
    yield Figure(f"{name}_precision", round(float(precision(true, false, distance)), 4), 0.95, "more")
    back = [mirrored_hash(text) for text in mirrored]
    yield Figure(f"{name}_mirrored_recall", share_within(originals, back, distance), 0.95, "more")
    yield Figure(f"{name}_bands_recall", shared / found, 0.99, "more")


def count_pairs(hashes: list[str], distance: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return the true and the false pairs by distance, those within the distance that share a band, and all such."""
    packed = pack_hashes(hashes)
    keys = np.stack([band_values(packed, band, distance) for band in range(distance + 1)], 1)
    true, false = np.zeros(257, np.int64), np.zeros(257, np.int64)
    shared = found = 0
    step = rows_a_block(len(hashes))
    for start in range(0, len(hashes), step):
        block = hamming_distances(packed[start : start + step], packed[start:])
        row, column = np.indices(block.shape, sparse=True)
        is_pair = column > row
        is_true = (column + start) // NUM_SINGLE == (row + start) // NUM_SINGLE
        true += np.bincount(block[is_pair & is_true], minlength=257)
        near_row, near_column = np.nonzero((block <= LARGEST) & is_pair & ~is_true)
        false += np.bincount(block[near_row, near_column], minlength=257)
        near_row, near_column = np.nonzero((block <= distance) & is_pair)
        shared += int((keys[start + near_row] == keys[start + near_column]).any(1).sum())
        found += len(near_row)
    return true, false, shared, found


def precision(true: np.ndarray, false: np.ndarray, distance: int) -> float:
    return true[: distance + 1].sum() / (true[: distance + 1].sum() + false[: distance + 1].sum())


def share_within(originals: np.ndarray, changed: list[str], distance: int) -> float:
    return float((np.bitwise_count(originals ^ pack_hashes(changed)).sum(1) <= distance).mean())


def copies(pixels: np.ndarray, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the picture, a copy changed in each way, and one changed in all."""
    image = Image.fromarray(pixels)
    yield pixels
    for change in (resize, compress, crop, brighten):
        yield np.asarray(change(image, draw))
    yield np.asarray(compress(resize(brighten(crop(image, draw), draw), draw), draw))


def resize(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    scale = draw.uniform(0.5, 1.5)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def compress(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(draw.integers(30, 91)))
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def crop(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    left, top = draw.uniform(0, 0.05, 2) * image.size
    right, bottom = left + 0.95 * image.width, top + 0.95 * image.height
    return image.crop((round(left), round(top), round(right), round(bottom)))


def brighten(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(draw.uniform(0.85, 1.15))


def emoji() -> Iterator[np.ndarray]:
    """Yield every emoji, but of pictures that are the same in every pixel only the first."""
    source, seen = WebDatasetSource(kind="webdataset", path=str(EMOJI)), set()
    for split in source.splits():
        for pair in source.read(split, ImageLimits().max_bytes):
            pixels = decode(pair.image or b"", ImageLimits())
            if isinstance(pixels, np.ndarray) and pixels.tobytes() not in seen:
                seen.add(pixels.tobytes())
                yield pixels
