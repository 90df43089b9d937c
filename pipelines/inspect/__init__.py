"""Says what token shards hold: their columns as they are stored, what made them, and how rows, texts and codes are."""

from pipelines.inspect.measure import inspect_shards
from pipelines.inspect.picture import draw_rows
from pipelines.inspect.say import inspection_lines

__all__ = ["draw_rows", "inspect_shards", "inspection_lines"]
