"""What is given of images before they are drawn: the first rows of tokens of pictures, decoded within limits.

Source: DALL-E, arXiv 2102.12092v2, section 3.3 and figure 2d, where 15 of 32 rows are given and the caption tells what
the rest shall be.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from model.tokenizers import ImageTokenizer
from parti_data.config import StrictModel
from parti_data.errors import ConfigError
from parti_data.image_dataset import load_pixels
from parti_data.images import Drop, ImageLimits, decode, image_key
from parti_data.ledger import LedgerRow, PairDirectory
from parti_data.recipes import apply_recipe
from parti_data.storage import read_range

T = TypeVar("T")


class Completion(StrictModel):
    """Which rows of which pictures are kept; the rest is drawn."""

    pictures: list[str] = Field(default_factory=list)
    """Files: as many as prompts, or one of either for all of the other."""
    source: str = ""
    """In place of files a directory that filter or shard finished, whose first pictures are taken."""
    num_pictures: PositiveInt = 64
    """Of the source, at most."""
    rows: NonNegativeInt
    """So many of the token grid, from the top."""
    limits: ImageLimits = Field(default_factory=ImageLimits)
    """What a picture of a file may be and cost, before it is decoded."""

    @model_validator(mode="after")
    def _refuse_both(self) -> Self:
        if bool(self.pictures) == bool(self.source):
            raise ValueError("pictures are told by either completion.pictures or completion.source")
        return self


class Given(NamedTuple):
    """What is known of each prompt's image."""

    rows: int
    keys: list[str]
    """The content key of each prompt's picture."""
    tokens: torch.Tensor
    """Int64 (P, N), those of the rows of each prompt's picture."""


class _Square(NamedTuple):
    """A picture as a tokenizer takes it, uint8 (S, S, 3), and its content key."""

    key: str
    pixels: np.ndarray


class Pictures(NamedTuple):
    """The pictures that are completed: files, or those of a finished directory by their keys."""

    names: list[str]
    rows: dict[str, LedgerRow]
    """By their keys; empty where they are files."""


def list_pictures(completion: Completion) -> Pictures:
    """Return what the config names; raises ConfigError where that is nothing."""
    if not completion.source:
        return Pictures(completion.pictures, {})
    rows = {row.key: row for row in PairDirectory(completion.source).kept(0, completion.num_pictures)}
    if not rows:
        raise ConfigError(f"completion.source: expected kept pairs, found none in {completion.source}; name another")
    return Pictures(list(rows), rows)


def pair_up(prompts: list[T], pictures: list[str]) -> tuple[list[T], list[str]]:
    """Return as many prompts as pictures, one of either repeated for all of the other; raises ConfigError."""
    count = max(len(prompts), len(pictures))
    if {len(prompts), len(pictures)} - {1, count}:
        raise ConfigError(
            f"completion.pictures: expected one, or one for each of the {len(prompts)} prompts, found {len(pictures)}; "
            "give as many, or one prompt"
        )
    return prompts * (count // len(prompts)), pictures * (count // len(pictures))


def read_given(completion: Completion, pictures: Pictures, tokenizer: ImageTokenizer, grid_side: int) -> Given:
    """Return what is given of each picture, made a square by the tokenizer's recipe; raises ConfigError."""
    if completion.rows >= grid_side:
        raise ConfigError(
            f"completion.rows: expected fewer than the {grid_side} rows of an image, found {completion.rows}; lower it"
        )
    distinct = list(dict.fromkeys(pictures.names))
    side = grid_side * tokenizer.spec.patch_side
    squares = (
        _Square(key, apply_recipe(tokenizer.spec.resize_recipe, pixels, side).pixels)
        for key, pixels in _read_pictures(completion, pictures, distinct)
    )
    num_tokens = completion.rows * grid_side
    keys: list[str] = []
    tokens: list[torch.Tensor] = []
    for batch in _batches(squares, tokenizer.batch_size):
        keys += [square.key for square in batch]
        tokens.append(tokenizer.encode(np.stack([square.pixels for square in batch]))[:, :num_tokens])
    numbers = {path: number for number, path in enumerate(distinct)}
    chosen = [numbers[path] for path in pictures.names]
    return Given(completion.rows, [keys[number] for number in chosen], torch.cat(tokens)[chosen])


def _read_pictures(completion: Completion, pictures: Pictures, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the content key and the whole picture of each name."""
    if not pictures.rows:
        yield from (_read_file(path, completion.limits) for path in names)
        return
    rows = [pictures.rows[key] for key in names]
    yield from zip(names, load_pixels(PairDirectory(completion.source), rows), strict=True)


def _read_file(path: str, limits: ImageLimits) -> tuple[str, np.ndarray]:
    try:
        content = read_range(path, 0, limits.max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"completion.pictures: expected a picture, found {error}; check the path") from None
    pixels = decode(content, limits)
    if isinstance(pixels, Drop):
        raise ConfigError(
            f"{path}: expected a picture within completion.limits, found {pixels.reason} ({pixels.detail}); give "
            "another"
        )
    return image_key(content), pixels


def _batches(squares: Iterator[_Square], size: int) -> Iterator[list[_Square]]:
    while batch := list(islice(squares, size)):
        yield batch
