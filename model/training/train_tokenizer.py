"""The job that trains a ViT-VQGAN on kept pairs."""

from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from model.shapes import make_shape
from model.tokenizers import ImageTokenizer, save_tokenizer
from model.tokenizers.code_usage import RecentUse, count_codes
from model.tokenizers.vit_vqgan import ViTVQGAN, ViTVQGANShape
from model.training.loop import METRICS, Schedule, train
from model.training.reconstruction_losses import LossWeights, reconstruction_losses
from parti_data.config import StageConfig, StrictModel
from parti_data.image_dataset import ImageDataset
from parti_data.images import to_png
from parti_data.manifest import Beginning, Manifest, begin, manifest_digest, record_shard
from parti_data.storage import join, publish_bytes

TOKENIZER = "tokenizer.safetensors"
RECONSTRUCTIONS = "reconstructions.png"
_MEASURED_PICTURES = 512
_DRAWN_PICTURES = 12
_INITIAL_PICTURES = 512


class CodebookCare(StrictModel):
    """How a codebook comes to be used: the paper needs none of it in 500,000 steps, a short run does."""

    continuous_steps: int = 200
    """First steps without quantization; then codes are picked among the latents, far ones first."""
    restart_every: int = 20
    """Steps between restarts of dead codes at latents that are badly served; 0 turns restarts off."""
    restart_until: float = 0.6
    """Share of the steps after which no code is restarted."""


class TrainTokenizerConfig(StageConfig):
    """What `parti train tokenizer` is told."""

    source: str
    """A directory that filter or shard finished."""
    held_out: str = ""
    """Another such directory, on which the tokenizer is measured; empty: the training pictures."""
    architecture: dict[str, int | str | dict[str, int]] = Field(default_factory=dict)
    """Fields of ViTVQGANShape that differ from the paper's Small."""
    loss_weights: LossWeights = Field(default_factory=LossWeights)
    codebook: CodebookCare = Field(default_factory=CodebookCare)
    schedule: Schedule
    batch_size: PositiveInt = 256
    seed: int = 0

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"source", "held_out"})


class _TokenizerTrainee:
    """A ViT-VQGAN with its data and the care of its codebook."""

    def __init__(self, config: TrainTokenizerConfig, pictures: ImageDataset, held_out: ImageDataset):
        torch.manual_seed(config.seed)
        self.model = ViTVQGAN(make_shape(ViTVQGANShape, dict(config.architecture)))
        self._config, self._pictures, self._held_out = config, pictures, held_out
        self._usage = RecentUse(self.model.shape.codebook_size)
        self._latents = torch.empty(0)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Return the terms of the loss on the step's pictures."""
        images = as_floats(self._pictures.batch(step))
        care = self._config.codebook
        if step == care.continuous_steps:
            self._initialise_codebook()
        output = self.model(images, quantize=step >= care.continuous_steps)
        self._latents = output.latents.detach()
        self._usage.update(count_codes(output.tokens, self.model.shape.codebook_size))
        return reconstruction_losses(images, output, self._config.loss_weights)

    @torch.no_grad()
    def _initialise_codebook(self) -> None:
        count = min(_INITIAL_PICTURES, len(self._pictures))
        batches = np.array_split(np.arange(count), -(-count // self._config.batch_size))
        latents = [self.model.latents(as_floats(self._pictures.pictures(batch))).flatten(0, 1) for batch in batches]
        self.model.codebook.initialise(torch.cat(latents), torch.Generator().manual_seed(self._config.seed))

    def after_step(self, step: int) -> None:
        """Restart dead codes now and then."""
        care = self._config.codebook
        late = step >= care.restart_until * self._config.schedule.num_steps
        if not care.restart_every or late or step < care.continuous_steps or (step + 1) % care.restart_every:
            return
        generator = torch.Generator().manual_seed(self._config.seed + step)
        self._usage.spare(self.model.codebook.restart(self._usage.dead(), self._latents.flatten(0, 1), generator))

    def evaluate(self, step: int) -> dict[str, float]:
        """Return PSNR and code usage on the held-out pictures."""
        pictures = self._held_out.pictures(range(min(_MEASURED_PICTURES, len(self._held_out))))
        return measure_tokenizer(ImageTokenizer(self._frozen_copy()), pictures)

    def _frozen_copy(self) -> ViTVQGAN:
        copy = ViTVQGAN(self.model.shape)
        copy.load_state_dict(self.model.state_dict())
        return copy

    def state_dict(self) -> dict[str, Any]:
        """Return the usage of the codes."""
        return {"usage": self._usage.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the usage of the codes."""
        self._usage.load_state_dict(state["usage"])


def as_floats(pictures: np.ndarray) -> Tensor:
    """Return uint8 pictures as float32 in [0, 1]."""
    return torch.from_numpy(pictures).float() / 255


def measure_tokenizer(tokenizer: ImageTokenizer, pictures: np.ndarray) -> dict[str, float]:
    """Return the PSNR in dB of the mean squared error over all pictures, and the share of codes in use."""
    tokens = tokenizer.encode(pictures)
    error = F.mse_loss(tokenizer.decode(tokens).float(), torch.from_numpy(pictures).float()) / 255**2
    usage = len(tokens.unique()) / tokenizer.spec.codebook_size
    return {"psnr_db": round(float(-10 * torch.log10(error)), 3), "code_usage": round(usage, 4)}


def draw_reconstructions(tokenizer: ImageTokenizer, pictures: np.ndarray) -> np.ndarray:
    """Return a picture with originals in the upper row and their reconstructions in the lower."""
    decoded = tokenizer.decode(tokenizer.encode(pictures)).numpy()
    return np.concatenate([np.concatenate(list(row), axis=1) for row in (pictures, decoded)])


def train_tokenizer(config: TrainTokenizerConfig) -> Manifest:
    """Train, measure and write a tokenizer; return the manifest."""
    shape = make_shape(ViTVQGANShape, dict(config.architecture))
    inputs = {"source": manifest_digest(config.source)}
    if config.held_out:
        inputs["held_out"] = manifest_digest(config.held_out)
    begun = begin(config.output, Beginning(stage="train_tokenizer", config=config.deciding(), inputs=inputs))
    if isinstance(begun, Manifest):
        return begun
    side = shape.image_side
    pictures = ImageDataset(config.source, side, config.batch_size, config.seed)
    held_out = ImageDataset(config.held_out, side, config.batch_size) if config.held_out else pictures
    trainee = _TokenizerTrainee(config, pictures, held_out)
    train(trainee, config.schedule, config.output, "train tokenizer")
    save_tokenizer(trainee.model, join(config.output, TOKENIZER))
    tokenizer = ImageTokenizer(trainee.model)
    measured = held_out.pictures(range(min(_MEASURED_PICTURES, len(held_out))))
    publish_bytes(
        join(config.output, RECONSTRUCTIONS),
        to_png(draw_reconstructions(tokenizer, measured[:_DRAWN_PICTURES])),
    )
    details = measure_tokenizer(tokenizer, measured) | {
        "fingerprint": tokenizer.fingerprint, "shape": asdict(trainee.model.shape),
    }  # fmt: skip
    names = (TOKENIZER, RECONSTRUCTIONS, METRICS)
    return begun.finish([record_shard(config.output, name, 0) for name in names], {"pictures": len(pictures)}, details)
