"""One face for every checkpoint: a path enters, tensors by dotted names leave, and nobody's code is run.

The container is found from the file's first bytes, never from its name:

torch zip     torch_zip.py: torch.save since 1.6, Lightning's files and pickled modules among them
torch legacy  torch_legacy.py: torch.save before
safetensors   safetensors_file.py
msgpack       flax_msgpack.py
npy           npy_file.py

Each tells first what it holds (stored.py); then the weights are chosen (weights_choice.py), and only they are read.
"""

import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from model.checkpoints import flax_msgpack, npy_file, safetensors_file, torch_legacy, torch_zip
from model.checkpoints.stored import Contents, Malformed, StoredTensor, read_tensors, shown
from model.checkpoints.weights_choice import choose_weights
from parti_data.errors import CheckpointError
from parti_data.storage import on_disk, regular_file_size

MAX_BYTES = 16 << 30
"""Of a file, unless told: more than any tokenizer has."""
_BROKEN = (ValueError, OSError, EOFError, NotImplementedError, struct.error, zipfile.BadZipFile, SafetensorError)
"""What the libraries raise for a file that is broken."""
_HEAD_BYTES = 512
_FOREIGN = (
    (b"<", "a web page"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
    (b"\x1f\x8b", "a gzip archive"),
)


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    """By dotted names, in the order and the dtypes of the file, on the CPU; those of one storage share its memory."""
    container: str
    """"torch zip", "torch legacy", "safetensors", "msgpack" or "npy", whose one tensor is called "array"."""


def open_checkpoint(path: str, weights: str = "", *, prefix: str = "", max_bytes: int = MAX_BYTES) -> Checkpoint:
    """Return a checkpoint's tensors; raises CheckpointError.

    `weights` chooses among several sets: a name at the file's top, or "ema" for averages under `model_ema.`; without,
    ema, model, state_dict in this order, else all. With `prefix` only tensors that begin with it are read, without it.
    """
    with _opened(path, weights, prefix, max_bytes) as (chosen, contents, size):
        return Checkpoint(read_tensors(chosen, contents, size), contents.container)


def stored_names(path: str, weights: str = "", *, max_bytes: int = MAX_BYTES) -> list[str]:
    """Return the names that `open_checkpoint` gives tensors, of which it reads none; raises CheckpointError."""
    with _opened(path, weights, "", max_bytes) as (chosen, _, _):
        return list(chosen)


@contextmanager
def _opened(
    path: str, weights: str, prefix: str, max_bytes: int
) -> Iterator[tuple[dict[str, StoredTensor], Contents, int]]:
    """Yield what is chosen of a checkpoint, all that it holds, and the file's size."""
    _refuse_size(path, max_bytes)
    try:
        with on_disk(path) as place, open(place, "rb") as file:
            contents = _contents(file, place)
            yield choose_weights(contents.tree, weights, prefix), contents, os.fstat(file.fileno()).st_size
    except Malformed as error:
        raise CheckpointError(f"{path}: {error}") from None
    except _BROKEN as error:
        found = shown(str(error)) or type(error).__name__
        raise CheckpointError(f"{path}: expected a whole checkpoint, found {found}; download it again") from None


def _refuse_size(path: str, max_bytes: int) -> None:
    try:
        size = regular_file_size(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected a checkpoint, found no file; check the path") from None
    if size is None:
        raise CheckpointError(f"{path}: expected a checkpoint, found a directory or a device; name the file in it")
    if size > max_bytes:
        raise CheckpointError(
            f"{path}: expected a checkpoint of at most {max_bytes} bytes, found {size}; raise max_bytes if it is right"
        )


def _contents(file: BufferedReader, place: str) -> Contents:
    head = file.read(_HEAD_BYTES)
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return safetensors_file.read_safetensors(place)
    if head.startswith(b"PK\3\4"):
        return torch_zip.read_torch_zip(file)
    if head.startswith(b"\x93NUMPY"):
        return npy_file.read_npy(file)
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return torch_legacy.read_torch_legacy(file)
    if head[:1] and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return flax_msgpack.read_flax(file)
    raise Malformed(
        f"expected a torch, safetensors, msgpack or npy file, found {_foreign(head)}; download the file of weights"
    )


def _foreign(head: bytes) -> str:
    if head[257:262] == b"ustar":
        return "a tar archive"
    named = next((name for start, name in _FOREIGN if head.lstrip().startswith(start)), "")
    return named or (f"a file that begins with {shown(head[:8].hex(' '))}" if head else "an empty file")
