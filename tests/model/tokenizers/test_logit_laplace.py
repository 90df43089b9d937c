import math

import pytest
import torch

from model.tokenizers.logit_laplace import logit_laplace_loss, squeeze_pixels, unsqueeze_pixels


def test_the_logit_laplace_density_integrates_to_one():
    x = torch.linspace(0.0005, 0.9995, 200_001, dtype=torch.float64)
    mean, log_scale = torch.full_like(x, 0.3), torch.full_like(x, math.log(0.5))
    images = (x - 0.1) / 0.8
    per_pixel = torch.stack([logit_laplace_loss(i, mean[0], log_scale[0]) for i in images[::2000]])
    density = torch.exp(-(torch.abs(torch.logit(x) - mean) / 0.5)) / (2 * 0.5 * x * (1 - x))
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=2e-3)
    torch.testing.assert_close(torch.exp(-per_pixel), density[::2000], atol=1e-9, rtol=1e-9)


def test_unsqueeze_undoes_squeeze():
    pixels = torch.rand(100, dtype=torch.float64)
    torch.testing.assert_close(unsqueeze_pixels(squeeze_pixels(pixels)), pixels)
