"""What is in training on images, whatever it learns: its data, the average of its weights, and its discriminator."""

from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from model.training.adversarial import Adversary
from model.training.average import WeightAverage
from model.training.image_config import TrainOnImagesConfig, TrainWithCriticsConfig
from model.training.perceptual import PerceptualDistance
from model.training.ranks import Ranks
from model.training.throughput import Work
from model.training.tokenizer_images import TrainingImages

DISCRIMINATOR = "discriminator"
M = TypeVar("M", bound=nn.Module)


class ImageTrainee(Generic[M]):
    """A network with its data."""

    NAME: ClassVar[str]
    """The network's, among those that are trained."""
    work: Work | None = None

    def __init__(self, config: TrainOnImagesConfig, network: M, images: TrainingImages, ranks: Ranks):
        self._ranks = ranks
        self._pictures, self._held_out = images
        self.batch_size, self.num_parts = config.batch_size, config.batch_parts
        self._model = network.to(ranks.device)
        self._forward = torch.compile(self._model) if config.running.compile else self._model
        self._average = WeightAverage(self._model, config.ema_decay) if config.ema_decay else None

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The network, by its name."""
        return {self.NAME: self._model}

    @property
    def trained(self) -> M:
        """What is measured and saved: the average of the weights where one is kept."""
        return self._average.network if self._average else self._model  # type: ignore[return-value]

    def keys(self, step: int) -> list[str]:
        """Return the keys of this rank's images of a step."""
        return self._pictures.keys(step)

    def after_step(self, step: int) -> None:
        """Move the average."""
        if self._average:
            self._average.update(self._model, step)

    def state_dict(self) -> dict[str, Any]:
        """Return the average of the weights."""
        return {"average": self._average.state_dict() if self._average else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take such a state."""
        if self._average:
            self._average.load_state_dict(state["average"])


class TraineeWithCritics(ImageTrainee[M]):
    """A network with its data, and with a discriminator of its images where the config asks for one."""

    def __init__(
        self,
        config: TrainWithCriticsConfig,
        network: M,
        image_side: int,
        images: TrainingImages,
        ranks: Ranks,
        perceptual: PerceptualDistance | None,
    ):
        super().__init__(config, network, images, ranks)
        self._perceptual = perceptual.to(ranks.device) if perceptual else None
        settings = config.adversarial
        self._adversary = Adversary(image_side, settings, ranks.device) if settings else None

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The network and, where there is one, the discriminator."""
        adversary = self._adversary
        return super().networks | ({DISCRIMINATOR: adversary.discriminator} if adversary else {})

    def _judged(self, terms: dict[str, Tensor], made: Tensor, weight: float, step: int) -> dict[str, Tensor]:
        """Return the terms of the network's loss with the discriminator's, where there is one and it judges."""
        return self._adversary.judged(terms, made, weight, step) if self._adversary else terms

    def _discriminator_losses(self, images: Tensor, made: Tensor, step: int) -> dict[str, Tensor]:
        assert self._adversary
        return self._adversary.losses(images, made, step)
