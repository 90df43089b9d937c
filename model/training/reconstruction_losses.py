"""The loss of an image tokenizer on a batch, but for the adversarial term, which needs a discriminator."""

from collections.abc import Callable

from pydantic import NonNegativeFloat
from torch import Tensor

from model.tokenizers.logit_laplace import logit_laplace_loss
from model.tokenizers.vit_vqgan import Reconstruction
from parti_data.config import StrictModel


class LossWeights(StrictModel):
    """Weights of the loss terms, the same for all data sets. Source: ViT-VQGAN, section 3.3."""

    vq: NonNegativeFloat = 1.0
    l2: NonNegativeFloat = 1.0
    logit_laplace: NonNegativeFloat = 0.1
    perceptual: NonNegativeFloat = 0.1
    """Where there are weights of VGG16."""
    adversarial: NonNegativeFloat = 0.1
    """Where there is a discriminator."""
    lowest_log_scale: float = 0.0
    """Floor of ln b of the logit-Laplace term. The paper states none; without one, flat colours drive a pixel's
    likelihood to infinity, and the few pixels that are hard to predict are given up for a wide distribution. At 0 the
    term is an L1 of logits; the paper's values, -2.4 to -2.6 nats, need a floor below."""


def reconstruction_losses(
    images: Tensor,
    reconstruction: Reconstruction,
    weights: LossWeights,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the terms for images (B, S, S, C) in [0, 1], scalars, `total` among them.

    While the latents are not quantized, the codebook's term is only told.
    """
    l2 = (reconstruction.images - images).square().mean()
    total, terms = weights.l2 * l2, {"l2": l2}
    if reconstruction.log_scale is not None:
        log_scale = reconstruction.log_scale.clamp(min=weights.lowest_log_scale)
        terms["logit_laplace"] = logit_laplace_loss(images, reconstruction.mean, log_scale)
        total = total + weights.logit_laplace * terms["logit_laplace"]
    terms["vq"] = reconstruction.quantized.loss
    if reconstruction.is_quantized:
        total = total + weights.vq * terms["vq"]
    if perceptual:
        terms["perceptual"] = perceptual(reconstruction.images, images)
        total = total + weights.perceptual * terms["perceptual"]
    return {"total": total, **terms}
