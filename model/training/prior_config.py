"""What `parti train prior` is told."""

from typing import Annotated

from pydantic import Field, PositiveInt

from model.priors.families import FamilyName
from model.training.pair_config import TrainOnPairsConfig
from model.training.schedule import PriorRunning


class TrainPriorConfig(TrainOnPairsConfig):
    """What `parti train prior` is told; `architecture` has fields of the family's shape."""

    family: FamilyName = "parti"
    """Which kind of prior. Parti and DALL-E read the caption, a VIM the class that the caption names, or nothing; an
    iGPT reads nothing."""
    text_drop: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of rows trained without their caption, for classifier-free guidance; a prior trained with 0 is sampled
    without. Parti does not state its own."""
    batch_parts: PositiveInt = 1
    """Parts of a rank's slice of a batch, one after the other in memory; their gradients add up."""
    running: PriorRunning = Field(default_factory=PriorRunning)  # type: ignore[assignment]  # it is frozen
