"""What `parti train prior` is told."""

from pydantic import Field, PositiveInt

from model.training.row_config import TrainOnRowsConfig
from model.training.schedule import PriorRunning


class TrainPriorConfig(TrainOnRowsConfig):
    """What `parti train prior` is told."""

    source: str | dict[str, float]
    """A directory of token shards, or several with their weights."""
    held_out: str = ""
    """Another such directory, on all of which the loss is measured at each checkpoint; empty: not measured."""
    architecture: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Fields of PartiShape that differ from Parti-350M; vocabulary, codebook and grid come from the shards."""
    start_from: str = ""
    """A file of train text-encoder or train contrastive, with whose text encoder training begins."""
    text_drop: float = 0.1
    """Share of rows trained without text, for classifier-free guidance. Parti does not state its own."""
    batch_parts: PositiveInt = 1
    """Parts of a rank's slice of a batch, one after the other in memory; their gradients add up."""
    running: PriorRunning = Field(default_factory=PriorRunning)  # type: ignore[assignment]  # it is frozen
