"""Where a training run stands: networks, optimizers, what else the job keeps, and the metrics so far.

Each checkpoint is a folder, `checkpoints/step-00000500`, which any number of ranks wrote and any other may read. It is
written while the run goes on, from a copy; until its index is there it is none, and a run goes on from the newest that
has one.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner

from model.training.checkpoint_files import (
    INDEX,
    CheckpointReader,
    CheckpointWriter,
    Index,
    StoredTensor,
    read_index,
)  # fmt: skip
from model.training.ranks import PATIENCE, Ranks
from parti_data.errors import CheckpointError
from parti_data.storage import is_file, join, list_entries, publish_bytes, remove

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
_STEP = re.compile(r"step-(\d{8})")
_ALONE = "torch.distributed is disabled"
"""How torch warns of saving or loading without other ranks."""


@dataclass
class Progress:
    """How many steps are done, and the lines of the metrics so far."""

    step: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    """Those since the last line, the newest of each; the next line tells them."""


class Checkpoints:
    """The checkpoints of a run in its directory, while the block lasts; it ends when what is being written is."""

    def __init__(self, directory: str, ranks: Ranks, kept: int):
        self._directory, self._ranks, self._kept = directory, ranks, kept
        self._writing: Future[Any] | None = None
        self._group: Any = None
        self._warnings = warnings.catch_warnings()

    def resume(self, stateful: Mapping[str, Any]) -> Progress:
        """Load the newest checkpoint, if any, into each part; return how far it had come."""
        if self._ranks.is_first:
            self._remove(self._folders(is_finished=False))
        self._ranks.from_first(None)  # nobody lists what is being removed
        finished = self._folders(is_finished=True)
        step = max(finished, default=0)
        self._ranks.refuse_differing(self._directory, "checkpoint", step)
        if not step:
            return Progress()
        try:
            return self._load(stateful, finished[step])
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError, OSError, SafetensorError) as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{finished[step]}: expected this run's checkpoint, found {first_line}; remove it to go on from the "
                "one before, or to start anew"
            ) from None

    def _load(self, stateful: Mapping[str, Any], folder: str) -> Progress:
        index = read_index(folder)
        for name, part in stateful.items():
            if isinstance(part, torch.optim.Optimizer):
                _make_room(part, f"{name}.", index.tensors)
        trees = {name: _tree(part) for name, part in stateful.items()}
        tensors = dict(_tensors(trees))
        for name in sorted(tensors.keys() | index.tensors.keys()):
            if name not in tensors or name not in index.tensors or not index.tensors[name].is_like(tensors[name]):
                raise ValueError(f"another {name}")
        reader, planner = CheckpointReader(folder, index), DefaultLoadPlanner(flatten_state_dict=False)
        _unwrapped(lambda: dcp.load(tensors, storage_reader=reader, planner=planner, process_group=self._joined()))
        for name, part in stateful.items():
            if not isinstance(part, torch.optim.Optimizer | nn.Module):  # which hold what was just filled
                part.load_state_dict(_filled(trees[name], index.plain[name]))
        return Progress(index.step, index.metrics, index.figures)

    def save(self, stateful: Mapping[str, Any], progress: Progress) -> None:
        """Begin to write the state of each part, and the metrics; what was being written before is finished first."""
        self.wait()
        trees = {name: _tree(part) for name, part in stateful.items()}
        lines = "".join(json.dumps(line) + "\n" for line in progress.metrics)
        if self._ranks.is_first:  # before the checkpoint: what it says is done is on disk
            publish_bytes(join(self._directory, METRICS), lines.encode())
            self._remove(self._surplus())
        plain = {name: _plain(tree) for name, tree in trees.items()}
        index = Index(step=progress.step, metrics=list(progress.metrics), figures=progress.figures, plain=plain)
        writer = CheckpointWriter(join(self._place, f"step-{progress.step:08d}"), index)
        planner = DefaultSavePlanner(flatten_state_dict=False)
        tensors = dict(_tensors(trees))
        self._writing = dcp.async_save(  # type: ignore[assignment]
            tensors, storage_writer=writer, planner=planner, process_group=self._joined()
        )

    def wait(self) -> None:
        """Wait for what is being written; raises what went wrong."""
        if self._writing:
            writing, self._writing = self._writing, None
            _unwrapped(writing.result)

    def _joined(self) -> Any:
        """Return a group of all ranks for checkpoints alone, whose messages pass beside those of the steps."""
        if self._ranks.world_size > 1 and self._group is None:
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return self._group

    @property
    def _place(self) -> str:
        return join(self._directory, CHECKPOINTS)

    def _folders(self, is_finished: bool) -> dict[int, str]:
        """Return the checkpoints that are whole, or those that are not, by their steps in order."""
        found = {int(match[1]): join(self._place, match[0]) for match in map(_STEP.fullmatch, self._names()) if match}
        return {step: found[step] for step in sorted(found) if is_file(join(found[step], INDEX)) == is_finished}

    def _names(self) -> list[str]:
        return [entry.name for entry in list_entries(self._place) if entry.is_directory]

    def _surplus(self) -> dict[int, str]:
        """Return the oldest of those that are whole, but for as many as are kept."""
        return dict(list(self._folders(is_finished=True).items())[: -self._kept])

    def _remove(self, folders: Mapping[int, str]) -> None:
        for folder in folders.values():
            remove(join(folder, INDEX))  # first: without it what is left is no checkpoint
            remove(folder)

    def __enter__(self) -> Self:
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", _ALONE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.wait()
                if self._ranks.is_first:
                    self._remove(self._surplus())
            elif self._writing:
                self._writing.exception()  # it ends; the error that is on its way is the one to tell
        finally:
            self._warnings.__exit__(kind, error, trace)


def _unwrapped(act: Any) -> None:
    """Do what torch wraps the errors of; raises the first rank's own."""
    try:
        act()
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None


def _tree(part: Any) -> dict[str, Any]:
    """Return a part's state; of an optimizer what is not told by the config, by the number of each parameter."""
    if not isinstance(part, torch.optim.Optimizer):
        return part.state_dict()
    return {str(number): part.state[parameter] for number, parameter in _numbered(part) if parameter in part.state}


def _numbered(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, Tensor]]:
    yield from enumerate(parameter for group in optimizer.param_groups for parameter in group["params"])


def _make_room(optimizer: torch.optim.Optimizer, prefix: str, stored: Mapping[str, StoredTensor]) -> None:
    """Give a new optimizer the state that it had, not yet filled: of a parameter's shape and place, or whole."""
    for number, parameter in _numbered(optimizer):
        start = f"{prefix}{number}."
        for name in [name for name in stored if name.startswith(start)]:
            size, dtype = stored[name].size, stored[name].torch_dtype()
            if size == list(parameter.shape):
                room = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
            elif len(size) < 2 and all(side in parameter.shape for side in size):
                room = torch.zeros(size, dtype=dtype, device=parameter.device)
            else:
                raise ValueError(f"another {name}")
            optimizer.state[parameter][name.removeprefix(start)] = room


def _tensors(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a tree by their paths in it."""
    for name, value in tree.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")


def _plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree without its tensors."""
    return {
        name: _plain(value) if isinstance(value, Mapping) else value
        for name, value in tree.items()
        if not isinstance(value, Tensor)
    }


def _filled(tree: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values with the tensors of a tree like the one that they came from."""
    branches = {
        name: _filled(value, plain.get(name, {})) if isinstance(value, Mapping) else value
        for name, value in tree.items()
        if isinstance(value, Tensor | Mapping)
    }
    return {**plain, **branches}
