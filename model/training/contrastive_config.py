"""What `parti train contrastive` is told."""

from pydantic import PositiveInt

from model.training.pair_config import TrainOnPairsConfig


class TrainContrastiveConfig(TrainOnPairsConfig):
    """What `parti train contrastive` is told; `architecture` has fields of ContrastiveShape.

    Each row of a batch, of all ranks together, is told from all others.
    """

    measured_rows: PositiveInt = 1024
    """Held-out rows among which captions find their images and images their captions, at most; with more it is
    harder."""
