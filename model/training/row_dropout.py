"""Dropout that is a function of (seed, step, row), so that a row loses the same values whichever process has it.

torch's own draws for a process's whole slice of a batch: with another number of ranks, or of parts, every row would
lose other values.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.training.step_parts import to_device
from parti_data.keyed_random import draw

_STEP_WEYL = -1640531527  # 0x9E3779B9, as int32
_FIRST, _SECOND = 0x7FEB352D, -2073254261  # 0x846CA68B
"""Source: Wellons, "Prospecting for Hash Functions" (2018): the multipliers of lowbias32."""
_MOST_CALLS = 16
"""Of one dropout in one forward of the module that has it."""
_LAST_16, _LAST_17 = (1 << 16) - 1, (1 << 17) - 1


class RowKeys:
    """The keys of the rows that a network is about to see."""

    def __init__(self) -> None:
        self.keys = torch.zeros(0, dtype=torch.int32)

    def take(self, stream: np.uint64, rows: np.ndarray, device: torch.device) -> None:
        """Make the keys of rows by their numbers in a stream."""
        keys = (draw(rows, stream) >> np.uint64(32)).astype(np.uint32).view(np.int32)
        self.keys = to_device(keys, device)


class RowDropout(nn.Module):
    """Dropout of (B, ...) whose row b is a function of its key, of which dropout this is, and of which of its calls."""

    first_call: Tensor
    """Its number among those of all; a tensor, so that blocks which differ in it alone are compiled once."""
    stride: Tensor
    """Between the numbers of neighbouring values; a tensor, since torch.compile would work a constant into the
    arithmetic of its indices, where the products do not fit int32."""

    def __init__(self, p: float, rows: RowKeys, number: int, device: torch.device):
        super().__init__()
        self.p, self._rows, self.calls = p, rows, 0
        first_call = torch.tensor(number * _MOST_CALLS, dtype=torch.int32, device=device)
        self.register_buffer("first_call", first_call, persistent=False)
        stride = torch.tensor(_STEP_WEYL, dtype=torch.int32, device=device)
        self.register_buffer("stride", stride, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with a share p of its values 0, the others larger by 1 / (1 - p); x itself in evaluation."""
        if not self.training:
            return x
        keys = _mix(self._rows.keys ^ (self.first_call + self.calls))
        self.calls += 1
        numbers = torch.arange(x[0].numel(), dtype=torch.int32, device=x.device) * self.stride
        kept = _kept(numbers, keys, self.p).view(x.shape)
        if not x.is_cuda:  # where its memory matters more than converting it again for the backward pass
            kept = kept.to(x.dtype)
        return x * kept * (1 / (1 - self.p))


def _kept(numbers: Tensor, keys: Tensor, p: float) -> Tensor:
    """Return bool (B, N), False in a share p to 2^-16, for distinct numbers (N) and the keys (B) of rows."""
    threshold = round((p - 0.5) * 2**16) * 2**16
    return _mix_upper(numbers[None] ^ keys[:, None]) >= threshold


def _mix(numbers: Tensor) -> Tensor:
    """Return int32 that look random, for distinct int32; what is given is written over."""
    numbers = _mix_upper(numbers)
    return numbers ^ ((numbers >> 16) & _LAST_16)


def _mix_upper(numbers: Tensor) -> Tensor:
    """Return int32 whose upper 16 bits are those of `_mix`; what is given is written over."""
    numbers *= _FIRST
    numbers ^= (numbers >> 15).bitwise_and_(_LAST_17)  # & as >> copies the sign
    numbers *= _SECOND
    return numbers


def drop_by_row(network: nn.Module, rows: RowKeys) -> None:
    """Replace a network's dropouts by such as are a function of the row.

    A module's calls are counted anew in each of its forwards and losses, so that one that is done again drops the same.
    """
    number, device = 0, next(network.parameters()).device
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout) and child.p:
                setattr(module, name, RowDropout(child.p, rows, number, device))
                number += 1
        made = [child for child in module.children() if isinstance(child, RowDropout)]
        for entry in ("forward", "losses"):  # a prior's losses need not go through its forward
            if made and hasattr(module, entry):
                setattr(module, entry, _counted_anew(getattr(module, entry), made))


def _counted_anew(entry: Callable[..., Any], dropouts: list[RowDropout]) -> Callable[..., Any]:
    def counted(*arguments: Any, **named: Any) -> Any:
        for dropout in dropouts:
            dropout.calls = 0
        return entry(*arguments, **named)

    return counted
