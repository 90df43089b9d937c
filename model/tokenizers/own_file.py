"""Our own tokenizer files: safetensors whose header holds the architecture and the fingerprint, so that weights, config
and fingerprint cannot come apart. A dVAE's tensors are called as OpenAI published them.
"""

from dataclasses import asdict
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from model.checkpoints import shown
from model.shapes import make_shape
from model.tokenizers.dvae import DVAE, DVAEShape
from model.tokenizers.families.dvae_network import NAME as DVAE_KIND
from model.tokenizers.families.dvae_network import Halves
from model.tokenizers.tokenizer import fingerprint
from model.tokenizers.vit_vqgan import KIND, ViTVQGAN, ViTVQGANShape
from model.weights import make_module, read_weights, write_weights
from parti_data.errors import ConfigError, TokenizerError

OwnNetwork = ViTVQGAN | DVAE
_MOST_LAYERS, _MOST_POSITIONS = 256, 1 << 16
"""Of a file whose header asks for more nothing is built: what is not in its weights takes memory and time too."""
_NOT_OURS = (SafetensorError, ArithmeticError, RuntimeError, TypeError, ValueError, KeyError, ConfigError)
_MOST_SHOWN = 200


def save_tokenizer(network: OwnNetwork, path: str) -> str:
    """Write weights, config and fingerprint as one safetensors file, whole or not at all; return the fingerprint."""
    mark = fingerprint(network)
    weights = network.both if isinstance(network, DVAE) else network
    header = {"kind": network.spec.name, "shape": asdict(network.shape), "fingerprint": mark}
    write_weights(path, weights, header)
    return mark


def read_own_tokenizer(path: str) -> OwnNetwork:
    """Return the network in a file that `save_tokenizer` wrote; raises TokenizerError."""
    try:
        header, weights = read_weights(path)
        _refuse_nonfinite(weights)
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


def _build(header: dict[str, Any], weights: dict[str, Tensor]) -> OwnNetwork:
    kind = header.get("kind")
    if kind == KIND:
        return _build_vit_vqgan(make_shape(ViTVQGANShape, header["shape"]), weights)
    if kind == DVAE_KIND:
        return _build_dvae(make_shape(DVAEShape, header["shape"]), weights)
    raise ValueError(f"kind {kind}")


def _build_vit_vqgan(shape: ViTVQGANShape, weights: dict[str, Tensor]) -> ViTVQGAN:
    _refuse_large(max(shape.encoder.num_layers, shape.decoder.num_layers), shape.num_tokens)
    return make_module(lambda: ViTVQGAN(shape), weights)


def _build_dvae(shape: DVAEShape, weights: dict[str, Tensor]) -> DVAE:
    _refuse_large(shape.num_groups * shape.num_blocks, shape.num_tokens)
    return DVAE(shape, make_module(lambda: Halves(shape.encoder, shape.decoder), weights))


def _refuse_nonfinite(weights: dict[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} of numbers that are not finite")


def _refuse_large(num_layers: int, num_positions: int) -> None:
    if num_layers > _MOST_LAYERS or num_positions > _MOST_POSITIONS:
        raise ValueError(f"a header of {num_layers} layers and {num_positions} positions")
