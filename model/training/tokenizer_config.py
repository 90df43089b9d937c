"""What `parti train tokenizer` is told."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator

from model.training.image_config import TrainWithCriticsConfig
from model.training.reconstruction_losses import LossWeights
from parti_data.config import StrictModel

NEVER = -1
"""No step: as many continuous steps."""


class CodebookCare(StrictModel):
    """How a codebook comes to be used: the paper needs none of it in 500,000 steps, a short run does."""

    continuous_steps: Annotated[int, Field(ge=NEVER)] = 200
    """First steps without quantization; then codes are picked among the latents, far ones first. -1: none, and the
    codes stay as they began. With `start_from` -1 unless told."""
    restart_every: NonNegativeInt = 20
    """Steps between restarts of dead codes at latents that are badly served; 0 turns restarts off."""
    restart_until: Annotated[NonNegativeFloat, Field(le=1)] = 0.6
    """Share of the steps after which no code is restarted."""


class TrainTokenizerConfig(TrainWithCriticsConfig):
    """What `parti train tokenizer` is told."""

    architecture: dict[str, int | str | dict[str, int]] = Field(default_factory=dict)
    """Fields of ViTVQGANShape that differ from the paper's Small."""
    start_from: str = ""
    """A tokenizer's file whose encoder and codebook are taken, and of a decoder of the same size its weights."""
    train: Literal["all", "decoder"] = "all"
    """With `decoder` all that decides a token stays as it was, fingerprint included."""
    loss_weights: LossWeights = Field(default_factory=LossWeights)
    codebook: CodebookCare = Field(default_factory=CodebookCare)
    recompute_blocks: bool = False
    """Whether training keeps no activations inside blocks and computes them twice: slower, in less memory."""

    UNDECIDING: ClassVar[frozenset[str]] = TrainWithCriticsConfig.UNDECIDING | {"recompute_blocks", "start_from"}

    @model_validator(mode="before")
    @classmethod
    def _keep_codes_that_are_given(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("start_from"):
            return values
        told = values.get("codebook", {})
        return values | {"codebook": {"continuous_steps": NEVER} | told} if isinstance(told, dict) else values
