"""Optimizers against their formulas, in float64 and without torch's."""

import numpy as np
import pytest
import torch
from torch import nn

from model.training.adafactor import Adafactor
from model.training.loop import make_optimizer
from model.training.schedule import Schedule

STEPS = 5


def adafactor(start: np.ndarray, gradients: list[np.ndarray], lr: float, decay: float) -> np.ndarray:
    """Algorithm 4 of arXiv 1804.04235, with a first moment and decoupled decay."""
    x, m = start.astype(np.float64), np.zeros(start.shape)
    squares: list[np.ndarray] = []
    for step, g in enumerate(gradients, 1):
        squares.append(g.astype(np.float64) ** 2 + 1e-30)
        weights = 0.96 ** np.arange(step - 1, -1, -1.0)
        v = sum(weight * square for weight, square in zip(weights, squares, strict=True)) / weights.sum()
        if x.ndim == 2:
            v = v.sum(1)[:, None] * v.sum(0)[None, :] / v.sum()
        u = g / np.sqrt(v)
        u /= max(1.0, np.sqrt((u**2).mean()))
        m = 0.9 * m + 0.1 * u
        x = x - lr * decay * x - lr * m
    return x


def adamw(start: np.ndarray, gradients: list[np.ndarray], lr: float, decay: float) -> np.ndarray:
    x, m, v = start.astype(np.float64), np.zeros(start.shape), np.zeros(start.shape)
    for step, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.96 * v + 0.04 * g.astype(np.float64) ** 2
        x = x - lr * decay * x - lr * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.96**step)) + 1e-8)
    return x


@pytest.mark.parametrize(("name", "formula"), [("adafactor", adafactor), ("adamw", adamw)])
def test_an_optimizer_moves_as_its_formula(name, formula):
    rng = np.random.default_rng(0)
    layer = nn.Linear(5, 7)
    layer.register_parameter("scale", nn.Parameter(torch.tensor(2.0)))
    optimizer = make_optimizer(layer, Schedule(num_steps=9, lr=0.02, optimizer=name, beta2=0.96, weight_decay=0.045))
    starts = {key: value.detach().numpy().copy() for key, value in layer.named_parameters()}
    gradients = {
        key: [rng.normal(size=start.shape) * 10.0 ** rng.uniform(-6, 1) for _ in range(STEPS)]
        for key, start in starts.items()
    }
    for step in range(STEPS):
        for key, parameter in layer.named_parameters():
            parameter.grad = torch.from_numpy(np.asarray(gradients[key][step])).float()
        optimizer.step()
    for key, parameter in layer.named_parameters():
        wanted = formula(starts[key], gradients[key], 0.02, 0.045 if parameter.dim() == 2 else 0.0)
        np.testing.assert_allclose(parameter.detach().numpy(), wanted, rtol=2e-5, atol=2e-6)
        assert np.abs(wanted - starts[key]).max() > 0.01


def test_adafactor_keeps_a_number_a_row_and_a_column_and_its_first_moments_as_asked():
    layer = nn.Linear(300, 200)
    schedule = Schedule(num_steps=9, lr=0.02, optimizer="adafactor", first_moments="bfloat16")
    optimizer = make_optimizer(layer, schedule)
    layer(torch.ones(1, 300)).sum().backward()
    optimizer.step()
    state = optimizer.state[layer.weight]
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "step": (), "first": (200, 300), "rows": (200,), "columns": (300,),
    }  # fmt: skip
    assert state["first"].dtype == torch.bfloat16


def test_a_gradient_of_zeros_moves_nothing():
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = Adafactor([parameter], lr=0.1)
    parameter.grad = torch.zeros(3, 4)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(3, 4))
