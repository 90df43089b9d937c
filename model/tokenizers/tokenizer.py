"""One face for every image tokenizer: uint8 images to int64 tokens and back, with a spec and a fingerprint."""

import copy
import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from model.tokenizers.encoder import float32_matmuls, make_encoder, refuse_missing
from model.tokenizers.execution import Execution
from model.tokenizers.network import TokenizerNetwork
from parti_data.errors import TokenizerError
from parti_data.storage import canonical_json

_PIXELS_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 21}
"""What a batch holds at most: a picture of 256 px on a CPU, where ViT-VQGAN-Small and VQ-16 gain nothing by more, and
padding costs; 32 of them on a GPU."""
_LARGEST_BATCH = {"cpu": 64, "cuda": 1024}
_LOST = -1
"""In place of the tokens of an image whose latents are not finite: float16 overflows."""
_INTEGERS = (
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


class ImageTokenizer:
    """A frozen tokenizer on one device.

    Several may share a network, which is left where it lies. Images pass through it `batch_size` at a time, the last
    batch padded: another batch shape may change a token. Raises TokenizerError where this machine lacks what the
    execution needs.
    """

    def __init__(self, network: TokenizerNetwork, execution: Execution | None = None):
        self.execution = execution or Execution()
        refuse_missing(self.execution)
        self._network = _on_device(network, self.execution.device).eval().requires_grad_(False)
        self._encoder = make_encoder(self._network, self.execution)
        self.spec = network.spec
        self.has_decoder = network.has_decoder
        self.fingerprint = fingerprint(network)
        device = self.execution.device
        self._copies = torch.cuda.Stream() if device == "cuda" else None
        self.batch_size = max(1, min(_LARGEST_BATCH[device], _PIXELS_AT_ONCE[device] // self.spec.image_side**2))

    def executed(self, execution: Execution) -> "ImageTokenizer":
        """Return the same tokenizer, on the same weights, with its encoder run another way."""
        return ImageTokenizer(self._network, execution)

    def encode(self, images: np.ndarray | Tensor) -> Tensor:
        """Return tokens int64 (B, I), raster order, for images uint8 (B, S, S, 3); raises TokenizerError."""
        images = _as_tensor(images)
        self._refuse_other_images(images)
        tokens = self._in_batches(images, self._encode_batch)
        self._refuse_lost(tokens)
        return tokens

    def decode(self, tokens: np.ndarray | Tensor) -> Tensor:
        """Return images uint8 (B, S, S, 3) for tokens (B, I) of an integer type."""
        tokens = _as_tensor(tokens)
        self._refuse_other_tokens(tokens)

        def decode(batch: Tensor) -> Tensor:
            with float32_matmuls(self.execution, tf32=False):
                return to_bytes(self._network.decode(batch))

        return self._in_batches(tokens.long(), decode)

    def refuse_without_decoder(self) -> None:
        """Raise TokenizerError where it only encodes."""
        self._network.refuse_without_decoder()

    def reconstruct_in_range(self, images: np.ndarray | Tensor, pixel_range: tuple[float, float]) -> Tensor:
        """Return what uint8 images come back as where black and white are these values to the network, uint8.

        To find out whether the range that it was opened with is a wrong one; on torch, as far as it has a range.
        """
        own, other = self.spec.pixel_range, pixel_range

        def reconstruct(batch: Tensor) -> Tensor:
            inputs = _rescale(self._network.to_input(batch), own, other)
            with float32_matmuls(self.execution, tf32=False):
                decoded = self._network.decode(self._network.quantize(self._network.latents(inputs)))
            return to_bytes(_rescale(_rescale(decoded, (0.0, 1.0), own), other, (0.0, 1.0)))

        return self._in_batches(_as_tensor(images), reconstruct)

    def _encode_batch(self, images: Tensor) -> Tensor:
        """Return tokens, and _LOST where latents are not finite: to ask for it here would stop a GPU each time."""
        with float32_matmuls(self.execution, tf32=self.execution.precision == "tf32"):
            latents = self._encoder(self._network.to_input(images))
        with float32_matmuls(self.execution, tf32=False):
            tokens = self._network.quantize(latents.float().nan_to_num(0.0, 0.0, 0.0))
        return tokens.masked_fill(~latents.isfinite().flatten(1).all(1, keepdim=True), _LOST)

    def _refuse_other_images(self, images: Tensor) -> None:
        side, multiple = self.spec.image_side, self.spec.patch_side
        sides = images.shape[1:3]
        if self.spec.any_side:
            is_taken = images.dim() == 4 and sides[0] == sides[1] and sides[0] > 0 and sides[0] % multiple == 0
            wanted = f"uint8 (B, S, S, 3) with S a multiple of {multiple}"
        else:
            is_taken, wanted = tuple(sides) == (side, side), f"uint8 (B, {side}, {side}, 3)"
        if images.dtype != torch.uint8 or not is_taken or images.shape[3:] != (3,):
            raise TokenizerError(
                f"images: expected {wanted}, found {images.dtype} {tuple(images.shape)}; resize them with "
                f"{self.spec.resize_recipe}"
            )

    def _refuse_lost(self, tokens: Tensor) -> None:
        if lost := int((tokens == _LOST).any(-1).sum()):
            raise TokenizerError(
                f"{self.spec.name} in {self.execution.precision}: expected finite latents, found none such for {lost} "
                f"of {len(tokens)} images; use execution.precision=bfloat16, which has float32's range, and else check "
                "the weights"
            )

    def _refuse_other_tokens(self, tokens: Tensor) -> None:
        if tokens.dtype not in _INTEGERS:
            raise TokenizerError(f"tokens: expected integers, found {tokens.dtype}; give those that encode gave")
        count, vocabulary = self.spec.num_tokens, self.spec.codebook_size
        positions = tokens.shape[-1] // self.spec.num_quantizers
        is_square = self.spec.any_side and round(positions**0.5) ** 2 * self.spec.num_quantizers == tokens.shape[-1] > 0
        if tokens.dim() != 2 or not (tokens.shape[1] == count or is_square):
            raise TokenizerError(f"tokens: expected (B, {count}), found {tuple(tokens.shape)}")
        if len(tokens) and not 0 <= int(tokens.long().min()) <= int(tokens.long().max()) < vocabulary:
            raise TokenizerError(
                f"tokens: expected 0 to {vocabulary - 1}, found {int(tokens.long().min())} to "
                f"{int(tokens.long().max())}; use the "
                "tokenizer that made them"
            )

    def _in_batches(self, rows: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function to batches of one size, padded with the last row, and join what it returns.

        A GPU is waited for once, at the end.
        """
        outputs = []
        with torch.inference_mode():
            for start in range(0, len(rows), self.batch_size):
                batch = rows[start : start + self.batch_size]
                padding = batch[-1:].expand(self.batch_size - len(batch), *batch.shape[1:])
                outputs.append(function(self._to_device(torch.cat([batch, padding])))[: len(batch)])
            return (torch.cat(outputs) if outputs else function(rows.to(self.execution.device))).cpu()

    def _to_device(self, batch: Tensor) -> Tensor:
        """Return a batch where the network is; a GPU gets it while it computes the one before, on a stream apart."""
        if self._copies is None:
            return batch.to(self.execution.device)
        with torch.cuda.stream(self._copies):
            moved = batch.pin_memory().to(self.execution.device, non_blocking=True)
        computes = torch.cuda.current_stream()
        computes.wait_stream(self._copies)
        moved.record_stream(computes)  # its memory is not to be taken again before that stream is through with it
        return moved


def _on_device(network: TokenizerNetwork, device: str) -> TokenizerNetwork:
    """Return the network where it lies there already, else a copy: others may use it where it is."""
    lies_there = all(tensor.device.type == device for tensor in network.state_dict().values())
    return network if lies_there else copy.deepcopy(network).to(device)


def _as_tensor(rows: np.ndarray | Tensor) -> Tensor:
    """Return an array as torch can take it, copied where its strides are negative or it is read-only."""
    return torch.as_tensor(np.require(rows, requirements=["C", "W"]) if isinstance(rows, np.ndarray) else rows)


def _rescale(values: Tensor, before: tuple[float, float], after: tuple[float, float]) -> Tensor:
    """Map values so that the first range becomes the second."""
    return (values - before[0]) / (before[1] - before[0]) * (after[1] - after[0]) + after[0]


def to_bytes(images: Tensor) -> Tensor:
    """Return images in [0, 1], or a little outside, as uint8."""
    return (images.clamp(0, 1) * 255).round().byte()


def fingerprint(network: TokenizerNetwork) -> str:
    """Return the SHA-256, in hex, of all that decides a token: encoder, codebook, architecture, resize recipe."""
    spec = network.spec
    decides = [spec.name, network.deciding_shape(), spec.pixel_range, spec.resize_recipe]
    digest = hashlib.sha256(canonical_json(decides).encode())
    for name, tensor in sorted(network.state_dict().items()):
        if network.decides_token(name):
            array = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
