"""What every job is told that trains on token shards: which, and where its text encoder begins."""

from pydantic import Field

from model.training.row_config import Option, TrainOnRowsConfig


class TrainOnPairsConfig(TrainOnRowsConfig):
    """What a job is told that trains a network on image tokens and what their captions say."""

    source: str | dict[str, float]
    """A directory of token shards, or several with their weights."""
    held_out: str = ""
    """Another such directory, on which what is trained is measured at each checkpoint; empty: not measured."""
    architecture: dict[str, Option | dict[str, Option]] = Field(default_factory=dict)
    """Fields of the network's shape that differ from its defaults; vocabulary, codebook and grid come from the
    shards."""
    start_from: str = ""
    """A file of train text-encoder or train contrastive, with whose text encoder training begins, where the network
    has one."""
