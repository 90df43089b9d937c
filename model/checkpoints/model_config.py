"""A model's own config, as its project published it beside the checkpoint: YAML or JSON, plain values alone."""

import json
from typing import Any

import yaml

from model.checkpoints.stored import shown
from parti_data.errors import CheckpointError
from parti_data.storage import read_range, regular_file_size

MAX_CONFIG_BYTES = 256 << 10


class _PlainLoader(yaml.SafeLoader):
    """Safe values, and no aliases: merged into each other they grow without bounds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def read_model_config(path: str) -> dict[str, Any]:
    """Return a YAML or JSON config; raises CheckpointError where there is none or it is no mapping."""
    try:
        size = regular_file_size(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected a model's config, found no file; check the path") from None
    if size is None or size > MAX_CONFIG_BYTES:
        found = "no regular file" if size is None else f"{size} bytes"
        raise CheckpointError(
            f"{path}: expected a model's config of at most {MAX_CONFIG_BYTES} bytes, found {found}; check the path"
        )
    try:
        config = _parse(read_range(path, 0, size).decode())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = shown(str(error).partition("\n")[0])
        raise CheckpointError(f"{path}: expected YAML or JSON of plain values, found {first}; mend it") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a mapping, found {type(config).__name__}; give the model's config")
    return config


def _parse(text: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            pass  # YAML's mappings may begin so too
    try:
        return yaml.load(text, _PlainLoader)
    except (LookupError, AttributeError, TypeError, ArithmeticError):
        raise yaml.YAMLError("a value that is not what its tag says") from None
