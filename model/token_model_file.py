"""Files of networks that know text ids and image tokens: weights, architecture, the fingerprints of both tokenizers."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Generic, NamedTuple, TypeVar

from torch import nn

from model.weights import make_module, own_file, read_weights, write_weights
from parti_data.token_shard import ShardMetadata

M = TypeVar("M", bound=nn.Module)


class LoadedModel(NamedTuple, Generic[M]):
    """A network ready to use, and the fingerprints of the tokenizers whose ids it knows."""

    model: M
    image_tokenizer: str
    text_tokenizer: str
    told: dict[str, Any]
    """What else its file tells, as JSON."""


class FileKind(NamedTuple, Generic[M]):
    """What a kind of such files is called, and how its network is made."""

    kinds: frozenset[str]
    """One of which its header tells."""
    what: str
    """With its article."""
    command: str
    """Which writes it."""
    prepare: Callable[[str, dict[str, Any]], Callable[[], M]]
    """Return what makes the network that a header's kind and table of its shape tell of; raises ValueError or
    ConfigError."""


def save_token_model(model: Any, kind: str, metadata: ShardMetadata, path: str, **told: Any) -> None:
    """Write weights, architecture, the tokenizers' fingerprints and what else is told as one safetensors file."""
    header = {
        "kind": kind,
        "shape": asdict(model.shape),
        "image_tokenizer": metadata.image_tokenizer,
        "text_tokenizer": metadata.text_tokenizer,
        "told": told,
    }
    write_weights(path, model, header)


def load_token_model(path: str, kind: FileKind[M]) -> LoadedModel[M]:
    """Return the network in a file that `save_token_model` wrote; raises CheckpointError."""
    with own_file(path, kind.what, kind.command):
        header, weights = read_weights(path)
        if (found := str(header.get("kind"))) not in kind.kinds:
            raise ValueError(f"kind {found}")
        model = make_module(kind.prepare(found, header["shape"]), weights)
        marks = str(header["image_tokenizer"]), str(header["text_tokenizer"])
        told = dict(header.get("told", {}))
    return LoadedModel(model.eval().requires_grad_(False), *marks, told)
