"""The file of a trained prior."""

from collections.abc import Callable
from typing import Any

from model.priors.parti import Parti, PartiShape
from model.shapes import make_shape
from model.text_encoder import refuse_excess
from model.token_model_file import FileKind, LoadedModel, load_token_model, save_token_model
from parti_data.token_shard import ShardMetadata

LoadedPrior = LoadedModel[Parti]


def save_prior(model: Parti, metadata: ShardMetadata, path: str) -> None:
    """Write weights, architecture and the tokenizers' fingerprints as one safetensors file."""
    save_token_model(model, _FILE, metadata, path)


def load_prior(path: str) -> LoadedPrior:
    """Return the prior in a file that `save_prior` wrote; raises CheckpointError."""
    return load_token_model(path, _FILE)


def _prepare(table: dict[str, Any]) -> Callable[[], Parti]:
    shape = make_shape(PartiShape, table)
    refuse_excess(shape, max(shape.num_encoder_layers, shape.num_decoder_layers), shape.grid_side)
    return lambda: Parti(shape)


_FILE = FileKind("parti", "a prior", "parti train prior", _prepare)
