"""How well embeddings tell pairs from the other rows of a batch, of all ranks: the loss, and what is found by them.

Source: CLIP, arXiv 2103.00020, figure 3, with one change: captions recur, and images have several views. An image fits
every caption that reads as its own does, so such a row, and one of the same image, is no wrong answer. It is no other
right one either: it is left out, so that a batch in which nothing recurs has CLIP's loss.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.contrastive import Embeddings
from model.training.ranks import Ranks

_COMPARED_ROWS = 256
"""With all others at a time."""


def mark_texts(texts: Iterable[str]) -> np.ndarray:
    """Return an int64 for each text, the same for equal ones."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<i8")


def mark_rows(captions: Iterable[str], keys: Iterable[str]) -> np.ndarray:
    """Return int64 (B, 2) by which rows with the same caption, or of the same image, are known."""
    return np.stack([mark_texts(captions), mark_texts(keys)], 1)


def contrastive_loss(embeddings: Embeddings, marks: Tensor, log_scale: Tensor, ranks: Ranks) -> Tensor:
    """Return the loss of this rank's rows (B) against those of all ranks, in nats: half each way.

    `marks` (B, 2) are as `mark_rows` makes them. The mean over ranks is the loss of the whole batch, and the mean of
    the gradients its gradient.
    """
    with torch.autocast(log_scale.device.type, enabled=False):  # similarities times 100 have no bits to spare
        texts, images = embeddings
        all_texts, all_images = ranks.gather_rows(torch.cat(embeddings, 1)).chunk(2, 1)
        own = torch.arange(len(texts), device=texts.device) + ranks.rank * len(texts)
        left_out = is_alike(marks, ranks.gather_rows(marks))
        left_out[torch.arange(len(own), device=own.device), own] = False
        sides = ((texts, all_images), (images, all_texts))
        return sum(
            0.5 * F.cross_entropy((log_scale.exp() * mine @ others.T).masked_fill(left_out, -torch.inf), own)
            for mine, others in sides
        )  # type: ignore[return-value]


def is_alike(marks: Tensor, others: Tensor) -> Tensor:
    """Return bool (B, N), True where rows marked (B, 2) and (N, 2) have the same caption or the same image."""
    return (marks[:, None, 0] == others[:, 0]) | (marks[:, None, 1] == others[:, 1])


def retrieval_accuracy(embeddings: Embeddings, marks: Tensor) -> dict[str, float]:
    """Return the shares of N rows whose caption is nearest to its image, and whose image to its caption, of all N.

    Another row of the same caption or image is as right.
    """
    texts, images = embeddings
    found = {"text_to_image_accuracy": (texts, images), "image_to_text_accuracy": (images, texts)}
    figures = {}
    for name, (asked, answers) in found.items():
        nearest = torch.cat([(some @ answers.T).argmax(1) for some in asked.split(_COMPARED_ROWS)])
        figures[name] = round((marks == marks[nearest]).any(-1).double().mean().item(), 4)
    return figures
