"""How well an image tokenizer draws pictures again, in figures and in a picture."""

import copy

import numpy as np
import torch
import torch.nn.functional as F

from model.tokenizers import Execution, ImageTokenizer, TokenizerNetwork
from model.tokenizers.code_usage import CodeUsage
from model.training.image_config import ImagesConfig
from model.training.loop import Evaluation
from parti_data.image_dataset import ImageDataset

DRAWN = "reconstructions"
RECONSTRUCTIONS = f"{DRAWN}.png"
DRAWN_PICTURES = 12
LEAST_ERROR = 1e-10
"""What pictures that come back exactly count as, 100 dB."""


def freeze(network: TokenizerNetwork, device: torch.device) -> ImageTokenizer:
    """Return the tokenizer of a network as it is now, apart from what goes on being trained."""
    return ImageTokenizer(copy.deepcopy(network), Execution.model_validate({"device": device.type}))


def measured_pictures(held_out: ImageDataset, config: ImagesConfig) -> np.ndarray:
    """Return the pictures that figures are measured on, uint8 (B, S, S, C)."""
    return held_out.pictures(range(min(config.measured_pictures, len(held_out))))


def evaluate_tokenizer(tokenizer: ImageTokenizer, pictures: np.ndarray) -> Evaluation:
    """Return the figures of all pictures, and a row of what the first ones come back as."""
    drawn = tokenizer.decode(tokenizer.encode(pictures[:DRAWN_PICTURES])).numpy()
    return Evaluation(measure_tokenizer(tokenizer, pictures), {DRAWN: np.concatenate(list(drawn), axis=1)})


def measure_tokenizer(tokenizer: ImageTokenizer, pictures: np.ndarray) -> dict[str, float]:
    """Return the PSNR in dB of the mean squared error over all pictures, and the share and perplexity of the codes."""
    tokens = tokenizer.encode(pictures)
    error = F.mse_loss(tokenizer.decode(tokens).float(), torch.from_numpy(pictures).float()) / 255**2
    usage = CodeUsage(tokenizer.spec.codebook_size)
    usage.update(torch.bincount(tokens.flatten(), minlength=tokenizer.spec.codebook_size))  # of this rank alone
    psnr_db = round(float(-10 * torch.log10(error.clamp(min=LEAST_ERROR))), 3)
    return {"psnr_db": psnr_db, "code_usage": round(usage.share(), 4), "perplexity": round(usage.perplexity(), 1)}


def draw_reconstructions(tokenizer: ImageTokenizer, pictures: np.ndarray) -> np.ndarray:
    """Return a picture with the first originals in the upper row and their reconstructions in the lower."""
    pictures = pictures[:DRAWN_PICTURES]
    decoded = tokenizer.decode(tokenizer.encode(pictures)).numpy()
    return np.concatenate([np.concatenate(list(row), axis=1) for row in (pictures, decoded)])
