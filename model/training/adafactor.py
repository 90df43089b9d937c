"""Adafactor as Parti trains with it: second moments of a matrix kept as one number a row and one a column.

Parti states factored second moments, beta1 0.9, beta2 0.96 and decoupled weight decay (section 3). It takes the rest
from Shazeer and Stern, arXiv 1804.04235, and says no more; chosen here:
- the rate is the schedule's, neither relative to the step nor to the size of a parameter, as Zhai et al., arXiv
  2106.04560, section 3.5, train large transformers;
- an update whose root mean square is above 1 is scaled down to it (section 6 there, d = 1);
- 1e-30 is added to squared gradients (section 8 there), nothing to their roots;
- beta2 grows as Adam's correction of the start makes it, (beta2 - beta2^t) / (1 - beta2^t), so that the first step's
  moments are its own;
- the first moment is a mean of scaled updates, without such a correction, as the warm-up is one;
- what has fewer than two dimensions keeps whole second moments, as does what has more: a prior has none;
- first moments are float32 or bfloat16, where Parti has 8 bits.
torch's Adafactor has no first moment.

Where parameters are sharded by rows, three small collectives a parameter cross ranks: for the rows, the columns and the
size of the update.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from model.training.ranks import whole

EPSILON = 1e-30
"""Added to squared gradients. Source: arXiv 1804.04235, section 8."""
LARGEST_RMS = 1.0
"""Of an update before its rate. Source: section 6 there."""


class Adafactor(torch.optim.Optimizer):
    """Adafactor with a first moment and decoupled weight decay.

    A state's tensors have their parameter's shape and lie as it does, or are whole on every rank.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.96),
        weight_decay: float = 0.0,
        first_moments: torch.dtype = torch.float32,
    ):
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        self._first_moments = first_moments

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move each parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter] or self._begin(parameter)
        beta1, beta2 = group["betas"]
        rate = (1 - beta2) / (1 - beta2 ** state["step"].add_(1))
        update = _scale(gradient.float(), state, rate)
        mine, first = _share(parameter, parameter), _share(state["first"], parameter)
        first.lerp_(_share(update, parameter).to(self._first_moments), 1 - beta1)
        mine.mul_(1 - group["lr"] * group["weight_decay"])
        mine.add_(first.to(mine.dtype), alpha=-group["lr"])

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        state["step"] = torch.zeros((), device=parameter.device)
        state["first"] = torch.zeros_like(parameter, dtype=self._first_moments)
        if parameter.dim() == 2:
            state["rows"], state["columns"] = (
                torch.zeros(size, dtype=torch.float32, device=parameter.device) for size in parameter.shape
            )
        else:
            state["second"] = torch.zeros_like(parameter, dtype=torch.float32)
        return state


def _scale(gradient: Tensor, state: dict[str, Tensor], rate: Tensor) -> Tensor:
    """Return the gradient over the root of its second moments, which move by a rate, and no larger than it may be."""
    squared = gradient.square() + EPSILON
    if gradient.dim() == 2:
        rows, columns = (whole(squared.sum(axis)) / gradient.shape[axis] for axis in (1, 0))
        state["rows"].lerp_(rows, rate)
        state["columns"].lerp_(columns, rate)
        by_row = (state["rows"] / state["rows"].mean()).rsqrt()
        update = gradient * _like(by_row, gradient)[:, None] * _like(state["columns"].rsqrt(), gradient)
    else:
        _share(state["second"], gradient).lerp_(_share(squared, gradient), rate)
        update = gradient * state["second"].rsqrt()
    rms = whole(torch.linalg.vector_norm(update)) / update.numel() ** 0.5
    return update * _like((LARGEST_RMS / rms).clamp(max=1.0), gradient)


def _share(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return of a tensor what this rank holds of the parameter."""
    if not isinstance(tensor, DTensor) or not isinstance(parameter, DTensor):
        return tensor
    return tensor.redistribute(placements=parameter.placements).to_local()


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a tensor that every rank holds whole as another's operand."""
    if not isinstance(other, DTensor):
        return tensor
    return DTensor.from_local(tensor, other.device_mesh, [Replicate()], run_check=False)
