"""What `parti train palette` is told."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt

from model.tokenizers.choices import MOST_SIDE_PX
from model.training.image_config import ImagesConfig


class TrainPaletteConfig(ImagesConfig):
    """What `parti train palette` is told."""

    image_side: Annotated[int, Field(gt=0, le=MOST_SIDE_PX)] = 32
    """Pixels, each of which becomes a token; tokenize is told the same by tokenizer.image_side."""
    codebook_size: Annotated[int, Field(ge=2, le=1 << 16)] = 512
    """Colours. Source: iGPT, section 3.2."""
    num_pixels: PositiveInt = 1 << 20
    """Pixels that are clustered, at most. The paper states no number."""
    pixels_per_picture: PositiveInt = 64
    """Pixels that are drawn of each picture; more where there are too few pictures for num_pixels."""
    num_iterations: PositiveInt = 100
    """Of k-means, at most."""
    least_gain: NonNegativeFloat = 1e-4
    """The share of the mean squared distance that an iteration has to take off for another one to follow."""
