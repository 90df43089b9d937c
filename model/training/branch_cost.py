"""What NOBLE's branches cost a network: parameters, counted, and time, measured of its last block."""

import copy
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.noble import NobleBranch, NobleLinear
from model.priors.prior import Prior

_REPETITIONS = 5
"""Of each in turn; the fastest counts."""


class BranchCost(NamedTuple):
    """With branches and without."""

    parameters: int
    parameters_without: int
    block_s: float
    """Of the last block's forward and backward pass over a part of a batch."""
    block_s_without: float

    def line(self) -> str:
        """Return what a log tells."""
        return (
            f"noble: {self.parameters:,} parameters, {self.parameters_without:,} without branches "
            f"({_percent(self.parameters, self.parameters_without)}); the last block takes {1e3 * self.block_s:.3g} ms "
            f"forward and backward, {1e3 * self.block_s_without:.3g} ms without "
            f"({_percent(self.block_s, self.block_s_without)})"
        )

    def told(self) -> dict[str, float]:
        """Return what a manifest tells."""
        return {
            "parameters_without": self.parameters_without,
            "block_ms": round(1e3 * self.block_s, 3),
            "block_ms_without": round(1e3 * self.block_s_without, 3),
        }


def measure_branches(
    network: Prior, condition: Tensor, image_tokens: Tensor, dtype: torch.dtype, is_compiled: bool
) -> BranchCost | None:
    """Return what they cost, None where there are none; the network is left as it is.

    `dtype` is that of the products. Blocks are compiled where those of the run are.
    """
    branches = [module for module in network.modules() if isinstance(module, NobleBranch)]
    if not branches:
        return None
    parameters = _count(network)
    given = _Given(network, condition, image_tokens, dtype)
    with_branches = copy.deepcopy(network.blocks[-1]).eval()  # without dropout, which would draw numbers
    blocks = with_branches, without_branches(with_branches)
    for block in blocks if is_compiled else ():
        block.compile()
    times = [[given.seconds(block) for block in blocks] for _ in range(1 + _REPETITIONS)][1:]  # the first compiles
    fastest = [min(those) for those in zip(*times, strict=True)]
    if is_compiled:
        torch.compiler.reset()  # so that what is compiled for the run does not count as made again too often
    return BranchCost(parameters, parameters - sum(map(_count, branches)), *fastest)


def without_branches(block: nn.Module) -> nn.Module:
    """Return a copy of a module whose linear layers are the plain ones."""
    plain = copy.deepcopy(block)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, NobleLinear):
            plain.set_submodule(name, layer.main)
    return plain


class _Given:
    """What the last block of a network is given for a batch."""

    def __init__(self, network: Prior, condition: Tensor, image_tokens: Tensor, dtype: torch.dtype):
        self._autocast = torch.autocast(image_tokens.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
        caught: list[tuple[Any, dict[str, Any]]] = []
        hook = network.blocks[-1].register_forward_pre_hook(
            lambda _, given, named: caught.append((given, named)), with_kwargs=True
        )
        is_training = network.training
        with torch.no_grad(), self._autocast:
            network.eval()(condition, image_tokens)
        network.train(is_training)
        hook.remove()
        ((x, *self._others), self._named) = caught[0]
        self._x: Tensor = x

    def seconds(self, block: nn.Module) -> float:
        """Return how long a block takes for it, forward and backward."""
        x = self._x.detach().requires_grad_()
        started = _now(x.device)
        with self._autocast:
            block(x, *self._others, **self._named).float().sum().backward()
        return _now(x.device) - started


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _percent(amount: float, base: float) -> str:
    return f"{100 * (amount / base - 1):+.1f} %"
