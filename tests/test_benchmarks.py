"""What `make bench` runs, how it measures a skin tone, and when one network has another's loss."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.equal_loss import Run, compare, smoothed, steps_to, table
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


def falling(*losses: float) -> list[tuple[float, float]]:
    return [(100.0 * number, loss) for number, loss in enumerate(losses, 1)]


def test_a_smoothed_loss_is_the_mean_of_it_and_the_two_before():
    assert smoothed(falling(9, 6, 3, 0)) == [(100, 9), (200, 7.5), (300, 6), (400, 3)]


@pytest.mark.parametrize(
    ("level", "wanted"),
    [(5.0, 100), (4.0, 100), (3.0, 150), (2.5, 175), (2.0, 200), (1.75, 325), (1.0, 400), (0.5, math.inf)],
)
def test_a_loss_is_reached_on_the_line_between_two_points_and_the_first_time(level, wanted):
    assert steps_to(falling(4, 2, 2, 1, 2), level) == wanted


def test_a_network_is_faster_by_the_steps_and_the_time_to_the_other_ones_loss():
    plain = Run(falling(8, 8, 8, 4, 4, 4), step_s=0.1, parameters=1000)
    found = compare(plain, Run(falling(4, 4, 4, 4, 4, 1), step_s=0.15, parameters=1100))
    assert (found.steps, found.steps_speedup, found.loss) == (100, 6.0, 3.0)
    assert found.time_speedup == pytest.approx(4)
    assert (found.more_step_time, found.more_parameters) == (pytest.approx(0.5), pytest.approx(0.1))
    never = compare(plain, Run(falling(8, 8, 8, 8, 8, 8), step_s=0.15, parameters=1100))
    assert (never.steps_speedup, never.time_speedup) == (0, 0)


def test_a_table_tells_medians_and_what_seeds_differ_by():
    plain = [Run(falling(8, 4, 4, 4), 0.1, 1000) for _ in range(3)]
    other = [Run(falling(8, loss, loss, loss), 0.12, 1100) for loss in (4, 2, 1)]
    lines = table({"plain": plain, "code": other})
    assert lines[0] == "plain          1,000 parameters  100.0 [100.0, 100.0] ms a step  loss 4.0000 [4.0000, 4.0000]"
    assert "1,100 parameters (+10.0%)  120.0 [120.0, 120.0] ms a step (+20.0% [+20.0%, +20.0%])" in lines[1]
    assert "loss 2.0000 [1.0000, 4.0000]" in lines[1]
