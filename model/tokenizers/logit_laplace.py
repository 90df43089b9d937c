"""The logit-Laplace distribution of a pixel: its likelihood, and the interval into which pixels are squeezed for it.

Source: DALL-E, arXiv 2102.12092v2, appendix A.3.
"""

import torch
from torch import Tensor

MARGIN = 0.1
"""Pixels are squeezed into [margin, 1 - margin]: the paper's epsilon."""


def logit_laplace_loss(images: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the mean negative log-likelihood a pixel value, in nats; images in [0, 1], `log_scale` is ln b."""
    x = squeeze_pixels(images)
    deviation = (torch.logit(x) - mean).abs() * torch.exp(-log_scale)
    return (deviation + log_scale + torch.log(2 * x * (1 - x))).mean()


def squeeze_pixels(images: Tensor) -> Tensor:
    """Map [0, 1] into [margin, 1 - margin], where the logit is finite."""
    return (1 - 2 * MARGIN) * images + MARGIN


def unsqueeze_pixels(squeezed: Tensor) -> Tensor:
    """Undo `squeeze_pixels`: (0, 1) becomes an interval somewhat wider than [0, 1]."""
    return (squeezed - MARGIN) / (1 - 2 * MARGIN)
