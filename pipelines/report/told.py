"""What manifests tell that the page shows, checked, so that a damaged one costs only its own place."""

from typing import Annotated

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from parti_data.manifest import Told, check_told
from pipelines.report.stages import FinishedStage


class ToldOfPairs(BaseModel):
    """By filter."""

    read: NonNegativeInt
    kept: NonNegativeInt
    merged: NonNegativeInt
    dropped: NonNegativeInt
    reasons: dict[Annotated[str, Field(pattern="^(kept|merged|dropped)( |$)")], NonNegativeInt]
    """How many rows ended how."""


class TokenizerShape(BaseModel):
    """Of an image tokenizer."""

    codebook_size: PositiveInt
    image_side: PositiveInt
    patch_side: PositiveInt


class ToldOfTokenizer(BaseModel):
    """By train_tokenizer, train_dvae and train_palette."""

    psnr_db: float
    code_usage: float
    measured_on: str = ""
    shape: TokenizerShape


class PriorShape(BaseModel):
    """Of a prior."""

    codebook_size: PositiveInt
    dropout: float = 0.0


class ToldOfPrior(BaseModel):
    """By train_prior."""

    rows: NonNegativeInt
    parameters: NonNegativeInt
    batch_size: PositiveInt
    text_drop: float = 0.0
    weights: str = ""
    shape: PriorShape


class ToldOfSamples(BaseModel):
    """By sample."""

    prompts: NonNegativeInt
    images: NonNegativeInt


class ToldOfEvaluation(BaseModel):
    """By evaluate."""

    accuracy: dict[str, float] = Field(default_factory=dict)
    """By category of prompts."""
    figures: dict[str, float] = Field(default_factory=dict)


def read_told(stage: FinishedStage, told: type[Told]) -> Told:
    """Return what a finished stage's config, details and counts tell; raises ShardError where that is not there."""
    manifest = stage.manifest
    return check_told(stage.path, manifest.stage, manifest.config | manifest.details | manifest.counts, told)
