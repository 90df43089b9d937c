"""What `parti train contrastive` is told."""

from pydantic import Field, PositiveInt

from model.training.row_config import TrainOnRowsConfig


class TrainContrastiveConfig(TrainOnRowsConfig):
    """What `parti train contrastive` is told; all other rows of a batch are what a pair is told from, of all ranks."""

    source: str | dict[str, float]
    """A directory of token shards, or several with their weights."""
    held_out: str = ""
    """Another such directory, in which captions find their images at each checkpoint and images their captions; empty:
    not measured."""
    measured_rows: PositiveInt = 1024
    """Held-out rows among which they are found, at most; with more it is harder."""
    architecture: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Fields of ContrastiveShape that differ from its own; vocabulary, codebook and grid come from the shards."""
    start_from: str = ""
    """A file of train text-encoder, or of another train contrastive, with whose text encoder training begins."""
