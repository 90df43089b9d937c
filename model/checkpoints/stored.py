"""Tensors as a file tells of them, before a byte of their content is read: every container is first brought to this.

So what is wanted is chosen, and what it takes is known, before anything is held.
"""

from collections.abc import Callable
from io import BufferedReader
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_DIMENSIONS = 32
MAX_EXPANSION = 4
"""How many times a file's bytes its tensors may take: tensors may share bytes, but no honest file does that often."""
_MAX_NUMBER = 1 << 62


class Malformed(ValueError):  # noqa: N818, its message is made an error's by who knows the path
    """A file is not what it should be: "expected, found; remedy", without the path."""


class StoredTensor(NamedTuple):
    """A tensor that lies in a file: its storage by name, and which elements of it, as `torch.as_strided` takes them."""

    key: str
    storage_bytes: int
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements, were they laid out one after another."""
        return prod(self.shape) * self.dtype.itemsize


class Contents(NamedTuple):
    """What a file holds: a tree of mappings with `StoredTensor`s, and how a storage's bytes are read."""

    container: str
    tree: Any
    read: Callable[[str, int], Tensor]
    """From a storage's name and bytes to uint8 (bytes,), in memory of its own."""


def shown(text: object, most: int = 80) -> str:
    """Return a stranger's text as a message may show it: on one line, short, without control characters."""
    text = text if isinstance(text, str) else type(text).__name__
    return ascii(text if len(text) <= most else f"{text[: most - 3]}...")[1:-1]


def stored_tensor(
    key: str, storage_bytes: int, dtype: torch.dtype, shape: tuple, strides: tuple | None = None, offset: int = 0
) -> StoredTensor:
    """Return the tensor where all of it lies within its storage, row-major without strides; raises Malformed.

    A tensor that holds an element of its storage more than once is refused too: its copy might take any memory.
    """
    if len(shape) > MAX_DIMENSIONS or not all(_is_count(number) for number in (*shape, *(strides or ()), offset)):
        raise Malformed(
            f"expected a shape of at most {MAX_DIMENSIONS} sides, found {_shown_shape(shape)} from"
            f" {_shown_shape(offset)} by {_shown_shape(strides)}; download it again"
        )
    if strides is None:
        strides = tuple(prod(shape[place + 1 :]) for place in range(len(shape)))
    num, available = prod(shape), storage_bytes // dtype.itemsize
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=False))
    if len(strides) != len(shape) or (num > 0 and (num > available or last >= available)):
        raise Malformed(
            f"expected a tensor within its {available} elements, found {_shown_shape(shape)} from {offset}"
            f" by {_shown_shape(strides)}; download it again"
        )
    return StoredTensor(key, storage_bytes, dtype, offset, shape, strides)


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number <= _MAX_NUMBER


def _shown_shape(shape: object) -> str:
    """Return numbers as text; Python refuses to write those of thousands of digits."""
    if isinstance(shape, tuple):
        return f"({', '.join(_shown_shape(side) for side in shape[:8])}{', ...' if len(shape) > 8 else ''})"
    return str(shape) if type(shape) is int and abs(shape) <= _MAX_NUMBER else type(shape).__name__


def read_tensors(stored: dict[str, StoredTensor], contents: Contents, file_bytes: int) -> dict[str, Tensor]:
    """Return the tensors by name, those of one storage sharing its memory; raises Malformed."""
    _refuse_expansion(stored, file_bytes)
    storages: dict[str, Tensor] = {}
    for tensor in stored.values():
        if tensor.key not in storages:
            storages[tensor.key] = contents.read(tensor.key, tensor.storage_bytes)
    return {name: _tensor_of(tensor, storages[tensor.key]) for name, tensor in stored.items()}


def bytes_of(content: Tensor) -> memoryview:
    """Return a uint8 tensor's memory, for files to be read into."""
    return memoryview(content.numpy())  # pyright: ignore[reportArgumentType], before 3.12 buffers have no type


def read_range(file: BufferedReader, start: int, num_bytes: int) -> Tensor:
    """Return bytes of a file as uint8 (bytes,); raises Malformed where it ends before."""
    content = torch.empty(num_bytes, dtype=torch.uint8)
    file.seek(start)
    if file.readinto(bytes_of(content)) != num_bytes:
        raise Malformed("expected all of a tensor's bytes, found the end of the file; download it again")
    return content


def _refuse_expansion(stored: dict[str, StoredTensor], file_bytes: int) -> None:
    storages = sum({tensor.key: tensor.storage_bytes for tensor in stored.values()}.values())
    tensors = sum(tensor.num_bytes for tensor in stored.values())
    if storages > file_bytes or tensors > MAX_EXPANSION * file_bytes:
        raise Malformed(
            f"expected tensors of at most {file_bytes} bytes, as many as the file has, found {storages} bytes shown as"
            f" {tensors}; download it again"
        )


def _tensor_of(tensor: StoredTensor, storage: Tensor) -> Tensor:
    if not prod(tensor.shape):
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    whole = storage[: storage.numel() // tensor.dtype.itemsize * tensor.dtype.itemsize].view(tensor.dtype)
    return whole.as_strided(tensor.shape, tensor.strides, tensor.offset)
