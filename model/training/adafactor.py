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

Where parameters are sharded by rows, two sums cross ranks in a step: of all rows and columns, and of the sizes of all
updates. Each rank works on what it holds; operations on DTensors took six milliseconds a parameter on a CPU.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

EPSILON = 1e-30
"""Added to squared gradients. Source: arXiv 1804.04235, section 8."""
LARGEST_RMS = 1.0
"""Of an update before its rate. Source: section 6 there."""


class _Move(NamedTuple):
    """A parameter's move in a step: what this rank holds of it and of its gradient, which becomes the update."""

    parameter: Tensor
    gradient: Tensor
    state: dict[str, Tensor]
    settings: dict[str, Any]
    size: torch.Size
    """Of the whole parameter."""
    first_row: int

    @property
    def is_factored(self) -> bool:
        """Whether rows and columns stand for second moments."""
        return len(self.size) == 2

    def rate(self) -> Tensor:
        """Return how far second moments move."""
        beta2 = self.settings["betas"][1]
        return (1 - beta2) / (1 - beta2 ** self.state["step"])


class Adafactor(torch.optim.Optimizer):
    """Adafactor with a first moment and decoupled weight decay; a step uses the gradients up.

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
        learned = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        moves = [self._move(parameter, group) for parameter, group in learned if parameter.grad is not None]
        ranks = next((held.device_mesh.get_group() for held, _ in learned if isinstance(held, DTensor)), None)
        _scale([move for move in moves if move.is_factored], ranks)
        for move in moves:
            if not move.is_factored:
                second = _held(move.state["second"])
                second.lerp_(move.gradient.square() + EPSILON, move.rate())
                move.gradient.mul_(second.rsqrt())
        _bound(moves, ranks)
        for move in moves:
            _apply(move)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> _Move:
        state = self.state[parameter] or self._begin(parameter)
        state["step"].add_(1)
        assert parameter.grad is not None
        first_row = _first_row(parameter) if isinstance(parameter, DTensor) else 0
        return _Move(_held(parameter), _held(parameter.grad), state, group, parameter.shape, first_row)

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        state["step"] = torch.zeros((), device=parameter.device)
        state["first"] = torch.zeros_like(parameter, dtype=self._first_moments)
        if parameter.dim() == 2:
            state["rows"], state["columns"] = (torch.zeros(size, device=parameter.device) for size in parameter.shape)
        else:
            state["second"] = torch.zeros_like(parameter)
        return state


def _scale(moves: list[_Move], ranks: Any) -> None:
    """Divide gradients of matrices by the roots of their second moments, which move first."""
    sums = [torch.cat([_row_sums(move), (move.gradient.square() + EPSILON).sum(0)]) for move in moves]
    for move, both in zip(moves, _sum(sums, ranks), strict=True):
        state, (num_rows, num_columns) = move.state, move.size
        rows, columns = both.split([num_rows, num_columns])
        state["rows"].lerp_(rows / num_columns, move.rate())
        state["columns"].lerp_(columns / num_rows, move.rate())
        by_row = (state["rows"] / state["rows"].mean()).rsqrt()
        mine = by_row[move.first_row : move.first_row + len(move.gradient)]
        move.gradient.mul_(mine[:, None]).mul_(state["columns"].rsqrt())


def _row_sums(move: _Move) -> Tensor:
    """Return the sums over rows of squared gradients, 0 for rows that other ranks hold."""
    sums = move.gradient.new_zeros(move.size[0])
    sums[move.first_row : move.first_row + len(move.gradient)] = (move.gradient.square() + EPSILON).sum(1)
    return sums


def _bound(moves: list[_Move], ranks: Any) -> None:
    """Make updates whose root mean square is too large so much smaller."""
    squares = _sum([move.gradient.square().sum().view(1) for move in moves], ranks)
    for move, square in zip(moves, squares, strict=True):
        rms = (square[0] / move.size.numel()).sqrt()
        move.gradient.mul_((LARGEST_RMS / rms).clamp(max=1.0))


def _apply(move: _Move) -> None:
    first, (beta1, _) = _held(move.state["first"]), move.settings["betas"]
    first.lerp_(move.gradient.to(first.dtype), 1 - beta1)
    move.parameter.mul_(1 - move.settings["lr"] * move.settings["weight_decay"])
    move.parameter.add_(first.to(move.parameter.dtype), alpha=-move.settings["lr"])


def _sum(parts: list[Tensor], ranks: Any) -> list[Tensor]:
    """Return each tensor's sum over ranks, of all at once."""
    if ranks is None or not parts:
        return parts
    joined = torch.cat(parts)
    dist.all_reduce(joined, group=ranks)
    return list(joined.split([len(part) for part in parts]))


def _held(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _first_row(parameter: DTensor) -> int:
    """Return the first row that this rank holds: rows are shared out as torch.chunk does."""
    mesh = parameter.device_mesh
    rows_a_rank = -(-parameter.shape[0] // mesh.size())
    return min(mesh.get_local_rank() * rows_a_rank, parameter.shape[0])
