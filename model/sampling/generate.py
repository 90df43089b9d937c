"""Image tokens for prompts: cached decoding with classifier-free guidance, temperature, top-k and top-p."""

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor

from model.priors.prior import Prior
from model.sampling.decoding import Decoding
from parti_data.config import StrictModel
from parti_data.errors import CheckpointError


class Sampling(StrictModel):
    """How tokens are drawn from logits. Parti states none of these but the guidance of its FIDs, 1.2."""

    guidance: float = 1.2
    """Lambda of `guide`; 1 samples from the prior as it is."""
    temperature: PositiveFloat = 1.0
    top_k: NonNegativeInt = 0
    """Keep so many of the likeliest tokens; 0 keeps all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the likeliest tokens that together have this probability."""


def guide(with_text: Tensor, without_text: Tensor, guidance: float) -> Tensor:
    """Return G(z) + lambda (G(z, c) - G(z)) over logits. Source: Parti, section 2.4, equation 1."""
    return without_text + guidance * (with_text - without_text)


def filter_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return logits (B, V) over the temperature, minus infinity where top-k or top-p leaves a token out."""
    logits = logits / sampling.temperature
    if sampling.top_k:
        likeliest = logits.topk(min(sampling.top_k, logits.shape[-1]))
        logits = torch.full_like(logits, float("-inf")).scatter(1, likeliest.indices, likeliest.values)
    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        is_beyond = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        logits = logits.masked_fill(torch.zeros_like(is_beyond).scatter(1, order, is_beyond), float("-inf"))
    return logits


def draw_tokens(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return one token (B) for each row of logits (B, V): the inverse of the cumulative distribution at `uniform`."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    target = uniform.double() * cumulative[:, -1]
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def uniform_numbers(seeds: list[tuple[int, ...]], num_tokens: int) -> Tensor:
    """Return a row of numbers in [0, 1) for each seed, (B, I): an image's luck does not depend on its batch."""
    return torch.from_numpy(np.stack([np.random.default_rng(seed).random(num_tokens) for seed in seeds]))


@torch.inference_mode()
def generate(
    model: Prior, condition: Tensor, uniform: Tensor, sampling: Sampling, given: Tensor | None = None
) -> Tensor:
    """Return image tokens int64 (B, I) for a condition (B, T) and uniform numbers (B, I), drawn where the model is.

    Those of the first positions may be given, int64 (B, N): they come back as they are, and all others are drawn with
    the numbers that they would be drawn with otherwise. With guidance other than 1 the batch is decoded twice, with and
    without the condition; where there is none it says nothing. Raises CheckpointError where logits are not finite.
    """
    is_guided, device = sampling.guidance != 1 and condition.shape[1] > 0, model.to_logits.weight.device
    both = torch.cat([condition, model.without(condition)]) if is_guided else condition
    decoding, uniform = Decoding(model, both.to(device)), uniform.to(device)
    tokens = torch.zeros(uniform.shape, dtype=torch.long, device=device)
    last, largest = tokens.new_zeros(len(both)), torch.zeros(uniform.shape, device=device)
    num_given = 0 if given is None else given.shape[1]
    if given is not None and num_given:
        tokens[:, :num_given] = given.to(device)
        known = tokens[:, :num_given].repeat(2, 1) if is_guided else tokens[:, :num_given]
        decoding.fill(known)
        last = known[:, -1]
    for position in range(num_given, model.shape.num_tokens):
        logits = decoding.step(last, position)
        if is_guided:
            logits = guide(*logits.chunk(2), sampling.guidance)
        logits = filter_logits(logits, sampling)
        largest[:, position] = logits.amax(-1)  # looked at in the end: to ask here would stop a GPU each time
        tokens[:, position] = draw_tokens(logits, uniform[:, position])
        last = tokens[:, position].repeat(2) if is_guided else tokens[:, position]
    _refuse_nonfinite(largest)
    return tokens.cpu()


def _refuse_nonfinite(largest: Tensor) -> None:
    """Raise CheckpointError for images of whose positions' largest logits (B, I) one is not finite."""
    if lost := int((~largest.isfinite()).any(1).sum()):
        raise CheckpointError(
            f"sampling: expected finite logits, found others for {lost} of {len(largest)} images; check the prior's "
            "weights, sampling.guidance and sampling.temperature"
        )
