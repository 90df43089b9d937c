"""What every training job is told: how long and how fast to learn, and how to run on its machine."""

import math
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from model.training.ranks import Device
from parti_data.config import StrictModel

MAX_DRAWN_STEPS = 8
"""So many of a run's pictures stay, besides the newest."""


class Schedule(StrictModel):
    """How long to train, by which optimizer, and its settings: a linear warm-up, a plateau where there is one, then a
    decay to a share of the rate.
    """

    num_steps: PositiveInt
    lr: PositiveFloat
    final_lr_ratio: Annotated[NonNegativeFloat, Field(le=1)] = 0.0
    warmup_steps: NonNegativeInt = 100
    decay: Literal["cosine", "exponential", "constant"] = "cosine"
    """How the rate falls: along half a cosine, by the same factor each step, or not at all."""
    decay_start: NonNegativeInt | None = None
    """First step of the decay; none: when the warm-up ends."""
    decay_end: NonNegativeInt | None = None
    """First step at which the rate has fallen, and from which it stays; none: the end of the run, which may come
    sooner."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    first_moments: Literal["float32", "bfloat16"] = "float32"
    """What Adafactor keeps its first moments in; AdamW's are float32."""
    beta1: Annotated[NonNegativeFloat, Field(lt=1)] = 0.9
    beta2: Annotated[NonNegativeFloat, Field(lt=1)] = 0.99
    weight_decay: NonNegativeFloat = 1e-4
    clip_norm: NonNegativeFloat = 1.0
    """Of each network's gradient by itself; 0: gradients stay as they are."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the products in the networks that are trained. The quantizer, the perceptual term, R1 and what the other
    losses make of the networks' outputs are float32 always. `auto`: bfloat16 where the device has instructions for it,
    so that another machine may have other weights; without them a step of the demo's prior takes twelve times as long
    as in float32 (an EPYC with AVX2 alone)."""
    checkpoint_every: PositiveInt = 500
    log_every: PositiveInt = 50

    @model_validator(mode="after")
    def _refuse_impossible(self) -> Self:
        if self.decay == "exponential" and not self.final_lr_ratio:
            raise ValueError("an exponential decay ends at a final_lr_ratio above 0")
        if self.decay == "constant" and (
            self.final_lr_ratio or self.decay_start is not None or self.decay_end is not None
        ):
            raise ValueError("a constant rate has no final_lr_ratio, decay_start or decay_end")
        if self.decay_start is not None and self.decay_start < self.warmup_steps:
            raise ValueError(f"decay_start comes no sooner than the end of the {self.warmup_steps} warmup_steps")
        if self.decay_start is not None and self.decay_start >= self.num_steps:
            raise ValueError(f"decay_start comes before the end of the {self.num_steps} num_steps")
        if self.decay_end is not None and self.decay_end <= self._decay_start:
            raise ValueError(f"decay_end comes later than step {self._decay_start}, at which the decay starts")
        return self

    @property
    def _decay_start(self) -> int:
        return self.warmup_steps if self.decay_start is None else self.decay_start

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        start = self._decay_start
        if self.decay == "constant" or step < start:
            return self.lr
        end = self.num_steps if self.decay_end is None else self.decay_end
        progress = min((step - start) / max(end - start, 1), 1.0)
        if self.decay == "exponential":
            return self.lr * self.final_lr_ratio**progress
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * (self.final_lr_ratio + (1 - self.final_lr_ratio) * cosine)

    def product_dtype(self, device: torch.device) -> torch.dtype:
        """Return the type of the products on a device."""
        is_bfloat16 = has_bfloat16(device) if self.precision == "auto" else self.precision == "bfloat16"
        return torch.bfloat16 if is_bfloat16 else torch.float32

    def drawn_steps(self) -> list[int]:
        """Return the checkpoints whose pictures stay: the first, the last, and some between them."""
        last = -(-self.num_steps // self.checkpoint_every)
        chosen = {round(place) for place in np.linspace(1, last, min(last, MAX_DRAWN_STEPS))}
        return [min(number * self.checkpoint_every, self.num_steps) for number in sorted(chosen)]


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class Running(StrictModel):
    """How a job runs on its machine, which may change whenever it goes on."""

    device: Device = "auto"
    """A GPU where there is one; sums have another order there, so weights differ in their last bits."""
    compile: bool = False
    """Whether torch.compile makes kernels of the networks first: minutes at the start, faster steps on a GPU."""
    checkpoint_minutes: NonNegativeFloat = 0.0
    """Minutes after which a checkpoint is written between those of schedule.checkpoint_every, with the next line of
    the metrics; 0: none."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints that stay; older ones are removed."""
    tensorboard: bool = False
    """Whether figures and pictures are also written as TensorBoard reads them, below the output."""


class ReadingImages(StrictModel):
    """How images are read."""

    decode_threads: PositiveInt = 2
    """Batches that are read and decoded ahead of the step."""


class ImageRunning(ReadingImages, Running):
    """How training on images runs."""


class PriorRunning(Running):
    """How a prior's training runs."""

    parallel: Literal["replicate", "shard"] = "replicate"
    """What several processes hold: all weights each, or a share each (FSDP2), gathered a block at a time while they
    are needed. A process holds all of them once, at the start, in its machine's memory."""
