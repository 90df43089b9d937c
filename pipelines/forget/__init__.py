"""Rows removed from everything that the stages of a directory wrote, for requests to take down."""

from pipelines.forget.forget_rows import Options, forget
from pipelines.forget.names import read_names

__all__ = ["Options", "forget", "read_names"]
