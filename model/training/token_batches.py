"""Token batches as torch takes them: under its DataLoader and torchdata's StatefulDataLoader, or on a device.

A `TokenDataset` alone is also a map from steps to batches: `DataLoader(dataset, batch_size=None, sampler=range(…))`.
"""

from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from model.priors.prior import Prior
from parti_data.coming_batches import ComingBatches
from parti_data.row_texts import Texts
from parti_data.token_dataset import TokenBatch, TokenDataset

B = TypeVar("B", bound=tuple[Any, ...])
"""A NamedTuple of tensors and of what is none."""
_NARROW = (torch.uint16, torch.uint32)


class TokenBatches(IterableDataset):
    """The batches of a `TokenDataset` in order, for a DataLoader with `batch_size=None`; n workers take turns.

    Its threads decode without worker processes; take some only where what follows is heavy. `state_dict` and
    `load_state_dict` are what StatefulDataLoader asks each worker for. Without it, keep
    `dataset.state_dict() | {"step": batch.step + 1}` of the last batch, with which a dataset goes on under any number
    of workers: they leave the dataset of this process where it was.
    """

    def __init__(self, dataset: TokenDataset):
        self.dataset = dataset
        self._has_turn = False
        """Whether the dataset's step is already one of this worker's."""

    def __iter__(self) -> Iterator[TokenBatch]:
        """Yield this worker's batches from the dataset's step on."""
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if not self._has_turn:
            self.dataset.step += first
            self._has_turn = worker is not None
        num_steps = self.dataset.num_steps
        while num_steps is None or self.dataset.step < num_steps:
            batch = self.dataset.batch(self.dataset.step)
            self.dataset.step += stride
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return where this worker stands."""
        return {"dataset": self.dataset.state_dict(), "has_turn": self._has_turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where this worker stood; raises ShardError where the state is of other data, batch size or seed."""
        self.dataset.load_state_dict(state["dataset"])
        self._has_turn = state["has_turn"]


class TensorBatch(NamedTuple):
    """What a prior learns from, on its device."""

    keys: Texts
    condition: Tensor
    """int64 (B, T)."""
    image_tokens: Tensor
    """int64 (B, I)."""


def as_tensors(batch: TokenBatch, prior: Prior) -> TensorBatch:
    """Return a batch in the machine's memory, its ids as narrow as they lie in the shards."""
    condition = prior.condition(batch.captions, torch.from_numpy(batch.text_ids))
    return TensorBatch(batch.keys, condition, torch.from_numpy(batch.image_tokens))


def on_device(batch: B, device: torch.device) -> B:
    """Return a batch on a device, to which its ids cross in two bytes or four; they are widened there."""
    return _each(batch, lambda tensor: _widened(tensor.to(device, non_blocking=True)))


def _widened(tensor: Tensor) -> Tensor:
    return tensor.long() if tensor.dtype in _NARROW else tensor


def _each(batch: B, change: Callable[[Tensor], Tensor]) -> B:
    """Return a batch whose tensors are changed."""
    return type(batch)(*(change(part) if isinstance(part, Tensor) else part for part in batch))


class StepBatches(Generic[B]):
    """The batch of any step on a device; for a GPU a thread makes the next one meanwhile, in pinned memory.

    `load` gives this rank's slice of a step in the machine's memory, as tensors: `as_tensors` makes such of a
    `TokenBatch`. The newest is kept.
    """

    def __init__(self, load: Callable[[int], B], device: torch.device):
        self._load, self._device = load, device
        self._coming = ComingBatches(self._pinned, 1) if device.type == "cuda" else None
        self._newest: tuple[int, B] | None = None

    def get(self, step: int) -> B:
        """Return this rank's slice of global batch number `step`."""
        if self._newest is None or self._newest[0] != step:
            batch = self._coming.get(step) if self._coming else self._load(step)
            self._newest = step, on_device(batch, self._device)
        return self._newest[1]

    def _pinned(self, step: int) -> B:
        return _each(self._load(step), Tensor.pin_memory)
