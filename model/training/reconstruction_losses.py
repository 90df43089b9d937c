"""What an image tokenizer and an upsampler lose on a batch, but for the adversarial term, which has its own module."""

from collections.abc import Callable

from pydantic import NonNegativeFloat
from torch import Tensor

from model.tokenizers.logit_laplace import logit_laplace_loss
from model.tokenizers.vit_vqgan import Reconstruction
from parti_data.config import StrictModel


class PixelLossWeights(StrictModel):
    """Weights of the terms that look at pixels alone. Source: ViT-VQGAN, section 3.3."""

    l2: NonNegativeFloat = 1.0
    perceptual: NonNegativeFloat = 0.1
    """Where there are weights of VGG16."""
    adversarial: NonNegativeFloat = 0.1
    """Where there is a discriminator."""


class LossWeights(PixelLossWeights):
    """Weights of all terms of an image tokenizer, the same for all data sets. Source: ViT-VQGAN, section 3.3."""

    vq: NonNegativeFloat = 1.0
    logit_laplace: NonNegativeFloat = 0.1
    lowest_log_scale: float = 0.0
    """Floor of ln b of the logit-Laplace term. The paper states none; without one, flat colours drive a pixel's
    likelihood to infinity, and the few pixels that are hard to predict are given up for a wide distribution. At 0 the
    term is an L1 of logits; the paper's values, -2.4 to -2.6 nats, need a floor below."""


Perceptual = Callable[[Tensor, Tensor], Tensor]
"""The distance, a scalar, of images (B, S, S, C) in [0, 1] from others, which get no gradient."""


def pixel_losses(
    images: Tensor, made: Tensor, weights: PixelLossWeights, perceptual: Perceptual | None = None
) -> dict[str, Tensor]:
    """Return the terms for what was made of images, both (B, S, S, C) in [0, 1], scalars, `total` among them."""
    l2 = (made - images).square().mean()
    if not perceptual:
        return {"total": weights.l2 * l2, "l2": l2}
    distance = perceptual(made, images)
    return {"total": weights.l2 * l2 + weights.perceptual * distance, "l2": l2, "perceptual": distance}


def reconstruction_losses(
    images: Tensor, reconstruction: Reconstruction, weights: LossWeights, perceptual: Perceptual | None = None
) -> dict[str, Tensor]:
    """Return the terms for images (B, S, S, C) in [0, 1], scalars, `total` among them.

    While the latents are not quantized, the codebook's term is only told.
    """
    terms = pixel_losses(images, reconstruction.images, weights, perceptual)
    total = terms.pop("total")
    if reconstruction.log_scale is not None:
        log_scale = reconstruction.log_scale.clamp(min=weights.lowest_log_scale)
        terms["logit_laplace"] = logit_laplace_loss(images, reconstruction.mean, log_scale)
        total = total + weights.logit_laplace * terms["logit_laplace"]
    terms["vq"] = reconstruction.quantized.loss
    if reconstruction.is_quantized:
        total = total + weights.vq * terms["vq"]
    return {"total": total, **terms}
