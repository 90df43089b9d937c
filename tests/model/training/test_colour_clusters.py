"""k-means over distinct colours equals k-means over the pixels themselves, by others' code and by hand."""

import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

from model.training.colour_clusters import Colours, choose_centres, count_colours, most_used_first, move_centres


def few_colours(count: int = 3000, seed: int = 0) -> np.ndarray:
    """Pixels that recur, uint8 (N, 3)."""
    return np.random.default_rng(seed).integers(0, 5, (count, 3), dtype=np.uint8) * 60


def test_colours_are_counted_and_nothing_else_changes():
    pixels = np.concatenate([few_colours(), np.random.default_rng(1).integers(0, 256, (50, 3), dtype=np.uint8)])
    values, counts = count_colours(pixels)
    assert len(np.unique(values, axis=0)) == len(values) < len(pixels)
    again = np.rint((values + 1) * 127.5).astype(np.uint8).repeat(counts, axis=0)
    assert np.array_equal(np.sort(again.view("u1,u1,u1"), axis=0), np.sort(pixels.view("u1,u1,u1"), axis=0))


def test_iterations_are_those_of_scipy_over_every_pixel():
    pixels = np.random.default_rng(2).integers(0, 256, (4000, 3), dtype=np.uint8) // 32 * 32
    colours = count_colours(pixels)
    start = choose_centres(colours, 12, 0)
    wanted, codes = kmeans2(pixels / 127.5 - 1, start, iter=6, minit="matrix", missing="raise")
    centres = start
    for _ in range(6):
        centres = move_centres(colours, centres).centres
    assert np.abs(centres - wanted).max() < 1e-12
    assert len(np.unique(codes)) == 12
    every = np.square(pixels[:, None] / 127.5 - 1 - centres).sum(-1)
    ordered = most_used_first(colours, centres)
    sizes = np.bincount(every.argmin(1), minlength=12)
    assert np.allclose(ordered.centres, centres[np.argsort(-sizes, kind="stable")])
    assert ordered.mean_squared_distance == pytest.approx(every.min(1).mean(), rel=1e-12)


def test_groups_that_lie_apart_are_found_whatever_the_seed():
    generator = np.random.default_rng(3)
    middles = np.array([[20, 20, 20], [230, 30, 30], [30, 230, 40], [240, 240, 20], [20, 30, 235]])
    groups = [middle + generator.integers(-9, 10, (40 * (5 - n), 3)) for n, middle in enumerate(middles)]
    colours = count_colours(np.concatenate(groups).astype(np.uint8))
    wanted = np.stack([group.mean(0) / 127.5 - 1 for group in groups])
    for seed in range(5):
        centres = choose_centres(colours, 5, seed)
        for _ in range(4):
            centres = move_centres(colours, centres).centres
        assert np.abs(most_used_first(colours, centres).centres - wanted).max() < 1e-12


def test_a_second_centre_is_drawn_by_its_squared_distance_and_its_pixels():
    colours = Colours(np.array([[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]]), np.array([6, 3, 1]))
    runs = 4000
    chosen = [tuple(choose_centres(colours, 2, seed)[:, 0]) for seed in range(runs)]
    wanted = {
        (-1, 0): 0.6 * 3 / 7, (-1, 1): 0.6 * 4 / 7,  # weights 3 * 1 and 1 * 4
        (0, -1): 0.3 * 6 / 7, (0, 1): 0.3 * 1 / 7,
        (1, -1): 0.1 * 24 / 27, (1, 0): 0.1 * 3 / 27,
    }  # fmt: skip
    for pair, share in wanted.items():
        error = (share * (1 - share) / runs) ** 0.5
        assert abs(chosen.count(pair) / runs - share) < 4.5 * error, pair


def test_as_many_centres_as_colours_are_all_of_them():
    colours = count_colours(few_colours())
    centres = choose_centres(colours, len(colours.values), 0)
    assert len(np.unique(centres, axis=0)) == len(colours.values) == 125
    assert most_used_first(colours, centres).mean_squared_distance == 0


def test_centres_without_pixels_go_where_it_costs_most():
    colours = Colours(np.array([[-1.0, -1, -1], [0, 0, 0], [0.5, 0, 0], [1, 1, 1]]), np.array([9, 1, 1, 2]))
    far = np.full((2, 3), 9.0)
    moved, distance = move_centres(colours, np.concatenate([[[-1.0, -1, -1]], far]))
    assert distance == pytest.approx((3 + (1.5**2 + 2) + 2 * 12) / 13)
    assert moved[0] == pytest.approx(np.array([-9 + 0.5 + 2, -9 + 2, -9 + 2]) / 13)
    assert moved[1:].tolist() == [[1, 1, 1], [0.5, 0, 0]]
