"""What `parti train upsampler` is told."""

from typing import ClassVar

from pydantic import Field

from model.tokenizers import Reading
from model.training.enlargements import Shrinking
from model.training.image_config import TrainWithCriticsConfig
from model.training.reconstruction_losses import PixelLossWeights


class TrainUpsamplerConfig(TrainWithCriticsConfig):
    """What `parti train upsampler` is told."""

    image_tokenizer: str
    """Whose reconstructions are enlarged; it stays as it is."""
    tokenizer: Reading = Field(default_factory=Reading)
    """How a published image tokenizer is read, as tokenize was told."""
    architecture: dict[str, int | str] = Field(default_factory=dict)
    """Fields of WDSRShape that differ from the paper's for 512 px; a large side is `scale` times the tokenizer's."""
    shrinking: Shrinking = "nearest"
    """How an original is made small for the tokenizer. Nearest is Parti's (figure 4). With area a small pixel is the
    mean of those that it stands for: no stairs, as in the pictures that tokenize made tokens of."""
    loss_weights: PixelLossWeights = Field(default_factory=PixelLossWeights)

    UNDECIDING: ClassVar[frozenset[str]] = TrainWithCriticsConfig.UNDECIDING | {"image_tokenizer"}
