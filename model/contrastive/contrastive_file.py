"""The file of a contrastive model: weights, architecture, and the fingerprints of the tokenizers that it belongs to."""

from dataclasses import asdict
from typing import Any, NamedTuple

from torch import Tensor

from model.contrastive.contrastive import Contrastive, ContrastiveShape
from model.shapes import make_shape
from model.text_encoder import refuse_excess
from model.weights import make_module, own_file, read_weights, write_weights
from parti_data.token_shard import ShardMetadata

KIND = "contrastive"


class LoadedContrastive(NamedTuple):
    """A contrastive model ready to score with, and the fingerprints of the tokenizers whose ids it knows."""

    model: Contrastive
    image_tokenizer: str
    text_tokenizer: str


def save_contrastive(model: Contrastive, metadata: ShardMetadata, path: str) -> None:
    """Write weights, architecture and the tokenizers' fingerprints as one safetensors file."""
    header = {
        "kind": KIND,
        "shape": asdict(model.shape),
        "image_tokenizer": metadata.image_tokenizer,
        "text_tokenizer": metadata.text_tokenizer,
    }
    write_weights(path, model, header)


def load_contrastive(path: str) -> LoadedContrastive:
    """Return the model in a file that `save_contrastive` wrote; raises CheckpointError."""
    with own_file(path, "a contrastive model", "parti train contrastive"):
        header, weights = read_weights(path)
        model = _build(header, weights)
        marks = str(header["image_tokenizer"]), str(header["text_tokenizer"])
    return LoadedContrastive(model.eval().requires_grad_(False), *marks)


def _build(header: dict[str, Any], weights: dict[str, Tensor]) -> Contrastive:
    if header.get("kind") != KIND:
        raise ValueError(f"kind {header.get('kind')}")
    shape = make_shape(ContrastiveShape, header["shape"])
    refuse_excess(max(shape.num_encoder_layers, shape.num_image_layers), shape.max_text_length, shape.grid_side)
    return make_module(lambda: Contrastive(shape), weights)
