"""The file of a trained prior."""

from collections.abc import Callable
from typing import Any

from model.priors.families import FAMILIES, family_of
from model.priors.prior import Prior
from model.shapes import make_shape
from model.token_model_file import FileKind, LoadedModel, load_token_model, save_token_model
from parti_data.token_shard import ShardMetadata

LoadedPrior = LoadedModel[Prior]


def save_prior(model: Prior, metadata: ShardMetadata, path: str, **told: Any) -> None:
    """Write weights, architecture, the tokenizers' fingerprints and what is told of it as one safetensors file."""
    save_token_model(model, family_of(model), metadata, path, **told)


def load_prior(path: str) -> LoadedPrior:
    """Return the prior in a file that `save_prior` wrote, of whichever family; raises CheckpointError."""
    return load_token_model(path, _FILE)


def _prepare(kind: str, table: dict[str, Any]) -> Callable[[], Prior]:
    family = FAMILIES[kind]
    shape = make_shape(family.shape, table)
    shape.refuse_excess()
    return lambda: family.network(shape)


_FILE = FileKind(frozenset(FAMILIES), "a prior", "parti train prior", _prepare)
