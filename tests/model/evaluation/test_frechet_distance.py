import numpy as np
import pytest
from scipy.linalg import sqrtm

from model.evaluation.frechet_distance import fit_gaussian, frechet_distance
from parti_data.errors import ConfigError


def features(seed: int, rows: int, width: int) -> np.ndarray:
    """Correlated features with a mean, float32 as a network gives them."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)).astype("float32")


def diagonal(rows: int, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Features whose mean and covariance are exactly these: columns that are orthonormal and sum to nothing."""
    columns = np.random.default_rng(rows).normal(size=(rows, len(mean)))
    basis = np.linalg.qr(columns - columns.mean(axis=0))[0]
    return mean + basis * deviation * np.sqrt(rows - 1)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return frechet_distance(fit_gaussian(first), fit_gaussian(second))


def test_diagonal_gaussians_have_the_distance_of_the_closed_form():
    rng = np.random.default_rng(1)
    means, deviations = rng.normal(size=(2, 12)), rng.uniform(0.1, 3, size=(2, 12))
    found = distance(diagonal(40, means[0], deviations[0]), diagonal(60, means[1], deviations[1]))
    wanted = np.sum((means[0] - means[1]) ** 2) + np.sum((deviations[0] - deviations[1]) ** 2)
    assert found == pytest.approx(wanted, rel=1e-10)


def test_the_distance_equals_that_by_the_matrix_square_root():
    first, second = features(2, 300, 20).astype(np.float64), features(3, 200, 20).astype(np.float64)
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1]).real
    shift = first.mean(axis=0) - second.mean(axis=0)
    wanted = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert distance(first.astype("float32"), second.astype("float32")) == pytest.approx(wanted, rel=1e-9)


def test_fewer_samples_than_features_have_the_distance_of_their_gram_matrix():
    first, second = (features(seed, 9, 40).astype(np.float64) for seed in (4, 5))
    centred = [(part - part.mean(axis=0)) / np.sqrt(8) for part in (first, second)]
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    shift = first.mean(axis=0) - second.mean(axis=0)
    wanted = shift @ shift + sum(np.sum(part**2) for part in centred) - 2 * root
    assert distance(first, second) == pytest.approx(wanted, rel=1e-10)


def test_a_set_is_at_no_distance_from_itself_even_where_its_covariance_is_singular():
    few = features(6, 10, 64)
    assert distance(few, few) == pytest.approx(0, abs=1e-10 * float(few.var(axis=0).sum()))
    assert distance(np.ones((5, 3)), np.ones((4, 3))) == 0


def test_features_of_one_image_are_refused():
    with pytest.raises(ConfigError, match="FID: expected features of at least two images, found 1; give more"):
        fit_gaussian(np.zeros((1, 4)))
