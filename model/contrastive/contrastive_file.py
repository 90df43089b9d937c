"""The file of a contrastive model."""

from collections.abc import Callable
from typing import Any

from model.contrastive.contrastive import Contrastive, ContrastiveShape
from model.shapes import make_shape
from model.text_encoder import refuse_excess
from model.token_model_file import FileKind, LoadedModel, load_token_model, save_token_model
from parti_data.token_shard import ShardMetadata

KIND = "contrastive"
LoadedContrastive = LoadedModel[Contrastive]


def save_contrastive(model: Contrastive, metadata: ShardMetadata, path: str) -> None:
    """Write weights, architecture and the tokenizers' fingerprints as one safetensors file."""
    save_token_model(model, KIND, metadata, path)


def load_contrastive(path: str) -> LoadedContrastive:
    """Return the model in a file that `save_contrastive` wrote; raises CheckpointError."""
    return load_token_model(path, _FILE)


def _prepare(_: str, table: dict[str, Any]) -> Callable[[], Contrastive]:
    shape = make_shape(ContrastiveShape, table)
    refuse_excess(shape, max(shape.num_encoder_layers, shape.num_image_layers), shape.grid_side)
    return lambda: Contrastive(shape)


_FILE = FileKind(frozenset({KIND}), "a contrastive model", "parti train contrastive", _prepare)
