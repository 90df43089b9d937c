"""What `parti train contrastive` is told."""

from typing import Annotated

from pydantic import Field, PositiveInt

from model.training.pair_config import TrainOnPairsConfig


class TrainContrastiveConfig(TrainOnPairsConfig):
    """What `parti train contrastive` is told; `architecture` has fields of ContrastiveShape."""

    batch_size: Annotated[int, Field(ge=2)] = 8192
    """Rows a step, of all ranks together, each told from all others."""
    measured_rows: PositiveInt = 1024
    """Held-out rows among which captions find their images and images their captions, at most; with more it is
    harder."""
