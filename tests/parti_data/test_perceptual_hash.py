import io
import random

import numpy as np
import pytest
import scipy.fft
from PIL import Image, ImageDraw

from parti_data import perceptual_hash as module
from parti_data.perceptual_hash import (
    HASH_BITS,
    HASH_HEX,
    band_values,
    hamming_distances,
    mirrored_hash,
    pack_hashes,
    perceptual_hash,
)

ENOUGH = 15
"""The distance within which `duplicates` merges by default."""


def picture(seed: int, width: int = 200, height: int = 160) -> np.ndarray:
    draw = np.random.default_rng(seed)
    noise = draw.integers(0, 256, (5, 6, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    ImageDraw.Draw(image).ellipse((20, 30, 90, 100), fill=tuple(int(level) for level in draw.integers(0, 256, 3)))
    return np.asarray(image)


def hash_of(pixels: np.ndarray) -> str:
    return perceptual_hash(Image.fromarray(pixels))


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def jpeg(pixels: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=40)
    return np.asarray(Image.open(io.BytesIO(buffer.getvalue())))


CHANGES = {
    "half the size": lambda pixels: np.asarray(Image.fromarray(pixels).resize((100, 80))),
    "jpeg": jpeg,
    "darker": lambda pixels: (pixels * 0.85).astype(np.uint8),
    "cropped": lambda pixels: pixels[2:-3, 3:-3],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_near_and_another_picture_is_not(change):
    for seed in range(10):
        pixels = picture(seed)
        own = hash_of(pixels)
        assert len(own) == HASH_HEX
        assert distance(own, hash_of(CHANGES[change](pixels))) <= ENOUGH, seed
        assert distance(own, hash_of(picture(seed + 100))) > 2 * ENOUGH, seed


def test_what_stands_on_a_plain_ground_is_the_same_with_more_ground_around_it():
    for seed in range(10):
        narrow, wide = (np.pad(picture(seed), ((n, n), (n, n), (0, 0)), constant_values=255) for n in (9, 25))
        assert distance(hash_of(narrow), hash_of(wide)) <= ENOUGH


def test_colour_counts():
    pixels = picture(1)
    assert distance(hash_of(pixels), hash_of(pixels[..., ::-1].copy())) > ENOUGH


def test_the_hash_of_a_mirrored_picture_follows_from_the_hash():
    for seed in range(10):
        pixels = picture(seed)
        own, mirrored = hash_of(pixels), hash_of(pixels[:, ::-1].copy())
        assert distance(mirrored_hash(own), mirrored) <= 2
        assert distance(own, mirrored) > ENOUGH
        assert mirrored_hash(mirrored_hash(own)) == own


def test_bits_say_which_thresholds_a_frequency_of_the_cosine_transform_is_over():
    square = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.int64)
    red, green, blue = (square[..., channel] / 255 for channel in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    bits = module._code(square).reshape(-1, 4)
    place = wrong = 0
    for plane, count, middle in ((luma, 32, 0.75), ((red - luma) * 0.7, 16, 0), ((blue - luma) * 0.56, 16, 0)):
        transformed = scipy.fft.dctn(plane, norm="ortho") / 32
        order = sorted((u * u + v * v, u, v) for u in range(9) for v in range(9))[:count]
        for radius, u, v in order:
            step = 0.03 / np.sqrt(1 + np.sqrt(radius))
            centre = middle if radius == 0 else 0.0
            expected = [transformed[u, v] - centre > step * level for level in (-1.5, -0.5, 0.5, 1.5)]
            wrong += int((bits[place] != expected).sum())
            place += 1
    assert place * 4 == HASH_BITS
    assert wrong <= 2  # whole numbers are rounded


def test_hashes_are_the_recorded_ones():
    y, x, channel = np.indices((48, 64, 3))
    pixels = ((x - 20) ** 2 * (channel + 1) // 9 + (y - 30) ** 2 // 4 + 3 * y * (2 - channel)) % 256
    assert hash_of(pixels.astype(np.uint8)) == GOLDEN
    assert hash_of(np.full((5, 7, 3), 200, np.uint8)) == "f" + 63 * "c"
    assert hash_of(np.zeros((1, 1, 3), np.uint8)) == "0" + 63 * "c"


GOLDEN = "0eee8e8f8fece0cfccc08c0e88ccfc08efee0080fcfffc8800eeeece8f808cc8"


def random_hashes(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [f"{draw.getrandbits(HASH_BITS):0{HASH_HEX}x}" for _ in range(count)]


def test_distances_are_those_of_whole_numbers():
    left, right = random_hashes(20), random_hashes(30, 1)
    found = hamming_distances(pack_hashes(left), pack_hashes(right))
    assert found.tolist() == [[distance(one, other) for other in right] for one in left]


def test_no_hashes_have_no_distances():
    assert hamming_distances(pack_hashes([]), pack_hashes(random_hashes(3))).shape == (0, 3)


@pytest.mark.parametrize("max_distance", [0, 3, 15, 31])
def test_hashes_within_the_distance_share_every_band_but_those_in_which_they_differ(max_distance):
    draw = random.Random(max_distance)
    for text in random_hashes(50, max_distance):
        flipped = draw.sample(range(HASH_BITS), max_distance)
        other = f"{int(text, 16) ^ sum(1 << bit for bit in flipped):0{HASH_HEX}x}"
        packed = pack_hashes([text, other])
        values = np.stack([band_values(packed, band, max_distance) for band in range(max_distance + 1)], 1)
        assert values.shape == (2, max_distance + 1)
        same = values[0] == values[1]
        assert same.any()
        if max_distance > 3:  # of longer bands only the first 62 bits are looked at
            changed = {(HASH_BITS - 1 - bit) % (max_distance + 1) for bit in flipped}
            assert same.tolist() == [band not in changed for band in range(max_distance + 1)]
