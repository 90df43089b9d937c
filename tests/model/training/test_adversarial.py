import pytest
import torch

from model.training.adversarial import (
    AdversarialSettings,
    adversarial_term,
    discriminator_losses,
    make_discriminator,
    r1_penalty,
)
from model.training.discriminator import Discriminator, DiscriminatorSize
from parti_data.errors import ConfigError

SMALL = DiscriminatorSize(channel_base=64, channel_max=8)
SETTINGS = AdversarialSettings(size=SMALL, r1_every=3)


@pytest.fixture
def discriminator():
    torch.manual_seed(0)
    return make_discriminator(16, SETTINGS)


def test_the_judgement_of_a_reconstruction_reaches_the_reconstruction(discriminator):
    images = torch.rand(2, 16, 16, 3, requires_grad=True)
    adversarial_term(discriminator, images, SETTINGS).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_the_discriminators_loss_reaches_the_discriminator_alone(discriminator):
    images = torch.rand(2, 16, 16, 3, requires_grad=True)
    discriminator_losses(discriminator, torch.rand(2, 16, 16, 3), images, SETTINGS, step=0)["total"].backward()
    assert images.grad is None
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_the_penalty_comes_every_few_steps(discriminator):
    images, others = torch.rand(2, 2, 16, 16, 3)
    terms = [discriminator_losses(discriminator, images, others, SETTINGS, step) for step in range(7)]
    assert ["r1" in found for found in terms] == [True, False, False, True, False, False, True]
    without = AdversarialSettings(size=SMALL, r1_gamma=0.0)
    assert "r1" not in discriminator_losses(discriminator, images, others, without, step=0)


def test_the_penalty_is_computed_in_float32_under_autocast(discriminator):
    images = torch.rand(4, 16, 16, 3)
    wanted, scores = r1_penalty(discriminator, images, 10.0), discriminator(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(discriminator(images), scores)
        assert torch.equal(r1_penalty(discriminator, images, 10.0), wanted)


@pytest.mark.parametrize("gan_loss", ["logistic", "hinge"])
def test_a_discriminator_learns_to_tell_bright_pictures_from_dark_ones(gan_loss):
    torch.manual_seed(1)
    settings = AdversarialSettings(size=SMALL, gan_loss=gan_loss)
    discriminator = make_discriminator(16, settings)
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    for step in range(30):
        bright, dark = 0.6 + 0.4 * torch.rand(8, 16, 16, 3), 0.4 * torch.rand(8, 16, 16, 3)
        discriminator_losses(discriminator, bright, dark, settings, step)["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (
        discriminator(0.6 + 0.4 * torch.rand(8, 16, 16, 3)).min() > discriminator(0.4 * torch.rand(8, 16, 16, 3)).max()
    )
    assert adversarial_term(discriminator, bright, settings) < adversarial_term(discriminator, dark, settings)


@pytest.mark.parametrize("side", [8, 24, 0])
def test_sides_that_it_cannot_halve_down_to_four_are_refused(side):
    with pytest.raises(ConfigError, match=f"expected an image side that is a power of two from 16 on, found {side}"):
        Discriminator(side, SMALL)


def test_the_published_discriminator_has_its_published_number_of_weights():
    with torch.device("meta"):  # Source: StyleGAN2's configuration F prints 28.86 M for 256 px, without classes
        count = sum(parameter.numel() for parameter in Discriminator(256).parameters())
    assert count == 28_864_129
