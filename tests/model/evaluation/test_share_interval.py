import numpy as np
import pytest

from model.evaluation.share_interval import share_of_images


@pytest.mark.parametrize("num_right", [1, 10, 19, 20])
def test_the_ends_are_the_shares_from_which_what_was_found_lies_so_many_deviations_off(num_right):
    found = share_of_images([str(number) for number in range(20)], np.arange(20) < num_right)
    for end in (found.low, found.high):
        assert (found.share - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 20, abs=1e-9)
    assert 0 < found.low < found.share <= found.high <= 1


def test_the_interval_holds_the_share_as_often_as_it_says():
    rng = np.random.default_rng(0)
    keys = [str(number) for number in range(200)]
    found = [share_of_images(keys, rng.random(200) < 0.9) for _ in range(1000)]
    assert 0.93 < np.mean([one.low <= 0.9 <= one.high for one in found]) < 0.97


def test_views_of_an_image_count_once():
    found = share_of_images(["a", "b", "b", "b", "b"], np.array([True, False, False, False, True]))
    assert (found.share, found.num_images) == (0.625, 2)
