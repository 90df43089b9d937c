"""A checkpoint as torch.distributed.checkpoint writes and reads it, in files of ours that cannot run code.

torch's own files hold pickles: their metadata, and every value that is no tensor. Here a rank's tensors are one
safetensors file, written whole or not at all, and what lies where is JSON, written last: where it is, all is there.
What a hostile one claims is checked against the run's own tensors before any is read.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, field_validator
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import LoadPlan, LoadPlanner, SavePlan, SavePlanner, StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from parti_data.storage import file_size, join, on_disk, publish_bytes, read_bytes

INDEX = "index.json"
_LARGEST_INDEX_BYTES = 1 << 30
_FILE = re.compile(r"rank-\d{5}\.safetensors")
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool,
)}  # fmt: skip


class _Chunk(BaseModel):
    """A part of a tensor, and the file that it is in."""

    model_config = ConfigDict(extra="forbid", strict=True)
    file: str
    offsets: list[NonNegativeInt]
    sizes: list[NonNegativeInt]

    @field_validator("file")
    @classmethod
    def _refuse_others(cls, name: str) -> str:
        if not _FILE.fullmatch(name):
            raise ValueError(f"a file {name[:80]!r}, which no rank writes")
        return name


class StoredTensor(BaseModel):
    """What a checkpoint says of a tensor."""

    model_config = ConfigDict(extra="forbid", strict=True)
    dtype: str
    size: list[NonNegativeInt]
    chunks: list[_Chunk]

    def torch_dtype(self) -> torch.dtype:
        """Return its type; raises ValueError where it is none that a run has."""
        if self.dtype not in _DTYPES:
            raise ValueError(f"a tensor of {self.dtype[:80]!r}")
        return _DTYPES[self.dtype]

    def is_like(self, tensor: Tensor) -> bool:
        """Whether it would fill a tensor: the same size and type, each value once as far as their numbers tell."""
        stored = sum(math.prod(chunk.sizes) for chunk in self.chunks)
        return (
            self.size == list(tensor.shape)
            and _DTYPES.get(self.dtype) == tensor.dtype
            and stored == tensor.numel()
            and all(len(chunk.offsets) == len(chunk.sizes) == tensor.dim() for chunk in self.chunks)
        )


class Index(BaseModel):
    """What a checkpoint holds: tensors by name, and what is none as plain values."""

    model_config = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="constants")
    step: NonNegativeInt
    metrics: list[dict[str, Any]]
    figures: dict[str, float]
    plain: dict[str, Any]
    tensors: dict[str, StoredTensor] = Field(default_factory=dict)


def read_index(folder: str) -> Index:
    """Return what a checkpoint says of itself; raises ValueError."""
    path = join(folder, INDEX)
    if (size := file_size(path)) > _LARGEST_INDEX_BYTES:
        raise ValueError(f"an index of {size} bytes")
    return Index.model_validate_json(read_bytes(path))


class CheckpointWriter(StorageWriter, BlockingAsyncStager):
    """Writes this rank's tensors, and on the first rank, once all have, the index. A copy is made first, in memory."""

    def __init__(self, folder: str, index: Index):
        BlockingAsyncStager.__init__(self)
        self._folder, self._index = folder, index

    def reset(self, checkpoint_id: Any = None) -> None:
        """Do nothing: a writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        """Do nothing: `finish` is called on the coordinator alone."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Return the plans, each with the name of its rank's file."""
        return [replace(plan, storage_data=f"rank-{rank:05d}.safetensors") for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the rank's tensors, each a contiguous copy or already one."""
        tensors = {item.index.fqn: planner.resolve_data(item) for item in plan.items}
        assert len(tensors) == len(plan.items), "several parts of a tensor on one rank"
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})  # type: ignore[union-attr]
        publish_bytes(join(self._folder, plan.storage_data), content)
        done: Future[list[WriteResult]] = Future()
        done.set_result([WriteResult(item.index, 0, plan.storage_data) for item in plan.items])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index."""
        files = {(result.index.fqn, result.index.offset): result.storage_data for part in results for result in part}
        tensors = {name: _stored(name, found, files) for name, found in metadata.state_dict_metadata.items()}
        index = self._index.model_copy(update={"tensors": tensors})
        publish_bytes(join(self._folder, INDEX), index.model_dump_json().encode())

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Return whether this can write there: anywhere."""
        return True


def _stored(name: str, found: Any, files: Mapping[tuple[str, Any], str]) -> StoredTensor:
    chunks = [
        _Chunk(file=files[name, chunk.offsets], offsets=list(chunk.offsets), sizes=list(chunk.sizes))
        for chunk in found.chunks
    ]
    return StoredTensor(dtype=str(found.properties.dtype).removeprefix("torch."), size=list(found.size), chunks=chunks)


class CheckpointReader(StorageReader):
    """Reads of a checkpoint what this rank needs, whichever ranks wrote it."""

    def __init__(self, folder: str, index: Index):
        self._folder, self._index = folder, index

    def reset(self, checkpoint_id: Any = None) -> None:
        """Do nothing: a reader reads one checkpoint."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Return what the index says, as torch has it."""
        return Metadata({name: _metadata(stored) for name, stored in self._index.tensors.items()})

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *_: Any, **__: Any) -> None:
        """Do nothing: the index tells all."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill the rank's tensors, from one file after the other."""
        by_file: dict[str, list[Any]] = {}
        for item in plan.items:
            by_file.setdefault(self._file(item.storage_index), []).append(item)
        for name, items in by_file.items():
            with on_disk(join(self._folder, name)) as place, safe_open(place, "pt") as file:
                for item in items:
                    _fill(planner, item, file.get_tensor(item.storage_index.fqn))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _file(self, index: MetadataIndex) -> str:
        offsets = list(index.offset or ())
        return next(chunk.file for chunk in self._index.tensors[index.fqn].chunks if chunk.offsets == offsets)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Return whether this can read there: anywhere."""
        return True


def _metadata(stored: StoredTensor) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes)) for chunk in stored.chunks]
    return TensorStorageMetadata(TensorProperties(_DTYPES[stored.dtype]), torch.Size(stored.size), chunks)


def _fill(planner: LoadPlanner, item: Any, stored: Tensor) -> None:
    """Copy what is needed of a stored part to where it belongs; raises RuntimeError where it is not as told."""
    needed = tuple(slice(first, first + size) for first, size in zip(item.storage_offsets, item.lengths, strict=True))
    target = planner.resolve_tensor(item).detach()
    if stored[needed].shape != target.shape or stored.dtype != target.dtype:
        raise RuntimeError(f"{item.storage_index.fqn} of {tuple(stored.shape)}, other than the index says")
    target.copy_(stored[needed])
    planner.commit_tensor(item, target)
