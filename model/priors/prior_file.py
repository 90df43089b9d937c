"""The file of a trained prior: weights, architecture, and the fingerprints of the tokenizers that it belongs to."""

from dataclasses import asdict
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from model.checkpoints import shown
from model.priors.parti import Parti, PartiShape
from model.shapes import make_shape
from model.weights import make_module, read_weights, write_weights
from parti_data.errors import CheckpointError, ConfigError
from parti_data.storage import is_file
from parti_data.token_shard import ShardMetadata

KIND = "parti"
_MOST_LAYERS, _MOST_TEXT, _MOST_GRID_SIDE = 256, 1 << 16, 64
"""Of a file whose header asks for more nothing is built: masks and positions are not in its weights."""
_NOT_OURS = (SafetensorError, ArithmeticError, RuntimeError, TypeError, ValueError, KeyError, ConfigError)
_MOST_SHOWN = 200


class LoadedPrior(NamedTuple):
    """A prior ready to sample from, and the fingerprints of the tokenizers whose ids it knows."""

    model: Parti
    image_tokenizer: str
    text_tokenizer: str


def save_prior(model: Parti, metadata: ShardMetadata, path: str) -> None:
    """Write weights, architecture and the tokenizers' fingerprints as one safetensors file."""
    header = {
        "kind": KIND,
        "shape": asdict(model.shape),
        "image_tokenizer": metadata.image_tokenizer,
        "text_tokenizer": metadata.text_tokenizer,
    }
    write_weights(path, model, header)


def load_prior(path: str) -> LoadedPrior:
    """Return the prior in a file that `save_prior` wrote; raises CheckpointError."""
    if not is_file(path):
        raise CheckpointError(f"{path}: expected a prior's file, found none; make one with parti train prior")
    try:
        header, weights = read_weights(path)
        model = _build(header, weights)
        marks = str(header["image_tokenizer"]), str(header["text_tokenizer"])
    except _NOT_OURS as error:
        first_line = shown((str(error).strip() or type(error).__name__).partition("\n")[0], _MOST_SHOWN)
        raise CheckpointError(f"{path}: expected a prior of ours, found {first_line}; check the file") from None
    return LoadedPrior(model.eval().requires_grad_(False), *marks)


def _build(header: dict[str, Any], weights: dict[str, Tensor]) -> Parti:
    if header.get("kind") != KIND:
        raise ValueError(f"kind {header.get('kind')}")
    shape = make_shape(PartiShape, header["shape"])
    num_layers = max(shape.num_encoder_layers, shape.num_decoder_layers)
    if num_layers > _MOST_LAYERS or shape.max_text_length > _MOST_TEXT or shape.grid_side > _MOST_GRID_SIDE:
        raise ValueError(
            f"a header of {num_layers} layers, {shape.max_text_length} text positions, a grid side of {shape.grid_side}"
        )
    return make_module(lambda: Parti(shape), weights)
