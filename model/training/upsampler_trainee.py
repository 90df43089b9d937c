"""An upsampler in training: its losses, its discriminator, and what is measured of it."""

import copy

import numpy as np
from torch import Tensor

from model.training.enlargements import Redrawing, draw_enlargements, measure_upsampler
from model.training.image_trainee import DISCRIMINATOR, TraineeWithCritics
from model.training.loop import Evaluation
from model.training.perceptual import PerceptualDistance
from model.training.ranks import Ranks
from model.training.reconstruction_losses import pixel_losses
from model.training.step_parts import StepParts
from model.training.tokenizer_images import TrainingImages
from model.training.upsampler_config import TrainUpsamplerConfig
from model.upsamplers import WDSR, Upsampler

ENLARGEMENTS = "enlargements"


class UpsamplerTrainee(TraineeWithCritics[WDSR]):
    """An upsampler with its data, and with a discriminator where the config asks for one."""

    NAME = "upsampler"

    def __init__(
        self,
        config: TrainUpsamplerConfig,
        network: WDSR,
        redrawing: Redrawing,
        images: TrainingImages,
        ranks: Ranks,
        perceptual: PerceptualDistance | None = None,
    ):
        side = redrawing.tokenizer.spec.image_side * redrawing.scale
        super().__init__(config, network, side, images, ranks, perceptual)
        self._config, self._redrawing = config, redrawing
        self._parts = StepParts(self._load, config.batch_parts, ranks.device)
        self._made: list[Tensor] = []

    def losses(self, network: str, step: int, part: int) -> dict[str, Tensor]:
        """Return the terms of the loss of a network on a part of the step's pictures."""
        originals, reconstructed = self._parts.get(step, part)
        if network == DISCRIMINATOR:
            return self._discriminator_losses(originals, self._made[part], step)
        made = self._forward(reconstructed)
        self._made.append(made.detach())
        weights = self._config.loss_weights
        terms = pixel_losses(originals, made, weights, self._perceptual)
        return self._judged(terms, made, weights.adversarial, step)

    def _load(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        originals = self._pictures.batch(step)
        return originals, self._redrawing.reconstruct(originals)

    def after_step(self, step: int) -> None:
        """Let go of the step's pictures, and move the average."""
        self._made.clear()
        super().after_step(step)

    def evaluate(self, step: int) -> Evaluation:
        """Return the PSNR on the held-out pictures, bicubic's beside it, and some of them."""
        return Evaluation(self.measure(), {ENLARGEMENTS: self.draw()})

    def measure(self) -> dict[str, float]:
        """Return the upsampler's PSNR as it is now, and bicubic's."""
        return measure_upsampler(self._frozen(), self._redrawing, self._held_out, self.num_measured)

    def draw(self) -> np.ndarray:
        """Return what the upsampler makes of the first held-out pictures as it is now."""
        return draw_enlargements(self._frozen(), self._redrawing, self._held_out, self.num_measured)

    @property
    def num_measured(self) -> int:
        """Pictures that figures are measured on."""
        return min(self._config.measured_pictures, len(self._held_out))

    def _frozen(self) -> Upsampler:
        return Upsampler(copy.deepcopy(self.trained), self._redrawing.tokenizer.fingerprint, self._ranks.device.type)
