"""How fast a run is, beside what its device can do: rows and tokens a second, MFU, memory, time left.

MFU is the FLOPs that the network's products ask for, over those of a large product of matrices on the same device,
measured once at the start: a share of what is there to be had, not of a data sheet. Attention counts as if every
position saw every other, as in PaLM's formula, arXiv 2204.02311, appendix B; what is computed twice counts once.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from model.training.ranks import Ranks
from parti_data.metrics import peak_memory

_BACKWARD = 2
"""FLOPs of the backward pass beside those of the forward pass: a product for the inputs, one for the weights."""
_SIDES = {"cpu": 512, "cuda": 8192}
"""Of the measured product's matrices."""
_MEASURED_S = 0.2


class Work(NamedTuple):
    """What a row asks for in a step."""

    tokens: int
    flops: float


def count_work(network: nn.Module, num_tokens: int, *inputs: Tensor) -> Work:
    """Return what a step does for a row of so many tokens, told by the products of its forward pass, of which none is
    done; the first of the inputs is (B, ...).
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    without_values = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        # tied, a module that stands in several places, as a mask of all blocks does, would be left without its values
        functional_call(network, without_values, tuple(tensor.to("meta") for tensor in inputs), tie_weights=False)
    return Work(num_tokens, (1 + _BACKWARD) * counter.get_total_flops() / len(inputs[0]))


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOPs a second of the fastest of some products of large square matrices."""
    side = _SIDES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))  # random: zeros cost a GPU less power
    fastest, until = _seconds(a, b), time.perf_counter() + _MEASURED_S
    while time.perf_counter() < until:
        fastest = min(fastest, _seconds(a, b))
    return 2 * side**3 / fastest


def _seconds(a: Tensor, b: Tensor) -> float:
    started = time.perf_counter()
    (a @ b)[0, 0].item()  # which waits for a GPU
    return time.perf_counter() - started


class Throughput:
    """Tells of the steps since it last did; time in which no step is done can be left out."""

    def __init__(self, work: Work | None, batch_size: int, ranks: Ranks, dtype: torch.dtype):
        self._work, self._batch_size, self._ranks = work, batch_size, ranks
        self._peak = matmul_peak(ranks.device, dtype) if work else 0.0
        self._steps, self._since, self._spent = 0, time.monotonic(), 0.0

    def count(self) -> None:
        """Count a step."""
        self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of the block."""
        self._spent += time.monotonic() - self._since
        yield
        self._since = time.monotonic()

    def tell(self, steps_left: int) -> dict[str, float]:
        """Return the figures of the steps since the last call; of the work only where it is known."""
        now = time.monotonic()
        step_s = (self._spent + now - self._since) / self._steps
        self._steps, self._since, self._spent = 0, now, 0.0
        speed = {"steps_per_s": float(f"{1 / step_s:.4g}")}
        if not self._work:
            return speed
        rows_per_s = self._batch_size / step_s
        achieved = rows_per_s * self._work.flops / self._ranks.world_size
        return speed | {
            "rows_per_s": round(rows_per_s, 2),
            "tokens_per_s": round(rows_per_s * self._work.tokens, 1),
            "mfu": round(achieved / self._peak, 4),
            "matmul_peak_tflops": round(self._peak / 1e12, 4),
            "memory_bytes": float(self._memory_bytes()),
            "eta_s": round(steps_left * step_s, 1),
        }

    def _memory_bytes(self) -> int:
        if self._ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._ranks.device)
        return peak_memory().own


def throughput_line(figures: dict[str, float], batch_size: int) -> str:
    """Return the figures as a progress bar shows them."""
    steps_per_s = figures["steps_per_s"]
    line = f"{steps_per_s:.3g} steps/s  {steps_per_s * batch_size:.0f} rows/s"
    if "mfu" not in figures:
        return line
    return (
        f"{line}  {figures['tokens_per_s']:,.0f} tokens/s  {figures['mfu']:.1%} of a matmul's "
        f"{figures['matmul_peak_tflops']:.3g} TFLOP/s  {figures['memory_bytes'] / 1e9:.2f} GB"
    )
