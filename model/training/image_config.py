"""What every job is told that learns from images: which, with which losses, how many at once."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, Tag

from model.training.adversarial import AdversarialSettings
from model.training.schedule import ImageRunning, ReadingImages, Schedule
from parti_data.config import StageConfig
from parti_data.images import ImageLimits
from parti_data.sources import (
    CocoSource,
    ParquetSource,
    SyntheticSource,
    TableSource,
    WebDatasetSource,
    named_kind,
)
from parti_data.sources.folder import FolderSource, ImagesSource


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return named_kind(value)
    return "directory" if isinstance(value, str) else getattr(value, "kind", None)


ImageSource = Annotated[
    Annotated[str, Tag("directory")]
    | Annotated[SyntheticSource, Tag("synthetic")]
    | Annotated[WebDatasetSource, Tag("webdataset")]
    | Annotated[ParquetSource, Tag("parquet")]
    | Annotated[TableSource, Tag("table")]
    | Annotated[CocoSource, Tag("coco")]
    | Annotated[FolderSource, Tag("folder")]
    | Annotated[ImagesSource, Tag("images")],
    Discriminator(_kind),
]
"""A directory that filter or shard finished, or a `source` table as filter's; of kind `images`, also a folder without
captions."""


class ImagesConfig(StageConfig):
    """What a job is told that reads images: where they come from, and which are held out."""

    source: ImageSource
    """Where the images come from."""
    held_out: ImageSource = ""
    """Others, on which what is trained is measured; empty: a share of the source, or the training pictures."""
    held_out_share: Annotated[NonNegativeFloat, Field(lt=1)] = 0.0
    """The share of the source, by the images' keys, that is measured on and never trained on."""
    limits: ImageLimits = Field(default_factory=ImageLimits)
    """What an image of a `source` table may be and cost; a finished directory brings its own."""
    augmentation: Literal["none", "dalle"] = "none"
    """What is cut out of a picture: the centre square, or one at random and maybe flipped, as DALL-E's listing 1."""
    batch_size: PositiveInt = 256
    """Images a step, of all ranks together."""
    measured_pictures: PositiveInt = 512
    """Held-out pictures that figures are measured on, at most."""
    seed: NonNegativeInt = 0
    running: ReadingImages = Field(default_factory=ReadingImages)

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"running"})

    def deciding(self) -> dict[str, Any]:
        """Return what the output's bytes depend on; a finished directory is told by its digest, not its path."""
        directories = {name for name in ("source", "held_out") if isinstance(getattr(self, name), str)}
        return {name: value for name, value in super().deciding().items() if name not in directories}


class TrainOnImagesConfig(ImagesConfig):
    """What a job is told that learns to make images out of images, step by step."""

    schedule: Schedule
    batch_parts: PositiveInt = 1
    """Parts of a rank's slice of a batch, one after the other in memory; their gradients add up."""
    ema_decay: Annotated[NonNegativeFloat, Field(lt=1)] = 0.0
    """Of the average of the weights that is measured, drawn and saved; 0: the weights themselves."""
    running: ImageRunning = Field(default_factory=ImageRunning)  # type: ignore[assignment]  # configs never change


class TrainWithCriticsConfig(TrainOnImagesConfig):
    """What a job is told whose images other networks look at too."""

    vgg16: str = ""
    """The file of torchvision's VGG16 weights for the perceptual term; empty: training goes on without it."""
    lpips: str = ""
    """The file of LPIPS' linear weights for it; empty: every channel counts the same."""
    adversarial: AdversarialSettings | None = None
    """The discriminator; none without this table. Its statistic of a minibatch is that of each part of each rank."""

    UNDECIDING: ClassVar[frozenset[str]] = TrainOnImagesConfig.UNDECIDING | {"vgg16", "lpips"}
