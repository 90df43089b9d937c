"""The adversarial part of a tokenizer's training: what the generator and the discriminator lose in a step.

The paper states neither the form of the loss nor a penalty nor a start: the defaults are StyleGAN2's, from which it
takes the discriminator. Where ranks train together, the discriminator's gradients are averaged after `backward`, as its
penalty needs gradients of gradients.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from model.training.discriminator import Discriminator, DiscriminatorSize
from parti_data.config import StrictModel

GanLoss = Literal["logistic", "hinge"]


class AdversarialSettings(StrictModel):
    """How a discriminator is trained, and when its judgement begins to count."""

    gan_loss: GanLoss = "logistic"
    """Logistic: non-saturating, as StyleGAN2's; hinge: as VQGAN's."""
    r1_gamma: NonNegativeFloat = 10.0
    """Weight of the R1 penalty, half of it times the squared gradient, of images in [-1, 1]."""
    r1_every: PositiveInt = 16
    """Steps between penalties, each of which counts for all of them. Source: StyleGAN2, section 4.1."""
    start_step: NonNegativeInt = 0
    """First step in which the discriminator is trained, and judges."""
    size: DiscriminatorSize = Field(default_factory=DiscriminatorSize)


def make_discriminator(image_side: int, settings: AdversarialSettings) -> Discriminator:
    """Return a new discriminator of images of a side; raises ConfigError where it cannot look at them."""
    return Discriminator(image_side, settings.size)


def generator_loss(scores: Tensor, gan_loss: GanLoss) -> Tensor:
    """Return what the generator loses by the scores (B,) of its images; its gradient falls where they look real."""
    return F.softplus(-scores).mean() if gan_loss == "logistic" else -scores.mean()


def discriminator_loss(real: Tensor, fake: Tensor, gan_loss: GanLoss) -> Tensor:
    """Return what the discriminator loses by its scores (B,) of real and of generated images."""
    if gan_loss == "logistic":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def r1_penalty(discriminator: nn.Module, images: Tensor, gamma: float) -> Tensor:
    """Return gamma / 2 times the mean squared norm of the score's gradient at real images (B, S, S, C) in [0, 1].

    In float32 whatever the surroundings. The gradient is that of images in [-1, 1], half of that of [0, 1].
    Source: Mescheder et al., arXiv 1801.04406.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gamma / 2 * (gradient / 2).square().flatten(1).sum(1).mean()


def adversarial_term(discriminator: nn.Module, images: Tensor, settings: AdversarialSettings) -> Tensor:
    """Return what the tokenizer loses by its reconstructions (B, S, S, C).

    Keeping the gradient from the discriminator's parameters is the caller's: the loop does so while a network has its
    turn.
    """
    return generator_loss(discriminator(images), settings.gan_loss)


def discriminator_losses(
    discriminator: nn.Module, images: Tensor, reconstructions: Tensor, settings: AdversarialSettings, step: int
) -> dict[str, Tensor]:
    """Return the terms of the discriminator's loss in a step, scalars, `total` among them; the penalty `r1` now and
    then, told without the factor that makes it count for the steps between.
    """
    real, fake = discriminator(images), discriminator(reconstructions.detach())
    loss = discriminator_loss(real, fake, settings.gan_loss)
    terms = {"total": loss, "discriminator": loss, "real_score": real.mean(), "fake_score": fake.mean()}
    if settings.r1_gamma and step % settings.r1_every == 0:
        terms["r1"] = r1_penalty(discriminator, images, settings.r1_gamma)
        terms["total"] = loss + settings.r1_every * terms["r1"]
    return terms


class Adversary:
    """A discriminator, and from its first step on what it and a generator lose by each other."""

    def __init__(self, image_side: int, settings: AdversarialSettings, device: torch.device):
        self.settings = settings
        made = make_discriminator(image_side, settings).to(device)
        on_gpu = device.type == "cuda"
        self.discriminator: nn.Module = made.to(memory_format=torch.channels_last) if on_gpu else made  # type: ignore[call-overload]

    def judged(self, terms: dict[str, Tensor], images: Tensor, weight: float, step: int) -> dict[str, Tensor]:
        """Return the terms of a generator's loss in a step with that of its images (B, S, S, C), once it counts."""
        if step < self.settings.start_step:
            return terms
        adversarial = adversarial_term(self.discriminator, images, self.settings)
        return terms | {"adversarial": adversarial, "total": terms["total"] + weight * adversarial}

    def losses(self, images: Tensor, made: Tensor, step: int) -> dict[str, Tensor]:
        """Return the terms of the discriminator's loss in a step; none before its first."""
        if step < self.settings.start_step:
            return {}
        terms = discriminator_losses(self.discriminator, images, made, self.settings, step)
        return {
            name: term for name, term in terms.items() if name != "discriminator"
        }  # the same as the total but for R1
