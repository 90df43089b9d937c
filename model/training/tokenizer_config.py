"""What `parti train tokenizer` is told."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, Tag, model_validator

from model.training.adversarial import AdversarialSettings
from model.training.reconstruction_losses import LossWeights
from model.training.schedule import Schedule, TokenizerRunning
from parti_data.config import StageConfig, StrictModel
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

NEVER = -1
"""No step: as many continuous steps."""


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


class CodebookCare(StrictModel):
    """How a codebook comes to be used: the paper needs none of it in 500,000 steps, a short run does."""

    continuous_steps: Annotated[int, Field(ge=NEVER)] = 200
    """First steps without quantization; then codes are picked among the latents, far ones first. -1: none, and the
    codes stay as they began. With `start_from` -1 unless told."""
    restart_every: NonNegativeInt = 20
    """Steps between restarts of dead codes at latents that are badly served; 0 turns restarts off."""
    restart_until: Annotated[NonNegativeFloat, Field(le=1)] = 0.6
    """Share of the steps after which no code is restarted."""


class TrainTokenizerConfig(StageConfig):
    """What `parti train tokenizer` is told."""

    source: ImageSource
    """Where the images come from."""
    held_out: ImageSource = ""
    """Others, on which the tokenizer is measured; empty: a share of the source, or the training pictures."""
    held_out_share: Annotated[NonNegativeFloat, Field(lt=1)] = 0.0
    """The share of the source, by the images' keys, that is measured on and never trained on."""
    limits: ImageLimits = Field(default_factory=ImageLimits)
    """What an image of a `source` table may be and cost; a finished directory brings its own."""
    augmentation: Literal["none", "dalle"] = "none"
    """What is cut out of a picture: the centre square, or one at random and maybe flipped, as DALL-E's listing 1."""
    architecture: dict[str, int | str | dict[str, int]] = Field(default_factory=dict)
    """Fields of ViTVQGANShape that differ from the paper's Small."""
    start_from: str = ""
    """A tokenizer's file whose encoder and codebook are taken, and of a decoder of the same size its weights."""
    train: Literal["all", "decoder"] = "all"
    """With `decoder` all that decides a token stays as it was, fingerprint included."""
    loss_weights: LossWeights = Field(default_factory=LossWeights)
    vgg16: str = ""
    """The file of torchvision's VGG16 weights for the perceptual term; empty: training goes on without it."""
    lpips: str = ""
    """The file of LPIPS' linear weights for it; empty: every channel counts the same."""
    adversarial: AdversarialSettings | None = None
    """The discriminator; none without this table. Its statistic of a minibatch is that of each part of each rank."""
    codebook: CodebookCare = Field(default_factory=CodebookCare)
    schedule: Schedule
    batch_size: PositiveInt = 256
    """Images a step, of all ranks together."""
    batch_parts: PositiveInt = 1
    """Parts of a rank's slice of a batch, one after the other in memory; their gradients add up."""
    ema_decay: Annotated[NonNegativeFloat, Field(lt=1)] = 0.0
    """Of the average of the weights that is measured, drawn and saved; 0: the weights themselves."""
    measured_pictures: PositiveInt = 512
    """Held-out pictures that figures are measured on at each checkpoint, at most."""
    seed: NonNegativeInt = 0
    recompute_blocks: bool = False
    """Whether training keeps no activations inside blocks and computes them twice: slower, in less memory."""
    running: TokenizerRunning = Field(default_factory=TokenizerRunning)

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"running", "recompute_blocks", "start_from", "vgg16", "lpips"})

    @model_validator(mode="before")
    @classmethod
    def _keep_codes_that_are_given(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("start_from"):
            return values
        told = values.get("codebook", {})
        return values | {"codebook": {"continuous_steps": NEVER} | told} if isinstance(told, dict) else values

    def deciding(self) -> dict[str, Any]:
        """Return what the output's bytes depend on; a finished directory is told by its digest, not its path."""
        directories = {name for name in ("source", "held_out") if isinstance(getattr(self, name), str)}
        return {name: value for name, value in super().deciding().items() if name not in directories}
