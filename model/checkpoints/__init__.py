"""Checkpoints as strangers publish them, opened without running anybody's code."""

from model.checkpoints.checkpoint import MAX_BYTES, Checkpoint, open_checkpoint, stored_names
from model.checkpoints.model_config import read_model_config
from model.checkpoints.stored import shown

__all__ = ["MAX_BYTES", "Checkpoint", "open_checkpoint", "read_model_config", "shown", "stored_names"]
