"""What a published tokenizer's file does not say, and a user may."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from parti_data.config import StrictModel
from parti_data.recipes import RECIPES

MOST_SIDE_PX = 8192
"""Of a picture that a tokenizer is fed."""


class Choices(StrictModel):
    """How a published tokenizer is used; empty means as its own project does."""

    weights: str = ""
    """Which weights of a file with several: ema, model, state_dict."""
    prefix: str = ""
    """What the names of its tensors begin with inside a larger model; the usual ones are found."""
    pixel_range: Literal["", "unit", "symmetric"] = ""
    """What black and white are to the encoder: 0 and 1, or -1 and 1. dalle-mini feeds taming's weights [0, 1]."""
    image_side: Annotated[int, Field(gt=0, le=MOST_SIDE_PX)] | None = None
    """Pixels; convolutions take any multiple of what a token covers."""
    resize_recipe: str = ""
    """One of `parti_data.recipes`."""
    attention: Literal["alternating", "nested"] = "alternating"
    """Where a level has several attention blocks: one after each residual block, as taming has it, or all of them after
    each, as vqgan-jax runs the same weights."""

    @field_validator("resize_recipe")
    @classmethod
    def _refuse_unknown_recipes(cls, name: str) -> str:
        if name and name not in RECIPES:
            raise ValueError(f"{name!r} should be one of {', '.join(RECIPES)}")
        return name


class Reading(Choices):
    """How the file of a tokenizer is read: a file of ours says all itself, and takes none of this."""

    config: str = ""
    """The YAML or JSON that the project publishes with the file."""
    kind: Literal["", "enhancing", "taming", "llamagen", "openai_dvae", "igpt"] = ""
    """The family; empty: found from the names of the tensors."""
