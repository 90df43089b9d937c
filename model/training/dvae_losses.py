"""What a discrete VAE loses on a batch: the negative evidence lower bound, of an image, a value of a pixel.

Source: DALL-E, arXiv 2102.12092v2, section 2.1, appendices A.2 and A.3.
"""

import math

from torch import Tensor

from model.tokenizers.dvae import Relaxed
from model.tokenizers.logit_laplace import logit_laplace_loss


def dvae_losses(
    images: Tensor, relaxed: Relaxed, kl_weight: float, lowest_log_scale: float | None = None
) -> dict[str, Tensor]:
    """Return the terms for images (B, S, S, C) in [0, 1], scalars, `total` among them.

    `logit_laplace` is in nats a value, `kl` in nats a token: the divergence of the encoder's categorical distribution
    from the uniform one, without the relaxation. The bound sums both over an image, the paper divides it by the values
    of an image, S * S * C: so `kl` counts kl_weight * I / (S * S * C) in the total, for patches of 8x8 pixels of three
    channels kl_weight / 192 at any S.
    """
    log_scale = relaxed.log_scale.float()
    if lowest_log_scale is not None:
        log_scale = log_scale.clamp(min=lowest_log_scale)
    likelihood = logit_laplace_loss(images, relaxed.mean.float(), log_scale)
    divergence = divergence_from_uniform(relaxed.log_posterior)
    tokens_a_value = relaxed.log_posterior.shape[1] / images[0].numel()
    total = likelihood + kl_weight * tokens_a_value * divergence
    return {"total": total, "logit_laplace": likelihood, "kl": divergence}


def divergence_from_uniform(log_posterior: Tensor) -> Tensor:
    """Return the mean divergence, in nats, of distributions (..., V) from the uniform one; 0 to ln V."""
    negative_entropy = (log_posterior.exp() * log_posterior).sum(-1)
    return negative_entropy.mean() + math.log(log_posterior.shape[-1])
