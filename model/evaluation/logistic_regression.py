"""Multinomial logistic regression on standardised features, its L2 penalty chosen on validation rows.

One problem of a convex loss, solved by L-BFGS on all rows at once: the same features give the same weights. Memory is
what the features take, and three times the logits of the training rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_STEPS = 300
"""Of L-BFGS for one penalty. On 8,000 scenes by 96 channels of a small prior penalties from 1e-3 on took 20 to 220;
smaller ones ended here, with a gradient of 5e-4 at most."""
_HISTORY = 10
_FLATTEST = 1e-6
"""The largest gradient of a weight at which the search ends."""
_LEAST_SPREAD = 1e-6
"""Standard deviation below which a feature is taken for constant, and only centred."""


class Regression(NamedTuple):
    """A fitted regression: logits are features (N, D) times weights (K, D), plus biases (K,)."""

    penalty: float
    weights: Tensor
    biases: Tensor

    def is_right(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return whether the class of each row (N,) has the largest logit, bool (N,)."""
        return (features @ self.weights.T + self.biases).argmax(1) == classes


class Rows(NamedTuple):
    """Features (N, D) and the classes int64 (N,) of rows."""

    features: Tensor
    classes: Tensor


def standardise(training: Tensor, *others: Tensor) -> None:
    """Give each feature of the training rows a mean of 0 and a deviation of 1, in place, and move the others alike."""
    spread, mean = torch.std_mean(training, 0, correction=0)
    spread = torch.where(spread > _LEAST_SPREAD, spread, 1.0)
    for features in (training, *others):
        features.sub_(mean).div_(spread)


def fit_regressions(rows: Rows, num_classes: int, penalties: tuple[float, ...]) -> Iterator[Regression]:
    """Yield the minimum of the mean cross-entropy in nats + penalty / 2 * (sum of squared weights) for each penalty.

    Biases are free. Each search begins where the one before ended, so large penalties come first.
    """
    weights = rows.features.new_zeros(num_classes, rows.features.shape[1]).requires_grad_()
    biases = rows.features.new_zeros(num_classes).requires_grad_()
    for penalty in penalties:
        _minimise(rows, weights, biases, penalty)
        yield Regression(penalty, weights.detach().clone(), biases.detach().clone())


def _minimise(rows: Rows, weights: Tensor, biases: Tensor, penalty: float) -> None:
    search = torch.optim.LBFGS(
        [weights, biases], max_iter=_MOST_STEPS, history_size=_HISTORY, tolerance_grad=_FLATTEST,
        tolerance_change=torch.finfo(weights.dtype).eps, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        search.zero_grad()
        logits = torch.addmm(biases, rows.features, weights.T)
        found = F.cross_entropy(logits, rows.classes) + penalty / 2 * weights.square().sum()
        found.backward()
        return found

    search.step(loss)  # pyright: ignore[reportArgumentType]  # it takes what returns a tensor


def choose_regression(
    training: Rows, validation: Rows, num_classes: int, penalties: tuple[float, ...]
) -> tuple[Regression, float]:
    """Return the regression that is right about most validation rows, of equals that of the largest penalty, and its
    share of them.
    """
    best: tuple[Regression, float] | None = None
    for found in fit_regressions(training, num_classes, tuple(sorted(penalties, reverse=True))):
        share = found.is_right(validation.features, validation.classes).double().mean().item()
        if best is None or share > best[1]:
            best = found, share
    assert best, penalties
    return best
