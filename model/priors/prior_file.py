"""The file of a trained prior: weights, architecture, and the fingerprints of the tokenizers that it belongs to."""

from dataclasses import asdict
from typing import NamedTuple

from safetensors import SafetensorError

from model.priors.parti import Parti, PartiShape
from model.weights import read_weights, write_weights
from parti_data.errors import CheckpointError
from parti_data.storage import is_file
from parti_data.token_shard import ShardMetadata

KIND = "parti"


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
        if header.get("kind") != KIND:
            raise CheckpointError(f"{path}: expected a prior of kind {KIND}, found {header.get('kind')}")
        model = Parti(PartiShape(**header["shape"]))
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, TypeError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path}: expected a prior of ours, found {first_line}; check the file") from None
    return LoadedPrior(model.eval().requires_grad_(False), header["image_tokenizer"], header["text_tokenizer"])
