"""Our own tokenizer file: safetensors whose header holds the architecture and the fingerprint, so that weights, config
and fingerprint cannot come apart.
"""

from dataclasses import asdict
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from model.checkpoints import shown
from model.shapes import make_shape
from model.tokenizers.tokenizer import fingerprint
from model.tokenizers.vit_vqgan import KIND, ViTVQGAN, ViTVQGANShape
from model.weights import make_module, read_weights, write_weights
from parti_data.errors import ConfigError, TokenizerError

_MOST_LAYERS, _MOST_POSITIONS = 256, 1 << 16
"""Of a file whose header asks for more nothing is built: what is not in its weights takes memory and time too."""
_NOT_OURS = (SafetensorError, ArithmeticError, RuntimeError, TypeError, ValueError, KeyError, ConfigError)
_MOST_SHOWN = 200


def save_tokenizer(network: ViTVQGAN, path: str) -> str:
    """Write weights, config and fingerprint as one safetensors file, whole or not at all; return the fingerprint."""
    mark = fingerprint(network)
    write_weights(path, network, {"kind": KIND, "shape": asdict(network.shape), "fingerprint": mark})
    return mark


def read_own_tokenizer(path: str) -> ViTVQGAN:
    """Return the network in a file that `save_tokenizer` wrote; raises TokenizerError."""
    try:
        header, weights = read_weights(path)
        network = _build(header, weights)
    except _NOT_OURS as error:
        first_line = shown((str(error).strip() or type(error).__name__).partition("\n")[0], _MOST_SHOWN)
        raise TokenizerError(f"{path}: expected a tokenizer of ours, found {first_line}; check the file") from None
    if (found := fingerprint(network)) != header.get("fingerprint"):
        raise TokenizerError(
            f"{path}: expected fingerprint {shown(header.get('fingerprint'))}, found {found}; the weights are not "
            "those that were saved"
        )
    return network


def _build(header: dict[str, Any], weights: dict[str, Tensor]) -> ViTVQGAN:
    if header.get("kind") != KIND:
        raise ValueError(f"kind {header.get('kind')}")
    shape = make_shape(ViTVQGANShape, header["shape"])
    num_layers = max(shape.encoder.num_layers, shape.decoder.num_layers)
    if num_layers > _MOST_LAYERS or shape.num_tokens > _MOST_POSITIONS:
        raise ValueError(f"a header of {num_layers} layers and {shape.num_tokens} positions")
    return make_module(lambda: ViTVQGAN(shape), weights)
