"""FID's mathematics: the Frechet distance between two sets of features, each taken for a Gaussian.

Source: "GANs Trained by a Two Time-Scale Update Rule", arXiv 1706.08500, section 3: the squared distance
|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of Dowson and Landau.
"""

import math
from typing import NamedTuple

import numpy as np

from parti_data.errors import ConfigError


class Gaussian(NamedTuple):
    """Mean float64 (D,) of a set of features, and F (D, R) with F F^T its covariance of rank at most R."""

    mean: np.ndarray
    factor: np.ndarray


def fit_gaussian(features: np.ndarray) -> Gaussian:
    """Return mean and unbiased covariance of features (N, D), in float64; raises ConfigError below two rows."""
    if len(features) < 2:
        raise ConfigError(f"FID: expected features of at least two images, found {len(features)}; give more")
    centred = features.astype(np.float64)
    mean = centred.mean(axis=0)
    centred -= mean
    triangle = np.asarray(np.linalg.qr(centred, mode="r"))
    return Gaussian(mean, triangle.T / math.sqrt(len(features) - 1))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Return the squared Frechet distance; covariances may be rank-deficient, as they are with N <= D samples.

    The distance of finite sets is biased upwards, by about a term in 1/N that depends on the model: compare only
    distances of equally many samples. Source: "Effectively Unbiased FID", arXiv 1911.07023, section 3.

    The trace of (C1 C2)^(1/2) is the sum of the singular values of F1^T F2. So no covariance is made and no root taken
    of noise about zero, which a square root of C1 C2 suffers from and others cure with a small diagonal.
    """
    shift = first.mean - second.mean
    root = np.linalg.svd(first.factor.T @ second.factor, compute_uv=False).sum()
    traces = np.square(first.factor).sum() + np.square(second.factor).sum()
    return max(float(shift @ shift + traces - 2 * root), 0.0)
