"""What `make bench` runs, and how it measures a skin tone."""

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.run import NAMES
from tests.benchmarks.skin_tone import compare_tones

FOLDER = Path(__file__).parent / "benchmarks"


def test_make_bench_runs_every_benchmark_once():
    written = [path.stem for path in FOLDER.glob("*.py") if "\ndef figures(" in path.read_text()]
    assert sorted(NAMES) == sorted(written)


def picture(skin: tuple[int, int, int], ground: int = 255) -> np.ndarray:
    """A square of a colour of 20 px in the middle of 64, a black edge of 2 px around it."""
    pixels = np.full((64, 64, 3), ground, np.uint8)
    pixels[20:44, 20:44] = 0
    pixels[22:42, 22:42] = skin
    return pixels


def test_a_tone_is_found_in_the_skin_and_nothing_else():
    change = compare_tones(picture((250, 200, 45)), picture((160, 100, 70), ground=251))
    assert change.num_skin == 400
    assert (change.plain.tolist(), change.toned.tolist()) == ([250, 200, 45], [160, 100, 70])
    assert change.is_darker_and_browner()
    assert change.skin == (90 + 100 + 25) / 3
    assert change.rest == 4  # the edge lies within the margin of 3 px


@pytest.mark.parametrize(
    ("skin", "is_changed"),
    [
        ((165, 108, 67), True),
        ((180, 130, 70), True),
        ((255, 202, 40), False),
        ((245, 170, 50), False),  # orange
        ((120, 120, 120), False),  # dark, not brown
        ((255, 255, 255), False),  # gone
    ],
)
def test_skin_is_darker_and_browner_where_it_is_brown(skin, is_changed):
    assert compare_tones(picture((255, 202, 40)), picture(skin)).is_darker_and_browner() == is_changed


def test_a_picture_without_skin_has_not_the_tone_that_was_asked_for():
    white = np.full((64, 64, 3), 255, np.uint8)
    change = compare_tones(white, picture((165, 108, 67)))
    assert (change.num_skin, change.is_darker_and_browner()) == (0, False)
