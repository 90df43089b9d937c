"""What `parti train text-encoder` is told."""

from pydantic import Field, PositiveInt

from model.training.row_config import Option, TrainOnRowsConfig


class TrainTextEncoderConfig(TrainOnRowsConfig):
    """What `parti train text-encoder` is told."""

    source: str
    """A file of lines of plain text or a glob of some, for which `text.tokenizer` is needed, or a directory of token
    shards, whose captions are learned."""
    held_out: str = ""
    """Other such text, on which the loss is measured at each checkpoint; empty: not measured."""
    measured_rows: PositiveInt = 4096
    """Held-out rows that are measured, at most."""
    architecture: dict[str, Option | dict[str, Option]] = Field(default_factory=dict)
    """Fields of TextEncoderShape that differ from Parti-350M's; those of the prior that is to begin with it."""
    batch_parts: PositiveInt = 1
    """Parts of a rank's slice of a batch, one after the other in memory; their gradients add up."""
