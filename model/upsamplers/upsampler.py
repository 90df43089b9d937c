"""An upsampler and its file: safetensors whose header holds the architecture and the image tokenizer's fingerprint."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoints import shown
from model.shapes import make_shape
from model.tokenizers.tokenizer import to_bytes
from model.upsamplers.wdsr import WDSR, WDSRShape
from model.weights import make_module, own_file, read_weights, write_weights
from parti_data.errors import TokenizerError

KIND = "wdsr"
_MOST_BLOCKS = 256
"""Of a file whose header asks for more nothing is built: modules without weights take memory and time too."""


class Upsampler:
    """A frozen upsampler of the pictures that one image tokenizer decodes.

    It knows the tokenizer by its fingerprint, so by its tokens: another decoder of the same ones may follow.
    """

    def __init__(self, network: WDSR, image_tokenizer: str, device: str = "cpu"):
        self._network, self._device = network.to(device).eval().requires_grad_(False), device
        self.scale, self.image_tokenizer = network.shape.scale, image_tokenizer

    @torch.inference_mode()
    def enlarge(self, pictures: np.ndarray) -> np.ndarray:
        """Return uint8 (B, scale S, scale S, 3) for uint8 (B, S, S, 3); each alone, so that none depends on others."""
        alone = torch.tensor(pictures).split(1)
        return torch.cat([to_bytes(self._network(one.to(self._device).float() / 255)).cpu() for one in alone]).numpy()

    def refuse_pictures_of(self, fingerprint: str, path: str) -> None:
        """Raise TokenizerError for the pictures of another image tokenizer than it was trained on."""
        if fingerprint != self.image_tokenizer:
            raise TokenizerError(
                f"{path}: expected an upsampler of the image tokenizer {fingerprint[:12]}, found one of "
                f"{shown(self.image_tokenizer[:12])}; train one on its reconstructions"
            )


def save_upsampler(network: WDSR, image_tokenizer: str, path: str) -> None:
    """Write weights, architecture and the tokenizer's fingerprint as one file, whole or not at all."""
    write_weights(path, network, {"kind": KIND, "shape": asdict(network.shape), "image_tokenizer": image_tokenizer})


def load_upsampler(path: str, device: str = "cpu") -> Upsampler:
    """Return the upsampler in a file that `save_upsampler` wrote; raises CheckpointError."""
    with own_file(path, "an upsampler", "parti train upsampler"):
        header, weights = read_weights(path)
        return Upsampler(_build(header, weights), str(header["image_tokenizer"]), device)


def _build(header: dict[str, Any], weights: dict[str, Tensor]) -> WDSR:
    if header.get("kind") != KIND:
        raise ValueError(f"kind {header.get('kind')}")
    shape = make_shape(WDSRShape, header["shape"])
    if sum(shape.blocks_before) > _MOST_BLOCKS:
        raise ValueError(f"a header of {sum(shape.blocks_before)} blocks")
    return make_module(lambda: WDSR(shape), weights)
