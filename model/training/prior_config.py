"""What `parti train prior` is told."""

from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt

from model.training.schedule import PriorRunning, Schedule
from parti_data.caption_ids import TextReading
from parti_data.config import StageConfig
from parti_data.token_rows import ShardReading


class TrainPriorConfig(StageConfig):
    """What `parti train prior` is told."""

    source: str | dict[str, float]
    """A directory of token shards, or several with their weights."""
    held_out: str = ""
    """Another such directory, on all of which the loss is measured at each checkpoint; empty: not measured."""
    architecture: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Fields of PartiShape that differ from Parti-350M; vocabulary, codebook and grid come from the shards."""
    text: TextReading = Field(default_factory=TextReading)
    """Which captions are learned, and their ids; of the latter no more than `architecture.max_text_length`."""
    reading: ShardReading = Field(default_factory=ShardReading)
    text_drop: float = 0.1
    """Share of rows trained without text, for classifier-free guidance. Parti does not state its own."""
    schedule: Schedule
    batch_size: PositiveInt = 8192
    """Rows a step, of all ranks together."""
    batch_parts: PositiveInt = 1
    """Parts of a rank's slice of a batch, one after the other in memory; their gradients add up."""
    ema_decay: Annotated[NonNegativeFloat, Field(lt=1)] = 0.0
    """Of the average of the weights that is measured and saved; 0, as in Parti: the weights themselves."""
    seed: int = 0
    recompute_blocks: bool = False
    """Whether training keeps no activations inside blocks and computes them twice: slower, in less memory."""
    running: PriorRunning = Field(default_factory=PriorRunning)

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"source", "held_out", "reading", "running", "recompute_blocks"})
