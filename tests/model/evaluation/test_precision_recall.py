import numpy as np
import pytest
from scipy.spatial.distance import cdist

from model.evaluation.precision_recall import precision_recall
from parti_data.errors import ConfigError


def by_definition(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, float]:
    """Balls and members counted one after another, from exact distances."""

    def covered(points: np.ndarray, manifold: np.ndarray) -> float:
        own = cdist(manifold, manifold)
        radii = [sorted(np.delete(row, place))[k - 1] for place, row in enumerate(own)]
        return np.mean([any(d <= r for d, r in zip(row, radii, strict=True)) for row in cdist(points, manifold)])

    return covered(generated, real), covered(real, generated)


@pytest.mark.parametrize("block_bytes", [1, 8 * 70 * 13, 1 << 20])
def test_both_equal_their_definition_whatever_is_held_at_a_time(block_bytes):
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(70, 5)), 0.7 * rng.normal(size=(55, 5)) + 0.3
    found = precision_recall(real.astype(np.float32), generated.astype(np.float32), 3, block_bytes)
    wanted = by_definition(real.astype(np.float32), generated.astype(np.float32), 3)
    assert found == pytest.approx(wanted)
    assert 0 < found.recall < found.precision < 1


def test_a_set_against_itself_has_all_of_both_and_a_far_one_nothing():
    real = np.random.default_rng(1).normal(size=(30, 8)) + 1000
    assert precision_recall(real, real[::-1]) == (1, 1)
    assert precision_recall(real, real + 500) == (0, 0)


def test_samples_of_one_mode_are_precise_and_recall_little():
    rng = np.random.default_rng(2)
    modes = np.concatenate([rng.normal(size=(50, 4)), rng.normal(size=(50, 4)) + 100])
    found = precision_recall(modes, rng.normal(size=(50, 4)) * 0.3)
    assert found.precision == 1
    assert found.recall <= 0.5


def test_copies_of_a_real_image_lie_on_its_ball_of_no_radius():
    real = np.repeat(np.random.default_rng(3).normal(size=(5, 2048)), 4, axis=0)
    assert precision_recall(real, real[:6]).precision == 1


def test_too_few_images_are_refused():
    with pytest.raises(ConfigError, match="precision and recall: expected more than 3 images, found 3; give more"):
        precision_recall(np.zeros((9, 2)), np.zeros((3, 2)))
