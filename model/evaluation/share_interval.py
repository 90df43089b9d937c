"""A share of images, and how far it may be off."""

import math
from typing import NamedTuple

import numpy as np

NORMAL_95 = 1.959964
"""Standard errors to either side within which 95% of a normal distribution lie."""


class ShareInterval(NamedTuple):
    """A share of images, between the ends of its 95% interval."""

    share: float
    low: float
    high: float
    num_images: int


def share_of_images(keys: list[str], is_right: np.ndarray) -> ShareInterval:
    """Return the share of right images, of rows (N,), with its binomial 95% interval by Wilson's score.

    Source: "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the American Statistical
    Association 22, 1927.
    """
    images = mean_by_image(keys, is_right)
    share, count, z = float(images.mean()), len(images), NORMAL_95
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return ShareInterval(share, max(middle - half, 0.0), min(middle + half, 1.0), count)


def mean_by_image(keys: list[str], values: np.ndarray) -> np.ndarray:
    """Return the mean of each image's rows (N,), float64, in the order of the keys: views of an image depend on each
    other, so they count once.
    """
    _, places = np.unique(keys, return_inverse=True)
    return np.bincount(places, values.astype(np.float64)) / np.bincount(places)
