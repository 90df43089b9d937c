"""Image-text pairs, ledgers and token shards: what they are, and how they are read and written."""

from parti_data.caption_ids import TextReading
from parti_data.errors import (
    CheckpointError,
    ConfigError,
    PartiError,
    ShardError,
    SourceError,
    TokenizerError,
)
from parti_data.token_dataset import TokenBatch, TokenDataset
from parti_data.token_rows import ShardReading

__all__ = [
    "CheckpointError",
    "ConfigError",
    "PartiError",
    "ShardError",
    "ShardReading",
    "SourceError",
    "TextReading",
    "TokenBatch",
    "TokenDataset",
    "TokenizerError",
]
