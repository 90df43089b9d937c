"""The file of a text encoder that learned before the prior, and what else has one in it."""

from dataclasses import asdict
from typing import NamedTuple

from model.contrastive import ContrastiveShape
from model.contrastive.contrastive_file import KIND as CONTRASTIVE
from model.shapes import make_shape
from model.text_encoder import TextEncoder, TextEncoderShape, refuse_excess
from model.weights import make_module, own_file, read_weights, write_weights

KIND = "text_encoder"
_KINDS: dict[str, tuple[type[TextEncoderShape], str]] = {
    KIND: (TextEncoderShape, ""),
    CONTRASTIVE: (ContrastiveShape, "text_encoder."),
}
"""What a file's header tells of, and the prefix of the encoder's weights, by the kind of file."""


class LoadedTextEncoder(NamedTuple):
    """A text encoder, its architecture, and the fingerprint of the tokenizer whose ids it knows."""

    encoder: TextEncoder
    shape: TextEncoderShape
    text_tokenizer: str


def save_text_encoder(encoder: TextEncoder, shape: TextEncoderShape, text_tokenizer: str, path: str) -> None:
    """Write weights, architecture and the tokenizer's fingerprint as one safetensors file."""
    write_weights(path, encoder, {"kind": KIND, "shape": asdict(shape), "text_tokenizer": text_tokenizer})


def load_text_encoder(path: str) -> LoadedTextEncoder:
    """Return the encoder of a file of train text-encoder or train contrastive; raises CheckpointError."""
    with own_file(path, "a text encoder", "parti train text-encoder or parti train contrastive"):
        header, weights = read_weights(path)
        if (kind := str(header.get("kind"))) not in _KINDS:
            raise ValueError(f"kind {kind}")
        told, prefix = _KINDS[kind]
        shape = make_shape(told, header["shape"]).text_encoder
        refuse_excess(shape, shape.num_encoder_layers)
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        return LoadedTextEncoder(make_module(lambda: TextEncoder(shape), own), shape, str(header["text_tokenizer"]))
