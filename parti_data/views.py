"""Which views of each picture are tokenized: the tokenizer's own square, ten crops, or random ones."""

from collections.abc import Generator, Iterable
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, NonNegativeInt, SerializerFunctionWrapHandler, model_serializer, model_validator

from parti_data.augmentation import LISTING_2, RandomCrop, cut_random
from parti_data.config import StrictModel
from parti_data.image_dataset import decode_kept
from parti_data.images import ImageLimits
from parti_data.ledger import LedgerRow, PairDirectory
from parti_data.processes import map_in_processes
from parti_data.recipes import RESIZE_RECIPE, View, apply_recipe, find_recipe, ten_crop
from parti_data.step_times import timed, timed_each

MOST_VIEWS = 256
"""Shards number views in 8 bits."""


class Views(StrictModel):
    """What is cut out of each picture. Random views are by default what DALL-E's prior is trained on: never mirrored,
    since a picture may hold text.
    """

    kind: Literal["center", "ten_crop", "random"] = "center"
    """The recipe's square; ten crops of its square of 1.1 S; random squares, resized by Pillow whatever the recipe."""
    count: int = Field(default=4, ge=1, le=MOST_VIEWS)
    """How many random views."""
    seed: NonNegativeInt = 0
    """Random views are a function of it, the image's key and the view's number."""
    least_zoom: float = Field(default=LISTING_2.least_zoom, ge=1, le=16)
    """The short side of a picture becomes from this ..."""
    most_zoom: float = Field(default=LISTING_2.most_zoom, ge=1, le=16)
    """... to this many times the tokenizer's side before a square is cut out."""
    near_center: bool = LISTING_2.near_center
    may_flip: bool = LISTING_2.may_flip

    @model_validator(mode="after")
    def _refuse_no_zoom(self) -> Self:
        if self.least_zoom > self.most_zoom:
            raise ValueError(f"least_zoom should be at most most_zoom, found {self.least_zoom} and {self.most_zoom}")
        return self

    @model_validator(mode="after")
    def _refuse_what_does_not_go_with_the_kind(self) -> Self:
        if self.kind != "random" and (others := sorted(self.model_fields_set - {"kind"})):
            raise ValueError(f"{others[0]} goes with kind random, not with {self.kind}")
        return self

    @model_serializer(mode="wrap")
    def _write_what_goes_with_the_kind(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return write(self) if self.kind == "random" else {"kind": self.kind}

    @property
    def num_views(self) -> int:
        """Views of a picture."""
        return {"center": 1, "ten_crop": 10, "random": self.count}[self.kind]

    def name_recipe(self, recipe: str) -> str:
        """Return what a shard says of how its views were made from a tokenizer's recipe."""
        return {"center": recipe, "ten_crop": f"ten_crop of {recipe}", "random": "random"}[self.kind]

    def library(self, recipe: str) -> str:
        """Return the name and version of what resizes; raises ConfigError where it is missing."""
        return find_recipe(RESIZE_RECIPE if self.kind == "random" else recipe).library


CENTER = Views()
"""One view, the recipe's square."""


class Cut(NamedTuple):
    """What becomes of a picture: its views, of a side, by a recipe."""

    side: int
    recipe: str
    views: Views


def make_views(pixels: np.ndarray, key: str, side: int, recipe: str, views: Views) -> list[View]:
    """Return the views of a picture, uint8 (height, width, 3), with this key."""
    if views.kind == "center":
        return [apply_recipe(recipe, pixels, side)]
    if views.kind == "ten_crop":
        return ten_crop(pixels, side, recipe)
    crop = RandomCrop(views.least_zoom, views.most_zoom, views.near_center, views.may_flip)
    return [cut_random(pixels, side, crop, generator_of(views.seed, key, view)) for view in range(views.count)]


def generator_of(seed: int, key: str, view: int) -> np.random.Generator:
    """Return the random numbers of one view of one image."""
    return np.random.default_rng([seed, int(key, 16), view])


def load_views(
    pairs: PairDirectory, rows: Iterable[LedgerRow], cut: Cut, processes: int = 0
) -> Generator[list[View], None, None]:
    """Yield the views of each kept row's image, which is fetched and decoded once; by so many processes, or by none."""
    fetched = timed_each("fetch", pairs.fetch_each(rows))
    calls = ((row, image, pairs.limits, cut) for row, image in fetched)
    return map_in_processes(cut_views, calls, processes) if processes else (cut_views(*call) for call in calls)


def cut_views(row: LedgerRow, image: bytes, limits: ImageLimits, cut: Cut) -> list[View]:
    """Return the views of a kept row's image."""
    pixels = decode_kept(row, image, limits)
    with timed("resize"):
        return make_views(pixels, row.key, cut.side, cut.recipe, cut.views)
