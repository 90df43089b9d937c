"""Files of weights: safetensors, with what belongs to the weights as JSON in the header, so that neither is lost."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.checkpoints import shown
from parti_data.errors import CheckpointError, ConfigError
from parti_data.storage import canonical_json, is_file, on_disk, publish_bytes, read_range

_KEY = "parti"
"""One key only: safetensors writes several in no fixed order, and the file would not be the same bytes twice."""

_LARGEST_HEADER_BYTES = 8 << 20
_NOT_OURS = (SafetensorError, ArithmeticError, RuntimeError, TypeError, ValueError, KeyError, ConfigError)
_MOST_SHOWN = 200

M = TypeVar("M", bound=nn.Module)


def write_weights(path: str, module: nn.Module, header: dict[str, Any]) -> None:
    """Write a module's weights and a header of JSON values, whole or not at all."""
    weights = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    publish_bytes(path, safetensors.torch.save(weights, {_KEY: canonical_json(header)}))


def read_weights(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors of such a file; raises SafetensorError or ValueError."""
    with on_disk(path) as place, safe_open(place, "pt") as file:
        header = _parse((file.metadata() or {}).get(_KEY, "{}"))
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def own_file(path: str, what: str, command: str) -> Iterator[None]:
    """Read in the block what a file of ours holds; raises CheckpointError where there is none, or it is not ours."""
    if not is_file(path):
        raise CheckpointError(f"{path}: expected {what}'s file, found none; make one with {command}")
    try:
        yield
    except _NOT_OURS as error:
        first_line = shown((str(error).strip() or type(error).__name__).partition("\n")[0], _MOST_SHOWN)
        raise CheckpointError(f"{path}: expected {what} of ours, found {first_line}; check the file") from None


def make_module(make: Callable[[], M], weights: dict[str, Tensor]) -> M:
    """Return a module as a header tells of it, with the weights of its file.

    Raises ValueError where they do not fit, before they take memory, or RuntimeError where there are too many.
    """
    with torch.device("meta"):
        expected = make().state_dict()
    for name, tensor in expected.items():
        if name not in weights or weights[name].shape != tensor.shape:
            found = tuple(weights[name].shape) if name in weights else "none"
            raise ValueError(f"{name} of shape {found} where its header tells of {tuple(tensor.shape)}")
    module = make()
    module.load_state_dict(weights)
    return module


def has_header(path: str) -> bool:
    """Whether a file is safetensors with a header as `write_weights` writes it."""
    length = int.from_bytes(read_range(path, 0, 8), "little")
    if length > _LARGEST_HEADER_BYTES:
        return False
    try:
        metadata = _parse(read_range(path, 8, length)).get("__metadata__")
    except ValueError:
        return False
    return isinstance(metadata, dict) and _KEY in metadata


def _parse(text: str | bytes) -> dict[str, Any]:
    """Return a mapping of JSON; raises ValueError."""
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("values too deep inside each other") from None
    if not isinstance(values, dict):
        raise ValueError(f"a {type(values).__name__} in place of a mapping")
    return values
