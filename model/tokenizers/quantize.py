"""The nearest code, in float32 whatever the surroundings, and the lowest index on ties on every device.

Half precision changes about half of all tokens of small codes: their distances differ by less than its step.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS_AT_ONCE = 4096
"""Latents compared with all codes at a time: 256 MiB of similarities with 16,384 codes."""


def nearest_codes(latents: Tensor, codes: Tensor, normalise: bool = False) -> Tensor:
    """Return int64 (...), the index of the code (V, K) nearest to each latent (..., K).

    By Euclid's distance, or by cosine where both are l2-normalised first.
    """
    with torch.autocast(latents.device.type, enabled=False):
        rows, codes = latents.float().flatten(0, -2), codes.float()
        if normalise:
            rows, codes = F.normalize(rows, dim=-1), F.normalize(codes, dim=-1)
        # |z - e|^2 = |z|^2 - 2 (z e - |e|^2 / 2), and |z| is the same for all codes
        half_squares = None if normalise else codes.square().sum(-1) / 2
        found = [_best(part @ codes.T, half_squares) for part in rows.split(_ROWS_AT_ONCE)]
    return torch.cat(found).view(latents.shape[:-1])


def most_likely(latents: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return int64 (...), the index of the largest logit that a linear layer (V, K) gives each latent (..., K)."""
    with torch.autocast(latents.device.type, enabled=False):
        rows = latents.float().flatten(0, -2).split(_ROWS_AT_ONCE)
        found = [first_largest(F.linear(part, weight.float(), bias.float())) for part in rows]
    return torch.cat(found).view(latents.shape[:-1])


def _best(products: Tensor, half_squares: Tensor | None) -> Tensor:
    return first_largest(products if half_squares is None else products - half_squares)


def first_largest(scores: Tensor) -> Tensor:
    """Return int64 (...), the lowest index of the largest score (..., V).

    On a CPU argmax promises that; elsewhere it is made so.
    """
    return scores.argmax(-1) if scores.device.type == "cpu" else lowest_place_of_largest(scores)


def lowest_place_of_largest(scores: Tensor) -> Tensor:
    """Return what `first_largest` does, by comparing, where argmax promises no order."""
    places = torch.arange(scores.shape[-1], device=scores.device)
    is_largest = scores == scores.amax(-1, keepdim=True)
    return torch.where(is_largest, places, scores.shape[-1]).amin(-1)
