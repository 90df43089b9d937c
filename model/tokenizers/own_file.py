"""Our own tokenizer file: safetensors whose header holds the architecture and the fingerprint, so that weights, config
and fingerprint cannot come apart.
"""

from dataclasses import asdict
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from model.shapes import make_shape
from model.tokenizers.tokenizer import fingerprint
from model.tokenizers.vit_vqgan import KIND, ViTVQGAN, ViTVQGANShape
from model.weights import read_weights, write_weights
from parti_data.errors import ConfigError, TokenizerError


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
    except (SafetensorError, RuntimeError, TypeError, ValueError, KeyError, ConfigError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TokenizerError(f"{path}: expected a tokenizer of ours, found {first_line}; check the file") from None
    if (found := fingerprint(network)) != header.get("fingerprint"):
        raise TokenizerError(
            f"{path}: expected fingerprint {header.get('fingerprint')}, found {found}; the weights are not those that "
            "were saved"
        )
    return network


def _build(header: dict[str, Any], weights: dict[str, Tensor]) -> ViTVQGAN:
    if header.get("kind") != KIND:
        raise ValueError(f"kind {header.get('kind')}")
    network = ViTVQGAN(make_shape(ViTVQGANShape, header["shape"]))
    network.load_state_dict(weights)
    return network
