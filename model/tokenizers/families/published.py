"""A published checkpoint as a family reads it: tensors and config in, a network with these tensors out.

A network is built without memory first, so that a config that does not fit is refused before anything is allocated, by
the first tensor that differs.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from model.checkpoints import shown
from model.tokenizers.choices import MOST_SIDE_PX, Choices
from model.tokenizers.network import TokenizerNetwork
from parti_data.errors import TokenizerError


class ModelConfig(NamedTuple):
    """A project's own config file."""

    path: str
    values: dict[str, Any]


class Published(NamedTuple):
    """What a family builds its network from."""

    path: str
    tensors: dict[str, Tensor]
    """By the names in the file, less a prefix that all of them have."""
    config: ModelConfig | None
    choices: Choices
    prefix: str = ""
    """What the names began with in the file."""

    @property
    def named(self) -> str:
        """The file, and the config that it is read by, as a message names them."""
        return f"{self.path}, read by {self.config.path}" if self.config else self.path


class Family(NamedTuple):
    """A kind of published tokenizer."""

    name: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    """Whether tensors are those of the family."""
    describes: Callable[[dict[str, Any]], bool]
    """Whether a config has the family's layout."""
    build: Callable[[Published], TokenizerNetwork]
    """Raises TokenizerError."""


MOST_LAYERS, MOST_BLOCKS, MOST_LEVELS = 256, 64, 12
"""Of a network: each is built before it is held against the file, and what a file costs must not be its own choice."""
Layers = Annotated[int, Field(gt=0, le=MOST_LAYERS)]
Blocks = Annotated[int, Field(gt=0, le=MOST_BLOCKS)]
Size = Annotated[int, Field(gt=0, le=1 << 30)]
"""Of anything that takes no memory before it is held against the file."""
Multiples = Annotated[tuple[Size, ...], Field(min_length=1, max_length=MOST_LEVELS)]
"""Of the first width, for each level."""
Side = Annotated[int, Field(gt=0, le=MOST_SIDE_PX)]


class ForeignConfig(BaseModel):
    """A part of a project's config: what else stands there is its own affair."""

    model_config = ConfigDict(extra="ignore", frozen=True)


_Part = TypeVar("_Part", bound=ForeignConfig)
_Network = TypeVar("_Network", bound=nn.Module)


def read_part(kind: type[_Part], values: Any, path: str) -> _Part:
    """Return a part of a config; raises TokenizerError with the first field that is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"]) or "the file"
        raise TokenizerError(
            f"{path}: expected {place} to be readable, found {first['msg']}; use the config published with the weights"
        ) from None


def fit(
    make: Callable[[], _Network],
    tensors: Mapping[str, Tensor],
    path: str,
    in_file: Callable[[str], str] = lambda name: name,
) -> _Network:
    """Return the network with these tensors, in float32; raises TokenizerError at the first that differs.

    `in_file` says how the file calls a tensor.
    """
    try:
        with torch.device("meta"):
            network = make()
    except (ValueError, TypeError, IndexError, RuntimeError, ArithmeticError) as error:
        found = shown(str(error).partition("\n")[0])
        raise TokenizerError(f"{path}: expected an architecture that can be, found {found}") from None
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name, shape in expected.items():
        found = tuple(tensor_named(tensors, name, path, shape, in_file).shape)
        if found != shape:
            raise TokenizerError(
                f"{path}: expected {in_file(name)} of shape {shape}, found {found}; use the config that belongs to "
                "the weights"
            )
        if not tensors[name].is_floating_point():
            raise TokenizerError(
                f"{path}: expected {in_file(name)} of floats, found {tensors[name].dtype}; take the weights as "
                "they were published"
            )
        if not bool(tensors[name].float().isfinite().all()):
            raise TokenizerError(f"{path}: expected {in_file(name)} of finite numbers, found others; download it again")
    for name, tensor in tensors.items():
        if name not in expected:
            raise TokenizerError(
                f"{path}: expected no tensor {shown(in_file(name))}, found one of shape {tuple(tensor.shape)}; use the "
                "config that belongs to the weights"
            )
    network.load_state_dict({name: tensor.float().contiguous() for name, tensor in tensors.items()}, assign=True)
    return network


def tensor_named(
    tensors: Mapping[str, Tensor],
    name: str,
    path: str,
    shape: tuple[int, ...] | None = None,
    in_file: Callable[[str], str] = lambda name: name,
) -> Tensor:
    """Return one of the tensors; raises TokenizerError where it is not there."""
    if name not in tensors:
        wanted = f" of shape {shape}" if shape else ""
        raise TokenizerError(
            f"{path}: expected a tensor {in_file(name)}{wanted}, found none; use the kind and the config that "
            "belong to the weights"
        )
    return tensors[name]


def sides_of(tensors: Mapping[str, Tensor], name: str, path: str, num: int) -> tuple[int, ...]:
    """Return the shape of one of the tensors; raises TokenizerError where it has not so many sides, or an empty one."""
    shape = tuple(tensor_named(tensors, name, path).shape)
    if len(shape) != num or not all(shape):
        raise TokenizerError(
            f"{path}: expected a tensor {name} with {num} sides, found {shape}; use the kind that belongs to them"
        )
    return shape


def only(tensors: Mapping[str, Tensor], beginnings: Iterable[str]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so: losses, discriminators and the like have no say."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(tuple(beginnings))}


def count(tensors: Mapping[str, Tensor], name: str, start: int = 0) -> int:
    """Return how many tensors there are named with 0, 1, 2, …, or from `start`, for the `{}` in the name."""
    number = start
    while name.format(number) in tensors:
        number += 1
    return number - start


def refuse_many(path: str, what: str, number: int, most: int) -> None:
    """Raise TokenizerError where names tell of more than is worth building."""
    if number > most:
        raise TokenizerError(f"{path}: expected at most {most} {what}, found {number}; give a tokenizer's weights")


def refuse_choices(published: Published, *known: str) -> None:
    """Raise TokenizerError for a choice that the family does not leave."""
    given = published.choices.model_dump(exclude_defaults=True, include=set(Choices.model_fields))
    for name in given:
        if name not in (*known, "weights", "prefix", "resize_recipe"):
            raise TokenizerError(
                f"{published.path}: expected no {name}, found {given[name]}; its kind leaves no choice"
            )


def refuse_remainder_of_side(path: str, side: int, patch_side: int) -> None:
    """Raise TokenizerError unless patches cover an image."""
    if side % patch_side:
        raise TokenizerError(f"{path}: expected image_side a multiple of {patch_side}, found {side}")
