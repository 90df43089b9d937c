"""What manifests tell that the page shows, checked, so that a damaged one costs only its own place."""

from typing import Annotated

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from parti_data.manifest import Told, check_told
from pipelines.report.stages import FinishedStage


class ToldOfPairs(BaseModel):
    """What filter tells."""

    read: NonNegativeInt
    kept: NonNegativeInt
    merged: NonNegativeInt
    dropped: NonNegativeInt
    reasons: dict[Annotated[str, Field(pattern="^(kept|merged|dropped)( |$)")], NonNegativeInt]
    """How many rows ended how."""


class TokenizerShape(BaseModel):
    """What the page shows of an image tokenizer's shape."""

    codebook_size: PositiveInt
    image_side: PositiveInt
    patch_side: PositiveInt


class ToldOfTokenizer(BaseModel):
    """What train_tokenizer, train_dvae and train_palette tell."""

    psnr_db: float
    code_usage: float
    measured_on: str = ""
    shape: TokenizerShape


class PriorShape(BaseModel):
    """What the page shows of a prior's shape."""

    codebook_size: PositiveInt
    dropout: float = 0.0


class ToldOfPrior(BaseModel):
    """What train_prior tells."""

    rows: NonNegativeInt
    parameters: NonNegativeInt
    batch_size: PositiveInt
    text_drop: float = 0.0
    weights: str = ""
    shape: PriorShape


class ToldOfSamples(BaseModel):
    """What sample tells."""

    prompts: NonNegativeInt
    images: NonNegativeInt


class ToldOfEvaluation(BaseModel):
    """What evaluate tells."""

    accuracy: dict[str, float] = Field(default_factory=dict)
    """By category of prompts."""
    figures: dict[str, float] = Field(default_factory=dict)


def read_told(stage: FinishedStage, told: type[Told]) -> Told:
    """Return what a finished stage's config, details and counts tell; raises ShardError where that is not there."""
    manifest = stage.manifest
    return check_told(stage.path, manifest.stage, manifest.config | manifest.details | manifest.counts, told)
