import numpy as np
import pytest
import torch

from model.training import gumbel
from model.training.gumbel import GumbelNoise

CPU = torch.device("cpu")


def test_noise_is_a_function_of_seed_step_and_row_alone():
    noise = GumbelNoise(3, (4, 5), CPU)
    whole = noise.rows(7, np.arange(6))
    torch.manual_seed(1)
    again = GumbelNoise(3, (4, 5), CPU)
    assert torch.equal(torch.cat([again.rows(7, np.array([row])) for row in range(6)]), whole)
    assert torch.equal(again.rows(7, np.array([5, 2])), whole[[5, 2]])
    others = [whole[1], noise.rows(8, np.arange(1))[0], GumbelNoise(4, (4, 5), CPU).rows(7, np.arange(1))[0]]
    assert not any(torch.equal(other, whole[0]) for other in others)


def test_noise_has_gumbels_distribution():
    noise = GumbelNoise(0, (1000, 20), CPU).rows(0, np.arange(10)).double().flatten().sort().values
    wanted = torch.exp(-torch.exp(-noise))
    empirical = (torch.arange(len(noise)) + 0.5) / len(noise)
    assert (wanted - empirical).abs().max() < 1.63 / len(noise) ** 0.5  # Kolmogorov and Smirnov, 1%


def test_the_largest_of_logits_with_noise_is_drawn_by_their_softmax():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    drawn = (logits + GumbelNoise(5, (20_000, 4), CPU).rows(2, np.arange(1))[0]).argmax(-1)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert torch.allclose(shares, logits.softmax(0), atol=0.015)


def test_noise_is_finite_even_where_a_zero_is_drawn(monkeypatch):
    monkeypatch.setattr(gumbel.torch, "rand", lambda shape, generator, device: torch.zeros(shape))
    assert GumbelNoise(0, (2, 2), CPU).rows(0, np.arange(1)).min().item() == pytest.approx(-4.4698, abs=1e-3)
