"""An encoder as its execution wants it: a copy of the network's first half, cast, packed, compiled or converted.

The copy leaves the network as it is: its weights in float32 are what fingerprints, the quantizer and the decoder use.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.one_dnn import pack
from model.tokenizers.execution import Execution
from model.tokenizers.network import TokenizerNetwork
from model.tokenizers.openvino_encoder import OpenVinoEncoder, can_bfloat16, import_openvino
from parti_data.errors import TokenizerError

Encoder = Callable[[Tensor], Tensor]
"""What `to_input` gave to what is quantized; float32 in, any precision out."""
_DTYPES = {
    "float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip
_flags = threading.RLock()
"""Torch's switches for TF32 are the process's, its threads many."""


class LatentsOf(nn.Module):
    """The way from `to_input` to the latents as a module of its own, in one precision.

    Where it convolves, channels lie last: on a Zen 5 core VQ-16 takes 0.8 of the time then, most GPUs want it too.
    """

    def __init__(self, network: TokenizerNetwork, dtype: torch.dtype):
        super().__init__()
        self.network = _copy_encoder(network, dtype)
        self.dtype = dtype
        self._channels_last = any(isinstance(module, nn.Conv2d) for module in self.network.modules())
        if self._channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what is quantized, in the module's precision."""
        inputs = inputs.to(self.dtype)
        if self._channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return self.network.latents(inputs)


def refuse_missing(execution: Execution) -> None:
    """Raise TokenizerError where this machine lacks what an execution needs: a GPU, a library, a processor's bf16."""
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise TokenizerError(
            "execution.device=cuda: expected a GPU where images are encoded or decoded, found none; ask for one or use "
            "cpu"
        )
    if execution.backend == "openvino":
        import_openvino()
        if execution.precision == "bfloat16" and not can_bfloat16():
            raise TokenizerError(
                "execution.precision=bfloat16: expected a processor that OpenVINO can do bfloat16 on, found one where "
                "it takes float32; set precision=float32 or backend=torch"
            )


def make_encoder(network: TokenizerNetwork, execution: Execution) -> Encoder:
    """Return the encoder of a network that lies on the execution's device; raises TokenizerError."""
    if execution.backend == "openvino":
        return OpenVinoEncoder(LatentsOf(network, torch.float32), execution.precision)
    encoder = LatentsOf(network, _DTYPES[execution.precision])
    if execution.device == "cpu":
        pack(encoder, kept={id(tensor) for tensor in _undeciding(network)})
    return torch.compile(encoder, dynamic=False) if execution.compile else encoder


@contextmanager
def float32_matmuls(execution: Execution, tf32: bool) -> Iterator[None]:
    """While the block runs, float32 is float32, or with `tf32` TF32, wherever a GPU multiplies.

    Other threads of the process wait meanwhile: the switches are theirs too. On a CPU nothing is switched.
    """
    if execution.device == "cpu":
        yield
        return
    with _flags, torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _copy_encoder(network: TokenizerNetwork, dtype: torch.dtype) -> TokenizerNetwork:
    """Return a copy in a precision; what has no say in a token, as the decoder, is shared and stays as it is."""
    shared = {id(tensor): tensor for tensor in _undeciding(network)}
    copied = copy.deepcopy(network, shared)
    for tensor in [*copied.parameters(), *copied.buffers()]:
        if id(tensor) not in shared and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return copied


def _undeciding(network: TokenizerNetwork) -> list[nn.Parameter]:
    return [tensor for name, tensor in network.named_parameters() if not network.decides_token(name)]
