"""What every job is told that trains a transformer on rows of ids: how long, how many at once, on which machine."""

from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from model.training.schedule import Running, Schedule
from parti_data.caption_ids import TextReading
from parti_data.config import StageConfig
from parti_data.token_rows import ShardReading

Option = bool | int | float | str
"""What a field of an architecture may be, beside a table of such."""


class TrainOnRowsConfig(StageConfig):
    """What a job is told that trains a transformer on rows of text ids, or of them and image tokens."""

    text: TextReading = Field(default_factory=TextReading)
    """Which captions are learned, and their ids: as many of a caption as `architecture.max_text_length`."""
    reading: ShardReading = Field(default_factory=ShardReading)
    schedule: Schedule
    batch_size: PositiveInt = 8192
    """Rows a step, of all ranks together."""
    ema_decay: Annotated[NonNegativeFloat, Field(lt=1)] = 0.0
    """Of the average of the weights that is measured and saved; 0, as in Parti: the weights themselves."""
    seed: NonNegativeInt = 0
    recompute_blocks: bool = False
    """Whether training keeps no activations inside blocks and computes them twice: slower, in less memory."""
    running: Running = Field(default_factory=Running)

    UNDECIDING: ClassVar[frozenset[str]] = frozenset(
        {"source", "held_out", "start_from", "reading", "running", "recompute_blocks"}
    )

    @property
    def held_out_reading(self) -> ShardReading:
        """How held-out shards are read: a bad one is an error, as figures are of all rows."""
        return self.reading.model_copy(update={"on_bad_shard": "raise"})
