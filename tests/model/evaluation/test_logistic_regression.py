import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from model.evaluation.logistic_regression import Rows, choose_regression, fit_regressions, standardise


def separable(count: int, generator: torch.Generator, dtype=torch.float32) -> Rows:
    """Four classes around corners of a cube in eight dimensions, moved and stretched."""
    classes = torch.randint(0, 4, (count,), generator=generator)
    corners = torch.eye(4, 8)
    noise = torch.randn(count, 8, generator=generator)
    return Rows(((corners[classes] + 0.05 * noise) * torch.arange(1, 9) + 7).to(dtype), classes)


def optimum(rows: Rows, penalty: float) -> np.ndarray:
    """Return weights and biases (K, D + 1) of four classes, by another search on the same loss, in float64."""
    features, classes = rows.features.double().numpy(), rows.classes.numpy()
    inputs = np.concatenate([features, np.ones((len(features), 1))], 1)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(4, -1)
        logits = inputs @ weights.T
        logits -= logits.max(1, keepdims=True)
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        value = -np.mean(np.log(chances[np.arange(len(classes)), classes])) + penalty / 2 * (weights[:, :-1] ** 2).sum()
        slope = (chances - np.eye(4)[classes]).T @ inputs / len(inputs)
        slope[:, :-1] += penalty * weights[:, :-1]
        return float(value), slope.ravel()

    found = minimize(loss, np.zeros(4 * inputs.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-9})
    return found.x.reshape(4, -1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-4), (torch.float32, 2e-3)])
def test_the_minimum_of_each_penalty_is_that_of_an_independent_search_in_float64(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 4, (300,), generator=generator)
    features = torch.randn(300, 8, generator=generator) + 0.5 * torch.eye(4, 8)[classes]
    rows = Rows(features.to(dtype), classes)
    for found in fit_regressions(rows, 4, (1.0, 0.1, 1e-3)):
        wanted = optimum(rows, found.penalty)
        np.testing.assert_allclose(found.weights.numpy(), wanted[:, :-1], atol=tolerance)
        biases = found.biases.numpy()  # moved together they change nothing
        np.testing.assert_allclose(biases - biases.mean(), wanted[:, -1] - wanted[:, -1].mean(), atol=tolerance)


def test_separable_classes_are_told_and_shuffled_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    training, validation, test = (separable(count, generator) for count in (800, 400, 2000))
    standardise(training.features, validation.features, test.features)
    regression, share = choose_regression(training, validation, 4, (1.0, 0.1, 0.01))
    assert share == 1
    assert regression.is_right(*test).all()
    shuffled = [Rows(rows.features, rows.classes[torch.randperm(len(rows.classes), generator=generator)])
                for rows in (training, validation, test)]  # fmt: skip
    regression, _ = choose_regression(*shuffled[:2], 4, (1.0, 0.1, 0.01))
    assert 0.2 < regression.is_right(*shuffled[2]).float().mean() < 0.3


def test_the_largest_of_penalties_that_are_as_good_is_taken_in_any_order():
    generator = torch.Generator().manual_seed(0)
    training, validation = (separable(count, generator) for count in (400, 100))
    standardise(training.features, validation.features)
    assert choose_regression(training, validation, 4, (1e-4, 0.01, 1e-3))[0].penalty == 0.01


def test_features_are_standardised_by_the_training_rows_and_constant_ones_only_centred():
    training, other = torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([[5.0, 7.0]])
    standardise(training, other)
    assert training.tolist() == [[-1, 0], [1, 0]]
    assert other.tolist() == [[3, 2]]
