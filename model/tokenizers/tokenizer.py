"""One face for every image tokenizer: uint8 images to int64 tokens and back, with a spec and a fingerprint.

Our own file is a safetensors file whose header holds the architecture and the fingerprint, so that weights, config
and fingerprint cannot come apart.
"""

import hashlib
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from model.tokenizers.vit_vqgan import ViTVQGAN, ViTVQGANShape
from model.weights import read_weights, write_weights
from parti_data.errors import TokenizerError
from parti_data.images import RESIZE_RECIPE
from parti_data.storage import canonical_json, is_file

KIND = "vit_vqgan"
BATCH_SIZE = 64
"""Images that pass through the network at once, the last batch padded: another batch shape may change a token."""
_DECODER_PREFIXES = ("from_code.", "decoder")
"""Tensors that do not decide a token."""


class TokenizerSpec(NamedTuple):
    """What a user of tokens has to know."""

    name: str
    codebook_size: int
    grid_side: int
    image_side: int
    pixel_range: tuple[float, float]
    resize_recipe: str

    @property
    def num_tokens(self) -> int:
        """Tokens an image."""
        return self.grid_side**2


class ImageTokenizer:
    """A frozen tokenizer on one device."""

    def __init__(self, network: ViTVQGAN, device: str = "cpu"):
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device
        shape = network.shape
        self.spec = TokenizerSpec(
            KIND, shape.codebook_size, shape.grid_side, shape.image_side, (0.0, 1.0), RESIZE_RECIPE
        )
        self.fingerprint = fingerprint(network)

    def encode(self, images: np.ndarray | Tensor) -> Tensor:
        """Return tokens int64 (B, I), raster order, for images uint8 (B, S, S, 3)."""
        images = torch.as_tensor(images)
        side = self.spec.image_side
        if images.dtype != torch.uint8 or images.shape[1:] != (side, side, 3):
            raise TokenizerError(
                f"images: expected uint8 (B, {side}, {side}, 3), found {images.dtype} {tuple(images.shape)}; resize "
                f"them with {self.spec.resize_recipe}"
            )
        return self._in_batches(images, lambda batch: self._network.encode(batch.float() / 255))

    def decode(self, tokens: np.ndarray | Tensor) -> Tensor:
        """Return images uint8 (B, S, S, 3) for tokens (B, I) of an integer type."""
        tokens = torch.as_tensor(tokens).long()
        if tokens.dim() != 2 or tokens.shape[1] != self.spec.num_tokens:
            raise TokenizerError(f"tokens: expected (B, {self.spec.num_tokens}), found {tuple(tokens.shape)}")
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.spec.codebook_size:
            raise TokenizerError(
                f"tokens: expected 0 to {self.spec.codebook_size - 1}, found {int(tokens.min())} to "
                f"{int(tokens.max())}; use the tokenizer that made them"
            )
        return self._in_batches(tokens, lambda batch: (self._network.decode(batch) * 255).round().byte())

    def _in_batches(self, rows: Tensor, function) -> Tensor:
        """Apply a function to batches of one size, padded with the last row, and join what it returns."""
        outputs = []
        with torch.inference_mode():
            for start in range(0, len(rows), BATCH_SIZE):
                batch = rows[start : start + BATCH_SIZE]
                padding = batch[-1:].expand(BATCH_SIZE - len(batch), *batch.shape[1:])
                outputs.append(function(torch.cat([batch, padding]).to(self._device)).cpu()[: len(batch)])
        return torch.cat(outputs) if outputs else function(rows.to(self._device)).cpu()


def fingerprint(network: ViTVQGAN) -> str:
    """Return the SHA-256, in hex, of all that decides a token: encoder, codebook, architecture, resize recipe."""
    digest = hashlib.sha256(canonical_json([KIND, asdict(network.shape), RESIZE_RECIPE]).encode())
    for name, tensor in sorted(network.state_dict().items()):
        if not name.startswith(_DECODER_PREFIXES):
            array = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def save_tokenizer(network: ViTVQGAN, path: str) -> str:
    """Write weights, config and fingerprint as one safetensors file, whole or not at all; return the fingerprint."""
    mark = fingerprint(network)
    write_weights(path, network, {"kind": KIND, "shape": asdict(network.shape), "fingerprint": mark})
    return mark


def load_tokenizer(path: str, device: str = "cpu") -> ImageTokenizer:
    """Return the tokenizer in a file that `save_tokenizer` wrote; raises TokenizerError."""
    if not is_file(path):
        raise TokenizerError(f"{path}: expected a tokenizer file, found none; make one with parti train tokenizer")
    try:
        header, weights = read_weights(path)
        if header.get("kind") != KIND:
            raise TokenizerError(f"{path}: expected a tokenizer of kind {KIND}, found {header.get('kind')}")
        network = ViTVQGAN(ViTVQGANShape(**header["shape"]))
        network.load_state_dict(weights)
    except (SafetensorError, RuntimeError, TypeError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise TokenizerError(f"{path}: expected a tokenizer of ours, found {first_line}; check the file") from None
    tokenizer = ImageTokenizer(network, device)
    if tokenizer.fingerprint != header.get("fingerprint"):
        raise TokenizerError(
            f"{path}: expected fingerprint {header.get('fingerprint')}, found {tokenizer.fingerprint}; the weights are "
            "not those that were saved"
        )
    return tokenizer
