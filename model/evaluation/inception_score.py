"""The Inception score: how sure a classifier is of each sample, and how different the samples are.

Source: "Improved Techniques for Training GANs", arXiv 1606.03498, section 4, and its code: in each of ten splits, the
exponential of the mean Kullback-Leibler divergence of p(y|x) from p(y).
"""

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, logsumexp

from parti_data.errors import ConfigError

NUM_SPLITS = 10


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits; between 1 and the number of classes."""

    mean: float
    std: float


def inception_score(logits: np.ndarray, num_splits: int = NUM_SPLITS) -> InceptionScore:
    """Return the score of samples by their logits (N, classes); raises ConfigError with fewer samples than splits.

    The n-th split takes every tenth sample from the n-th on, where the paper's code takes neighbours of a shuffled set:
    samples come in the order of their prompts. A split of few samples has a lower score: the paper has 5,000 in each.
    """
    if len(logits) < num_splits:
        raise ConfigError(
            f"Inception score: expected at least {num_splits} samples, one a split, found {len(logits)}; give more"
        )
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    scores = [_score(log_p[start::num_splits]) for start in range(num_splits)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(log_p: np.ndarray) -> float:
    log_marginal = logsumexp(log_p, axis=0) - np.log(len(log_p))
    return float(np.exp(np.mean(np.sum(np.exp(log_p) * (log_p - log_marginal), axis=1))))
