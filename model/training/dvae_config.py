"""What `parti train dvae` is told."""

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from model.training.annealing import Annealing
from model.training.image_config import TrainOnImagesConfig


class Temperature(Annealing):
    """The temperature of the relaxation. Source: DALL-E, appendix A.2; along a straight line training diverged."""

    start: PositiveFloat = 1.0
    end: PositiveFloat = 1 / 16
    num_steps: PositiveInt = 150_000


class KLWeight(Annealing):
    """The weight of the KL divergence. Source: DALL-E, appendix A.2."""

    start: NonNegativeFloat = 0.0
    end: NonNegativeFloat = 6.6
    num_steps: PositiveInt = 5000


class TrainDVAEConfig(TrainOnImagesConfig):
    """What `parti train dvae` is told."""

    architecture: dict[str, int] = Field(default_factory=dict)
    """Fields of DVAEShape that differ from those of the published weights."""
    temperature: Temperature = Field(default_factory=Temperature)
    kl_weight: KLWeight = Field(default_factory=KLWeight)
    lowest_log_scale: float | None = None
    """Floor of ln b; the paper states none, which is right for photographs: without one, flat colours drive a pixel's
    likelihood to infinity."""
