"""A ViT-VQGAN in training: its losses, its discriminator, the care of its codebook, and what is measured of it."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.tokenizers.code_usage import CodeUsage, RecentUse, count_codes
from model.tokenizers.vit_vqgan import Reconstruction, ViTVQGAN
from model.training.average import WeightAverage
from model.training.image_trainee import DISCRIMINATOR, TraineeWithCritics
from model.training.loop import Evaluation
from model.training.perceptual import PerceptualDistance
from model.training.ranks import Ranks
from model.training.reconstruction_losses import reconstruction_losses
from model.training.reconstructions import evaluate_tokenizer, freeze, measured_pictures
from model.training.step_parts import StepParts, to_device
from model.training.tokenizer_config import NEVER, CodebookCare, TrainTokenizerConfig
from model.training.tokenizer_images import TrainingImages

_INITIAL_PICTURES = 512


class _Seen(NamedTuple):
    """What is kept of a part of a batch until the end of the step."""

    images: Tensor
    reconstructed: Tensor
    tokens: Tensor
    latents: Tensor


class TokenizerTrainee(TraineeWithCritics[ViTVQGAN]):
    """A ViT-VQGAN with its data, and with a discriminator where the config asks for one."""

    NAME = "tokenizer"

    def __init__(
        self,
        config: TrainTokenizerConfig,
        network: ViTVQGAN,
        images: TrainingImages,
        ranks: Ranks,
        perceptual: PerceptualDistance | None = None,
    ):
        super().__init__(config, network, network.shape.image_side, images, ranks, perceptual)
        self._config = config
        size = network.shape.codebook_size
        self._recent, self._epoch_usage, self._last_epoch = RecentUse(size), CodeUsage(size), dict[str, float]()
        self._seen: list[_Seen] = []
        self._parts = StepParts(lambda step: (self._pictures.batch(step),), config.batch_parts, ranks.device)

    def losses(self, network: str, step: int, part: int) -> dict[str, Tensor]:
        """Return the terms of the loss of a network on a part of the step's pictures."""
        if network == DISCRIMINATOR:
            return self._discriminator_losses(self._seen[part].images, self._seen[part].reconstructed, step)
        return self._model_losses(step, part)

    def _model_losses(self, step: int, part: int) -> dict[str, Tensor]:
        (images,) = self._parts.get(step, part)
        if step == self._care.continuous_steps and part == 0:
            self._initialise_codebook()
        output: Reconstruction = self._forward(images, quantize=step >= self._care.continuous_steps)
        self._seen.append(_Seen(images, output.images.detach(), output.tokens, output.latents.detach()))
        weights = self._config.loss_weights
        terms = reconstruction_losses(images, output, weights, self._perceptual)
        return self._judged(terms, output.images, weights.adversarial, step)

    @property
    def _care(self) -> CodebookCare:
        """The care of the codebook; one that is frozen needs none."""
        is_frozen = self._config.train == "decoder"
        return CodebookCare(continuous_steps=NEVER, restart_every=0) if is_frozen else self._config.codebook

    @torch.no_grad()
    def _initialise_codebook(self) -> None:
        """Pick codes among the latents of the first pictures, of which each rank encodes its share."""
        count = min(_INITIAL_PICTURES, len(self._pictures)) // self._ranks.world_size
        mine = np.arange(count) + self._ranks.rank * count
        batches = np.array_split(mine, max(-(-count // self._config.batch_size), 1))
        pictures = (to_device(self._pictures.pictures(batch), self._ranks.device).float() / 255 for batch in batches)
        latents = torch.cat([self._model.latents(images).flatten(0, 1) for images in pictures])
        self._model.codebook.initialise(latents, torch.Generator().manual_seed(self._config.seed))
        self._epoch_usage.reset()  # recent use stays: without it, all that the next few steps do not use would be dead
        if self._average:
            self._codes_of(self._average).copy_(self._model.codebook.embedding)

    def after_step(self, step: int) -> None:
        """Count the codes, restart dead ones now and then, and move the average."""
        tokens = torch.cat([seen.tokens for seen in self._seen])
        latents = torch.cat([seen.latents for seen in self._seen]).flatten(0, 1)
        self._seen.clear()
        counts = count_codes(tokens, self._model.shape.codebook_size)
        self._recent.update(counts)
        if step and self._pictures.epoch(step) != self._pictures.epoch(step - 1):
            self._last_epoch = self._usage_figures()
            self._epoch_usage.reset()
        self._epoch_usage.update(counts)
        super().after_step(step)
        if self._is_restart(step):
            self._restart(latents, step)

    def _is_restart(self, step: int) -> bool:
        care = self._care
        late = step >= care.restart_until * self._config.schedule.num_steps
        return bool(care.restart_every) and not (
            late or step < care.continuous_steps or (step + 1) % care.restart_every
        )

    @torch.no_grad()
    def _restart(self, latents: Tensor, step: int) -> None:
        generator = torch.Generator().manual_seed(self._config.seed + step)
        moved = self._model.codebook.restart(self._recent.dead(), latents, generator)
        self._recent.spare(moved)
        if self._average:  # an average of where a code was and where it is now would be neither
            self._codes_of(self._average)[moved] = self._model.codebook.embedding[moved]

    @staticmethod
    def _codes_of(average: WeightAverage) -> Tensor:
        return average.network.codebook.embedding.data  # type: ignore[union-attr,return-value]

    def _usage_figures(self) -> dict[str, float]:
        usage = self._epoch_usage
        return {"train_code_usage": round(usage.share(), 4), "train_perplexity": round(usage.perplexity(), 1)}

    def evaluate(self, step: int) -> Evaluation:
        """Return PSNR and code usage on the held-out pictures, code usage in the last whole epoch, and pictures; on the
        first rank alone.
        """
        if not self._ranks.is_first:
            return Evaluation({}, {})
        measured = measured_pictures(self._held_out, self._config)
        found = evaluate_tokenizer(freeze(self.trained, self._ranks.device), measured)
        return found._replace(figures=found.figures | (self._last_epoch or self._usage_figures()))

    def state_dict(self) -> dict[str, Any]:
        """Return the usage of the codes and the average of the weights."""
        usage = {"recent": self._recent.state_dict(), "epoch": self._epoch_usage.state_dict()}
        return {"usage": usage, "last_epoch": dict(self._last_epoch), **super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take such a state."""
        self._recent.load_state_dict(state["usage"]["recent"])
        self._epoch_usage.load_state_dict(state["usage"]["epoch"])
        self._last_epoch = state["last_epoch"]
        super().load_state_dict(state)
