"""The processes that train together, as torchrun started them; one alone where it started none.

Every rank holds the same weights and works on its slice of each batch. Gradients are averaged by one sum over ranks at
the end of a step, not by DistributedDataParallel: that is the same sum for accumulated parts of a batch, for frozen
parameters, and where a penalty asks for gradients of gradients, all of which the wrapper forbids or has switches for.
What it would win is the time of that sum, 4 bytes a parameter and step, beside the backward pass.
"""

import datetime
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from parti_data.errors import ConfigError, PartiError, RankError

Device = Literal["auto", "cpu", "cuda"]
PATIENCE = datetime.timedelta(hours=6)
"""While the first rank reads a source through or measures, the others wait."""
_TOLD = "told"
"""Set where a rank has said why it ends."""
_CONNECTION = re.compile("gloo|nccl", re.IGNORECASE)
"""What the errors of lost connections name; they have no type of their own."""
_HEAD_START_S = 3.0
"""So long the first rank may tell what is wrong before another does."""
_BUCKET_VALUES = 1 << 24
"""Values summed over ranks at once: 64 MiB."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and the device that it works on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def from_first(self, value: Any) -> Any:
        """Return what the first rank gives; a small object that pickles."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, device=self.device if self.device.type == "cuda" else None)
        return values[0]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, the same on each."""
        if self.world_size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def each(self, values: Tensor) -> Tensor:
        """Return the tensors of one dimension of all ranks, one a row."""
        all_values = values.new_zeros(self.world_size, len(values))
        all_values[self.rank] = values
        return self.sum(all_values)

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Return the rows (B, ...) of all ranks one after the other, (W B, ...); each rank has as many.

        Gradients come back to each rank from the losses of all: their sum.
        """
        return rows if self.world_size == 1 else _GatheredRows.apply(rows, self)  # type: ignore[return-value]

    def gather(self, value: Any) -> list[Any]:
        """Return what each rank gives; small objects that pickle."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def refuse_differing(self, place: str, name: str, number: int) -> None:
        """Raise RankError, on every rank, unless all have the same number of what is named."""
        found = self.each(torch.tensor([number], device=self.device))[:, 0].tolist()
        if len(set(found)) > 1:
            raise RankError(
                f"{place}: expected one {name} on all ranks, found {', '.join(map(str, found))}; give them an output "
                "that all machines share"
            )

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all ranks, the same on each."""
        return self.sum(values) / self.world_size

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over all ranks, some at a time; what is sharded has been averaged."""
        if self.world_size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for bucket in _buckets([gradient for gradient in gradients if not isinstance(gradient, DTensor)]):
            joined = self.mean(torch.cat([gradient.flatten() for gradient in bucket]))
            parts = joined.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


class _GatheredRows(torch.autograd.Function):
    """What `Ranks.gather_rows` does, and its gradient."""

    @staticmethod
    def forward(context: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        context.ranks, context.num_rows = ranks, len(rows)
        found = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(ranks.world_size)]
        dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(context: Any, gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        whole = context.ranks.sum(gradients.contiguous())
        return whole[context.ranks.rank * context.num_rows :][: context.num_rows], None


@contextmanager
def join_ranks(device: Device) -> Iterator[Ranks]:
    """Yield this process's place among those that torchrun started, until the block ends on all of them.

    Raises ConfigError where there is no such GPU, RankError where another rank is gone and has not said why; where it
    has, this process just ends.
    """
    ranks = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")), choose_device(device))
    if ranks.world_size == 1:
        yield ranks
        return
    store, _, _ = next(dist.rendezvous("env://", ranks.rank, ranks.world_size))
    try:
        backend = "nccl" if ranks.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, None, PATIENCE, ranks.world_size, ranks.rank, store)
        yield ranks
        dist.barrier()
        dist.destroy_process_group()
    except PartiError:
        if not ranks.is_first:  # the others mostly fail alike, and torchrun stops all of them when one ends
            time.sleep(_HEAD_START_S)
        store.set(_TOLD, "")
        raise
    except RuntimeError as error:
        if not _CONNECTION.search(str(error)):
            raise
        if not ranks.is_first or store.check([_TOLD]):
            sys.exit(1)
        raise _lost(ranks, error) from None


def _lost(ranks: Ranks, error: RuntimeError) -> RankError:
    first_line = str(error).strip().splitlines()[0]
    return RankError(
        f"rank {ranks.rank} of {ranks.world_size}: expected all ranks at work, found one gone ({first_line}); see what "
        "ended it, its memory first, and start again, what is finished is kept"
    )


def choose_device(device: Device) -> torch.device:
    """Return the device to work on, of several GPUs the one with this process's number on its machine."""
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not count):
        return torch.device("cpu")
    if number >= count:
        raise ConfigError(
            f"running.device: expected a GPU for process {number} of this machine, found {count}; start fewer "
            "processes or set running.device=cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor that ranks may hold shares of."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield neighbours, in order, of together at most so many values unless one alone has more."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(held.numel() for held in bucket) + gradient.numel() > _BUCKET_VALUES:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
