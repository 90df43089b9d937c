"""A discrete VAE in training: its relaxation, its losses, and what is measured of it.

The noise of a row is a function of seed, step and the row's place in the global batch, so that ranks and parts of a
batch change sums by their rounding alone.
"""

import numpy as np
import torch
from torch import Tensor

from model.tokenizers.dvae import DVAE
from model.training.dvae_config import TrainDVAEConfig
from model.training.dvae_losses import dvae_losses
from model.training.gumbel import GumbelNoise
from model.training.image_trainee import ImageTrainee
from model.training.loop import Evaluation
from model.training.ranks import Ranks
from model.training.reconstructions import evaluate_tokenizer, freeze, measured_pictures
from model.training.step_parts import StepParts
from model.training.tokenizer_images import TrainingImages


class DVAETrainee(ImageTrainee[DVAE]):
    """A discrete VAE with its data."""

    NAME = "tokenizer"

    def __init__(self, config: TrainDVAEConfig, network: DVAE, images: TrainingImages, ranks: Ranks):
        super().__init__(config, network, images, ranks)
        self._config = config
        shape = network.shape
        self._noise = GumbelNoise(config.seed, (shape.num_tokens, shape.codebook_size), ranks.device)
        self._parts = StepParts(lambda step: (self._pictures.batch(step),), config.batch_parts, ranks.device)

    def losses(self, network: str, step: int, part: int) -> dict[str, Tensor]:
        """Return the terms of the loss on a part of the step's pictures, and the step's temperature and KL weight."""
        (images,) = self._parts.get(step, part)
        temperature, kl_weight = self._config.temperature.value_at(step), self._config.kl_weight.value_at(step)
        noise = self._noise.rows(step, self._numbers(len(images), part))
        annealed = {name: self._scalar(number) for name, number in (("tau", temperature), ("beta", kl_weight))}
        relaxed = self._forward(images, noise, annealed["tau"])
        return dvae_losses(images, relaxed, kl_weight, self._config.lowest_log_scale) | annealed

    def _numbers(self, size: int, part: int) -> np.ndarray:
        """Return the numbers, in the global batch, of this rank's rows in a part of so many."""
        return (self._ranks.rank * self.num_parts + part) * size + np.arange(size)

    def _scalar(self, number: float) -> Tensor:
        return torch.full((), number, device=self._ranks.device)

    def evaluate(self, step: int) -> Evaluation:
        """Return PSNR and code usage on the held-out pictures, by tokens, and pictures; on the first rank alone."""
        if not self._ranks.is_first:
            return Evaluation({}, {})
        tokenizer = freeze(self.trained, self._ranks.device)
        return evaluate_tokenizer(tokenizer, measured_pictures(self._held_out, self._config))
