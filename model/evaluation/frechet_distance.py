"""FID's mathematics: the Frechet distance between two sets of features, each taken for a Gaussian.

Source: "GANs Trained by a Two Time-Scale Update Rule", arXiv 1706.08500, section 3: the squared distance
|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of Dowson and Landau.
"""

from typing import NamedTuple

import numpy as np

from parti_data.errors import ConfigError


class Gaussian(NamedTuple):
    """Mean float64 (D,) and covariance float64 (D, D) of a set of features."""

    mean: np.ndarray
    covariance: np.ndarray


def fit_gaussian(features: np.ndarray) -> Gaussian:
    """Return mean and unbiased covariance of features (N, D), in float64; raises ConfigError below two rows."""
    if len(features) < 2:
        raise ConfigError(f"FID: expected features of at least two images, found {len(features)}; give more")
    centred = features.astype(np.float64)
    mean = centred.mean(axis=0)
    centred -= mean
    return Gaussian(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Return the squared Frechet distance; covariances may be rank-deficient, as they are with N <= D samples.

    The distance of finite sets is biased upwards, by about a term in 1/N that depends on the model: compare only
    distances of equally many samples. Source: "Effectively Unbiased FID", arXiv 1911.07023, section 3.

    With C = F F^T the root's trace is the sum of the singular values of F1^T F2. So no root is taken of noise about
    zero, which is what a square root of the matrix C1 C2 suffers from and others cure with a small diagonal.
    """
    shift = first.mean - second.mean
    root = np.linalg.svd(_factor(first.covariance).T @ _factor(second.covariance), compute_uv=False).sum()
    distance = shift @ shift + np.trace(first.covariance) + np.trace(second.covariance) - 2 * root
    return max(float(distance), 0.0)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return F (D, R) with F F^T the covariance of rank R; what rounding puts below the rank is left out."""
    values, vectors = np.linalg.eigh(covariance)
    is_kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return vectors[:, is_kept] * np.sqrt(values[is_kept])
