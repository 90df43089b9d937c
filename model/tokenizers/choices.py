"""What a published tokenizer's file does not say, and a user may."""

from typing import Literal

from pydantic import PositiveInt

from parti_data.config import StrictModel


class Choices(StrictModel):
    """How a published tokenizer is used; empty means as its own project does."""

    weights: str = ""
    """Which weights of a file with several: ema, model, state_dict."""
    prefix: str = ""
    """What the names of its tensors begin with inside a larger model; the usual ones are found."""
    pixel_range: Literal["", "unit", "symmetric"] = ""
    """What black and white are to the encoder: 0 and 1, or -1 and 1. dalle-mini feeds taming's weights [0, 1]."""
    image_side: PositiveInt | None = None
    """Pixels; convolutions take any multiple of what a token covers."""
    resize_recipe: str = ""
    attention: Literal["alternating", "nested"] = "alternating"
    """Where a level has several attention blocks: one after each residual block, as taming has it, or all of them after
    each, as vqgan-jax runs the same weights."""


class Reading(Choices):
    """How the file of a tokenizer is read: a file of ours says all itself, and takes none of this."""

    config: str = ""
    """The YAML or JSON that the project publishes with the file."""
    kind: Literal["", "enhancing", "taming", "llamagen", "openai_dvae", "igpt"] = ""
    """The family; empty: found from the names of the tensors."""
