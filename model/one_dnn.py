"""Products of matrices by oneDNN, on CPUs.

Torch gives float32 products to MKL, which leaves half of an AMD processor idle: 110 GFLOP/s on a core of Zen 5, where
oneDNN has 250. What torch's own compiler calls for it is called here: in no other way does torch hand float32 over.
Where it was built without, its ordinary functions are used, with the same results but for rounding.
"""

from collections.abc import Set
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

Activation = Literal["none", "gelu", "tanh", "relu"]
_ACTIVATIONS: dict[type[nn.Module], Activation] = {nn.GELU: "gelu", nn.Tanh: "tanh", nn.ReLU: "relu"}
_LEAST_PRODUCTS = 1 << 21
"""Of numbers, in one product of matrices: of fewer torch's own is faster."""


def is_fast(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies matrices of a type on this processor."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x (..., N) times the transpose of a weight (M, N), without gradients."""
    if x.device.type == "cpu" and is_fast(x.dtype):
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return F.linear(x, weight)


class _Product(torch.autograd.Function):
    """A linear layer's product and, for gradients, the two that follow from it."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            product(grad, weight.T) if needs_x else None,
            product(rows.T, x.flatten(0, -2).T) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


class Linear(nn.Linear):
    """A linear layer whose float32 products on a CPU are oneDNN's, in training too, where they are large enough.

    On a core of Zen 5, forward and backward of 2,048 rows and 256 to 1,024 channels ran at 195 GFLOP/s, at torch's own
    103. Gradients of its gradients are refused.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., M) for (..., N)."""
        if self._is_faster_with(x):
            return _Product.apply(x, self.weight, self.bias)  # type: ignore[return-value]
        return super().forward(x)

    def _is_faster_with(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.device.type != "cpu":
            return False
        is_float32 = x.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return is_float32 and x.numel() * self.out_features >= _LEAST_PRODUCTS and is_fast(torch.float32)


class PackedLinear(nn.Module):
    """A linear layer whose weight lies as oneDNN wants it, with the activation behind it in the same pass."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: Activation = "none"):
        super().__init__()
        self.activation = activation
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., M) for (..., N)."""
        algorithm = "none" if self.activation == "gelu" else ""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self.activation, [], algorithm)


class PackedPointwise(PackedLinear):
    """A convolution of one pixel, which is a linear layer, for images (B, C, H, W) whose channels lie last."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, M, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def pack(module: nn.Module, kept: Set[int] = frozenset()) -> None:
    """Replace, in place, the linear layers and the convolutions of one pixel within a module, whatever their depth.

    Weights whose `id` is among the `kept` are left as they are.
    """
    for name, child in list(module.named_children()):
        weight = getattr(child, "weight", None)
        if not isinstance(weight, Tensor) or id(weight) in kept or not is_fast(weight.dtype):
            pack(child, kept)
        elif isinstance(child, nn.Linear):
            module.set_submodule(name, PackedLinear(weight, child.bias, _take_activation(module, name)))
        elif isinstance(child, nn.Conv2d) and _is_pointwise(child):
            module.set_submodule(name, PackedPointwise(weight.flatten(1), child.bias))


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return (layer.kernel_size, layer.stride, layer.padding, layer.groups) == ((1, 1), (1, 1), (0, 0), 1)


def _take_activation(module: nn.Module, name: str) -> Activation:
    """Return the activation that follows a layer in a sequence, and leave nothing in its place."""
    names = list(module._modules)
    follower = names[names.index(name) + 1] if isinstance(module, nn.Sequential) and name != names[-1] else None
    behind = module._modules[follower] if follower else None
    taken = _ACTIVATIONS.get(type(behind), "none") if behind else "none"
    if isinstance(behind, nn.GELU) and behind.approximate != "none":
        return "none"
    if taken != "none":
        module.set_submodule(str(follower), nn.Identity())
    return taken
