"""What every training job is told: how long and how fast to learn, and how to run on its machine."""

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from model.training.ranks import Device
from parti_data.config import StrictModel

MAX_DRAWN_STEPS = 8
"""So many of a run's pictures stay, besides the newest."""


class Schedule(StrictModel):
    """How long to train, and AdamW's settings: linear warm-up, then cosine to a share of the rate."""

    num_steps: PositiveInt
    lr: PositiveFloat
    final_lr_ratio: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 100
    beta1: Annotated[NonNegativeFloat, Field(lt=1)] = 0.9
    beta2: Annotated[NonNegativeFloat, Field(lt=1)] = 0.99
    weight_decay: NonNegativeFloat = 1e-4
    clip_norm: NonNegativeFloat = 1.0
    """Of each network's gradient by itself; 0: gradients stay as they are."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the products in the networks that are trained. The quantizer, the perceptual term, R1 and what the other
    losses make of the networks' outputs are float32 always."""
    checkpoint_every: PositiveInt = 500
    log_every: PositiveInt = 50

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(self.num_steps - self.warmup_steps, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * (self.final_lr_ratio + (1 - self.final_lr_ratio) * cosine)

    def drawn_steps(self) -> list[int]:
        """Return the checkpoints whose pictures stay: the first, the last, and some between them."""
        last = -(-self.num_steps // self.checkpoint_every)
        chosen = {round(place) for place in np.linspace(1, last, min(last, MAX_DRAWN_STEPS))}
        return [min(number * self.checkpoint_every, self.num_steps) for number in sorted(chosen)]


class Running(StrictModel):
    """How a job runs on its machine, which may change whenever it goes on."""

    device: Device = "auto"
    """A GPU where there is one; sums have another order there, so weights differ in their last bits."""
    compile: bool = False
    """Whether torch.compile makes kernels of the networks first: minutes at the start, faster steps on a GPU."""
    checkpoint_minutes: NonNegativeFloat = 0.0
    """Minutes after which a checkpoint is written between those of schedule.checkpoint_every; 0: none."""
    decode_threads: PositiveInt = 2
    """Batches that are read and decoded ahead of the step."""
    tensorboard: bool = False
    """Whether figures and pictures are also written as TensorBoard reads them, below the output."""
