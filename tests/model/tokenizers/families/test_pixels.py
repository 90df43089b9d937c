import numpy as np
import pytest
import torch

from model.tokenizers.families.pixels import RANGES, from_pixels, to_pixels

EVERY = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
U8 = np.arange(256)


def fed(scale: str) -> np.ndarray:
    return to_pixels(EVERY, scale)[0, 0].flatten().numpy()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("unit", U8.astype(np.float32) / np.float32(255)),
        ("symmetric", (U8.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)),
        ("symmetric_float64", (U8 / 127.5 - 1).astype(np.float32)),
        ("symmetric", U8.astype(np.float32) / np.float32(127.5) - np.float32(1)),
        ("dalle", np.float32(0.8) * (U8.astype(np.float32) / np.float32(255)) + np.float32(0.1)),
    ],
)
def test_each_value_is_the_float_that_its_project_computes(scale, expected):
    assert fed(scale).dtype == np.float32
    assert np.array_equal(fed(scale), expected)
    assert np.allclose((fed(scale)[0], fed(scale)[-1]), RANGES[scale])


def test_two_ways_to_minus_one_and_one_are_not_the_same_floats():
    assert not np.array_equal(fed("symmetric"), fed("symmetric_float64"))


@pytest.mark.parametrize("scale", RANGES)
def test_pixels_come_back(scale):
    assert torch.equal((from_pixels(to_pixels(EVERY, scale), scale) * 255).round().byte(), EVERY)
