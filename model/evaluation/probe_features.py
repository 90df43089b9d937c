"""What a linear probe reads: features of a prior's blocks, features of an untrained one's, pixels."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.priors.decoder_only import DecoderOnly
from model.priors.families import FAMILIES, family_of
from model.tokenizers import ImageTokenizer
from parti_data.progress import show_progress

_MOST_BYTES = 1 << 31
"""Of features held at once, unless those of one block are more."""
_PREFIX_IDS = {"nothing": 0, "class": 1}
"""What a condition has a row, where it is no text."""


def untrained(prior: DecoderOnly, seed: int) -> DecoderOnly:
    """Return a network of the same architecture, its weights drawn anew."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FAMILIES[family_of(prior)].network(prior.shape)
    assert isinstance(network, DecoderOnly)
    return network.eval().requires_grad_(False)


def no_condition(prior: DecoderOnly, num_rows: int) -> Tensor:
    """Return what stands for no caption in so many rows, int64 (B, T): a probe must not be told the class.

    A prior of classes that was trained without text_drop never learned it: better probe one of images alone.
    """
    num_ids = prior.shape.most_text_ids if prior.reads == "text" else _PREFIX_IDS[prior.reads]
    return prior.without(torch.zeros(num_rows, num_ids, dtype=torch.long))


def block_features(
    prior: DecoderOnly, parts: dict[str, np.ndarray], batch_size: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Yield for each block, from 0 on, what it makes of each part's image tokens (N, I), float32 (N, D).

    So many blocks are held at once as memory is granted; where that is not all, the network runs over the rows again.
    """
    num_layers, width = len(prior.decoder) + 1, prior.shape.width
    num_rows = sum(map(len, parts.values()))
    at_once = max(1, min(num_layers, _MOST_BYTES // (4 * num_rows * width)))
    prior.to(device)
    for first in range(0, num_layers, at_once):
        layers = slice(first, min(first + at_once, num_layers))
        held = {name: _held_features(prior, tokens, layers, batch_size) for name, tokens in parts.items()}
        for place in range(layers.stop - layers.start):
            yield {name: features[place] for name, features in held.items()}


@torch.no_grad()
def _held_features(prior: DecoderOnly, image_tokens: np.ndarray, layers: slice, batch_size: int) -> Tensor:
    """Return features of some layers, float32 (layers, N, D), in the machine's memory."""
    count, device = len(image_tokens), prior.to_logits.weight.device
    held = torch.empty(layers.stop - layers.start, count, prior.shape.width)
    with show_progress("features", count) as bar:
        for start in range(0, count, batch_size):
            tokens = torch.from_numpy(image_tokens[start : start + batch_size].astype(np.int64)).to(device)
            found = prior.features(no_condition(prior, len(tokens)).to(device), tokens)
            held[:, start : start + len(tokens)] = found[layers].cpu()
            bar.update(start + len(tokens), "rows")
    return held


def pixel_features(tokenizer: ImageTokenizer, image_tokens: np.ndarray, side_px: int, batch_size: int) -> Tensor:
    """Return what tokens (N, I) show, as float32 (N, S * S * 3) from 0 to 1, of at most so many pixels a side."""
    side = min(tokenizer.spec.image_side, side_px)
    held = torch.empty(len(image_tokens), 3 * side * side)
    for start in range(0, len(image_tokens), batch_size):
        pictures = tokenizer.decode(image_tokens[start : start + batch_size].astype(np.int64))
        smaller = F.interpolate(pictures.permute(0, 3, 1, 2).float() / 255, size=(side, side), mode="area")
        held[start : start + len(pictures)] = smaller.flatten(1)
    return held
