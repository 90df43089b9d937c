"""The loss of a prior on token shards that it was not trained on, and how far it may be off."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from model.evaluation.evaluate_config import HeldOutLossSettings
from model.evaluation.measured import Measured
from model.evaluation.share_interval import NORMAL_95, mean_by_image
from model.priors.prior import Prior
from model.priors.prior_file import LoadedPrior, load_prior
from model.training.token_batches import as_tensors, on_device
from parti_data.errors import ShardError
from parti_data.progress import show_progress
from parti_data.token_dataset import TokenBatch, TokenDataset

LOSSES = "held_out_losses.parquet"


class Estimate(NamedTuple):
    """A mean over images, in nats a token."""

    mean: float
    standard_error: float
    num_images: int

    @property
    def half_width(self) -> float:
        """What the 95% confidence interval extends to either side."""
        return NORMAL_95 * self.standard_error


def estimate_loss(keys: list[str], nats: np.ndarray) -> Estimate:
    """Return the mean of rows' losses (N,) over images, and its standard error: the deviation over sqrt(images).

    Tokens of an image depend on each other, as do views of one: so all rows of a key count once, by their mean. The
    interval is about the data, not about training: another seed's prior may well lie outside. Raises ShardError for
    fewer than two images.
    """
    images = mean_by_image(keys, nats)
    if len(images) < 2:
        raise ShardError(f"held-out loss: expected at least two images, found {len(images)}; tokenize more")
    return Estimate(float(images.mean()), float(images.std(ddof=1) / math.sqrt(len(images))), len(images))


def measure_held_out_loss(prior: LoadedPrior, dataset: TokenDataset, device: torch.device) -> Measured:
    """Return the loss on each row once, in nats a token, and where that is a likelihood in bits an image, with 95%
    confidence intervals.
    """
    prior.model.to(device)
    keys: list[str] = []
    views: list[int] = []
    losses = []
    with show_progress("held-out loss", dataset.num_rows) as bar:
        for batch, nats in _row_losses(prior.model, dataset, device):
            keys += batch.keys
            views += batch.views.tolist()
            losses.append(nats)
            bar.update(len(keys), "rows")
    dataset.close()
    nats = np.concatenate(losses)
    found = estimate_loss(keys, nats)
    bits = prior.model.shape.num_tokens / math.log(2)
    figures = {"held_out_nats_a_token": found.mean, "held_out_nats_a_token_interval": found.half_width}
    if prior.model.has_likelihood:
        figures["held_out_bits_an_image"] = bits * found.mean
        figures["held_out_bits_an_image_interval"] = bits * found.half_width
    table = pa.table({"key": keys, "view": views, "nats_a_token": nats})
    return Measured(figures, {"held_out_rows": len(nats), "held_out_images": found.num_images}, {LOSSES: table})


@torch.inference_mode()
def _row_losses(model: Prior, dataset: TokenDataset, device: torch.device) -> Iterator[tuple[TokenBatch, np.ndarray]]:
    """Yield each batch of an epoch with the mean cross-entropy float64 (B,) of its rows' tokens."""
    for batch in dataset.epoch(0):
        found = on_device(as_tensors(batch, model), device)
        yield batch, model.row_losses(found.condition, found.image_tokens).cpu().numpy()


def open_held_out(settings: HeldOutLossSettings) -> tuple[LoadedPrior, TokenDataset]:
    """Return the prior and the shards; raises ShardError where those are of other tokenizers than its own."""
    prior = load_prior(settings.prior)
    longest = min(settings.text.length, prior.model.shape.most_text_ids or settings.text.length)
    text = settings.text.model_copy(update={"length": longest, "bpe_dropout": 0.0})
    dataset = TokenDataset(settings.tokens, settings.batch_size, text=text)
    marks = [("image tokenizer", prior.image_tokenizer, dataset.metadata.image_tokenizer)]
    if prior.model.reads == "text":
        marks.append(("text tokenizer", prior.text_tokenizer, dataset.text_tokenizer))
    for kind, wanted, found in marks:
        if wanted != found:
            raise ShardError(
                f"{settings.tokens}: expected tokens of the {kind} {wanted[:12]} that {settings.prior} was trained "
                f"with, found {found[:12]}; tokenize the held-out images with it"
            )
    return prior, dataset
