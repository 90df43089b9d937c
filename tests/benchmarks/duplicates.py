"""Near-duplicates: are changed copies found, and nothing else? On made pictures and, where they are, on Noto Emoji.

A pair is true when both are copies of one original, or one is the original itself. The emoji are the hard case: clocks,
flags and skin tones that differ in less than a crop of 5% changes, so only thumbnails tell them. Each pair is judged as
filter judges it: near by its hashes, then copies by their thumbnails.
"""

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from parti_data.copies import are_copies, largest_differences
from parti_data.images import ImageLimits, decode
from parti_data.perceptual_hash import (
    band_values,
    hamming_distances,
    hash_and_squeeze,
    mirrored_hash,
    pack_hashes,
    perceptual_hash,
    rows_a_block,
)  # fmt: skip
from parti_data.sources import WebDatasetSource
from parti_data.thumbnails import make_thumbnail, read_thumbnails
from pipelines.duplicates import Duplicates
from pipelines.group_copies import Look
from tests.benchmarks.photographs import make_photo
from tests.benchmarks.run import Figure

EMOJI = Path(os.environ.get("PARTI_SHARED", "../shared")) / "data" / "noto-emoji"
NUM_PHOTOS = 800
LARGEST = 40
ROUNDS = 5
KINDS = ("original", "resized", "jpeg", "cropped", "brightness", "all at once")
NUM_SINGLE = 5
"""The original and the copies that changed in one way; the last is told apart."""


class Pairs(NamedTuple):
    """The pairs of all copies."""

    true: np.ndarray
    """How many there are of one original, by the distance of their hashes, (257,)."""
    false: np.ndarray
    near: np.ndarray
    """The two places and the distance of each pair within the distance, (P, 3)."""
    num_shared: int
    """How many of the near ones share a band."""


def figures() -> Iterator[Figure]:
    distance = Duplicates().max_distance
    draw = np.random.default_rng(0)
    photo = Image.fromarray(make_photo(draw, 500, 400))
    _, squeezed = hash_and_squeeze(photo)
    thumbnails = read_thumbnails([make_thumbnail(squeezed)] * 64)
    yield Figure("hash_ms_500x400", milliseconds(lambda: perceptual_hash(photo), 200), 1.5, "less")
    yield Figure("thumbnail_ms", milliseconds(lambda: make_thumbnail(squeezed), 1000), 0.03, "less")
    yield Figure("compare_ms", round(milliseconds(lambda: are_copies(thumbnails, thumbnails), 10) / 64, 3), 1, "less")
    photos = (make_photo(draw, int(draw.integers(200, 400)), int(draw.integers(200, 400))) for _ in range(NUM_PHOTOS))
    yield from measure("photos", photos, distance)
    if EMOJI.is_dir():
        yield from measure("emoji", emoji(), distance)
    else:
        print(f"duplicates: no {EMOJI}, skipped")


def milliseconds(work: Callable[[], object], times: int) -> float:
    """Return the processor time of doing it once: the least of some rounds, as others share the machine."""
    taken = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(times):
            work()
        taken.append((time.process_time() - started) * 1000 / times)
    return round(min(taken), 4)


def look(pixels: np.ndarray) -> Look:
    text, squeezed = hash_and_squeeze(Image.fromarray(pixels))
    return Look(text, make_thumbnail(squeezed))


def measure(name: str, pictures: Iterator[np.ndarray], distance: int) -> Iterator[Figure]:
    draw = np.random.default_rng(1)
    looks, mirrored = [], []
    for pixels in pictures:
        looks.append([look(copy) for copy in copies(pixels, draw)])
        mirrored.append(look(np.ascontiguousarray(pixels[:, ::-1])))
    single = [one for row in looks for one in row[:NUM_SINGLE]]
    pairs = count_pairs([one.perceptual_hash for one in single], distance)
    all_true = pairs.true.sum()
    print(f"{name}: thumbnails of {np.mean([len(one.thumbnail) for one in single]):.0f} bytes before compression")
    print(f"{name}: by the hash alone: distance recall precision")
    for at in range(0, LARGEST + 1, 2):
        recall = pairs.true[: at + 1].sum() / all_true
        print(f"{name}: {at:8d} {recall:.4f} {precision(pairs.true, pairs.false, at):.4f}")
    pixels = read_thumbnails([one.thumbnail for one in single])
    left, right, apart = pairs.near.T
    differences = largest_differences(pixels[left], pixels[right])
    is_true = left // NUM_SINGLE == right // NUM_SINGLE
    print(f"{name}: with thumbnails: distance levels recall precision")
    for at in range(1, distance + 1, 4):
        for levels in (4, 6, 8, 10, 12):
            found = is_true[(apart <= at) & (differences <= levels)]
            print(f"{name}: {at:8d} {levels:6d} {found.sum() / all_true:.4f} {found.mean():.4f}")
    originals = [row[0] for row in looks]
    for kind, changed in zip(KINDS[1:], list(zip(*looks, strict=True))[1:], strict=True):
        print(f"{name}: {kind} found: {share_found(originals, list(changed), distance):.4f}")
    found = is_true[are_copies(pixels[left], pixels[right])]
    yield Figure(f"{name}_recall", round(float(found.sum() / all_true), 4), 0.95, "more")
    yield Figure(f"{name}_precision", round(float(found.mean()), 4), 0.95, "more")
    yield Figure(f"{name}_mirrored_recall", share_found(originals, mirrored, distance, is_mirrored=True), 0.95, "more")
    yield Figure(f"{name}_bands_recall", pairs.num_shared / len(pairs.near), 0.99, "more")


def count_pairs(hashes: list[str], distance: int) -> Pairs:
    packed = pack_hashes(hashes)
    keys = np.stack([band_values(packed, band, distance) for band in range(distance + 1)], 1)
    true, false = np.zeros(257, np.int64), np.zeros(257, np.int64)
    near = []
    shared = 0
    step = rows_a_block(len(hashes))
    for start in range(0, len(hashes), step):
        block = hamming_distances(packed[start : start + step], packed[start:])
        row, column = np.indices(block.shape, sparse=True)
        is_pair = column > row
        is_true = (column + start) // NUM_SINGLE == (row + start) // NUM_SINGLE
        true += np.bincount(block[is_pair & is_true], minlength=257)
        far_row, far_column = np.nonzero((block <= LARGEST) & is_pair & ~is_true)
        false += np.bincount(block[far_row, far_column], minlength=257)
        rows, columns = np.nonzero((block <= distance) & is_pair)
        shared += int((keys[start + rows] == keys[start + columns]).any(1).sum())
        near.append(np.stack([start + rows, start + columns, block[rows, columns]], 1))
    return Pairs(true, false, np.concatenate(near), shared)


def precision(true: np.ndarray, false: np.ndarray, distance: int) -> float:
    return true[: distance + 1].sum() / (true[: distance + 1].sum() + false[: distance + 1].sum())


def share_found(originals: list[Look], changed: list[Look], distance: int, is_mirrored: bool = False) -> float:
    hashes = [mirrored_hash(one.perceptual_hash) if is_mirrored else one.perceptual_hash for one in changed]
    apart = np.bitwise_count(pack_hashes([one.perceptual_hash for one in originals]) ^ pack_hashes(hashes)).sum(1)
    left, right = (read_thumbnails([one.thumbnail for one in side]) for side in (originals, changed))
    is_copy = are_copies(left, right[:, :, ::-1] if is_mirrored else right)
    return round(float((is_copy & (apart <= distance)).mean()), 4)


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
