"""What `parti train prior` is told."""

from pydantic import Field, PositiveInt

from model.priors.families import FamilyName
from model.training.pair_config import TrainOnPairsConfig
from model.training.schedule import PriorRunning


class TrainPriorConfig(TrainOnPairsConfig):
    """What `parti train prior` is told; `architecture` has fields of the family's shape."""

    family: FamilyName = "parti"
    """Which kind of prior. Parti and DALL-E read the caption, a VIM the class that the caption names, or nothing; an
    iGPT reads nothing."""
    text_drop: float = 0.1
    """Share of rows trained without their caption, for classifier-free guidance. Parti does not state its own."""
    batch_parts: PositiveInt = 1
    """Parts of a rank's slice of a batch, one after the other in memory; their gradients add up."""
    running: PriorRunning = Field(default_factory=PriorRunning)  # type: ignore[assignment]  # it is frozen
