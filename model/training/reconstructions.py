"""How well an image tokenizer draws pictures again, in figures and in a picture."""

import numpy as np
import torch
import torch.nn.functional as F

from model.tokenizers import ImageTokenizer
from model.tokenizers.code_usage import CodeUsage


def measure_tokenizer(tokenizer: ImageTokenizer, pictures: np.ndarray) -> dict[str, float]:
    """Return the PSNR in dB of the mean squared error over all pictures, and the share and perplexity of the codes."""
    tokens = tokenizer.encode(pictures)
    error = F.mse_loss(tokenizer.decode(tokens).float(), torch.from_numpy(pictures).float()) / 255**2
    usage = CodeUsage(tokenizer.spec.codebook_size)
    usage.update(torch.bincount(tokens.flatten(), minlength=tokenizer.spec.codebook_size))  # of this rank alone
    psnr_db = round(float(-10 * torch.log10(error)), 3)
    return {"psnr_db": psnr_db, "code_usage": round(usage.share(), 4), "perplexity": round(usage.perplexity(), 1)}


def draw_reconstructions(tokenizer: ImageTokenizer, pictures: np.ndarray) -> np.ndarray:
    """Return a picture with originals in the upper row and their reconstructions in the lower."""
    decoded = tokenizer.decode(tokenizer.encode(pictures)).numpy()
    return np.concatenate([np.concatenate(list(row), axis=1) for row in (pictures, decoded)])
