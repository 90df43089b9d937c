"""How well an upsampler enlarges what a tokenizer draws, in figures and in a picture, beside bicubic enlarging.

Source of the way from an original to what is enlarged: Parti, arXiv 2206.10789v1, figure 4.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.tokenizers import ImageTokenizer
from model.tokenizers.tokenizer import to_bytes
from model.training.reconstructions import LEAST_ERROR
from model.upsamplers import Upsampler
from parti_data.image_dataset import ImageDataset

Shrinking = Literal["nearest", "area"]
_AT_ONCE = 16
"""Large pictures in memory while they are measured."""
_MOST_DRAWN, _MOST_DRAWN_PX = 12, 2048


class Redrawing(NamedTuple):
    """A tokenizer that draws small what comes large: the way that a picture takes to an upsampler."""

    tokenizer: ImageTokenizer
    scale: int
    shrinking: Shrinking

    def reconstruct(self, originals: np.ndarray) -> np.ndarray:
        """Return uint8 (B, S, S, 3) for uint8 (B, scale S, scale S, 3), in float32 whatever the surroundings."""
        with torch.autocast(self.tokenizer.execution.device, enabled=False):
            return self.tokenizer.decode(self.tokenizer.encode(self.shrink(originals))).numpy()

    def shrink(self, originals: np.ndarray) -> np.ndarray:
        """Return uint8 (B, S, S, 3): of each square of pixels the upper left one, or their mean."""
        if self.shrinking == "nearest":
            return originals[:, :: self.scale, :: self.scale]
        pixels = torch.from_numpy(originals).movedim(-1, 1).float() / 255
        return to_bytes(F.avg_pool2d(pixels, self.scale)).movedim(1, -1).numpy()

    def enlarge_bicubic(self, pictures: np.ndarray) -> np.ndarray:
        """Return uint8 (B, scale S, scale S, 3), each small pixel's centre where shrinking took it from.

        A nearest pixel is the upper left of its square; put in the middle, as enlarging usually does, it would be off
        by half of a small pixel, and be easy to beat.
        """
        first = 0.0 if self.shrinking == "nearest" else (self.scale - 1) / 2
        pixels = torch.from_numpy(pictures).movedim(-1, 1).float() / 255
        return to_bytes(_bicubic(pixels, self.scale, first)).movedim(1, -1).numpy()


def _bicubic(pixels: Tensor, scale: int, first: float) -> Tensor:
    """Return (B, C, scale S, scale S), the centre of small pixel 0 at large pixel `first` of each side."""
    side = pixels.shape[-1]
    places = (torch.arange(scale * side) - first) / scale
    places = 2 * places / max(side - 1, 1) - 1  # -1 and 1 are the centres of the first and the last pixel
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    grid = torch.stack([columns, rows], -1).expand(len(pixels), -1, -1, -1)
    return F.grid_sample(pixels, grid, mode="bicubic", padding_mode="border", align_corners=True)


def measure_upsampler(
    upsampler: Upsampler, redrawing: Redrawing, held_out: ImageDataset, count: int
) -> dict[str, float]:
    """Return the PSNR in dB of the mean squared error over the first pictures: the upsampler's, and bicubic's of the
    same reconstructions.
    """
    errors, num_values = np.zeros(2), 0
    for start in range(0, count, _AT_ONCE):
        originals = held_out.pictures(range(start, min(start + _AT_ONCE, count)))
        reconstructed = redrawing.reconstruct(originals)
        made = upsampler.enlarge(reconstructed), redrawing.enlarge_bicubic(reconstructed)
        errors += [np.square(pictures.astype(np.float64) - originals).sum() for pictures in made]
        num_values += originals.size
    errors = np.maximum(errors / (255**2 * num_values), LEAST_ERROR)
    ours, bicubic = (round(float(-10 * np.log10(error)), 3) for error in errors)
    return {"psnr_db": ours, "bicubic_psnr_db": bicubic}


def draw_enlargements(upsampler: Upsampler, redrawing: Redrawing, held_out: ImageDataset, count: int) -> np.ndarray:
    """Return a picture of four rows: reconstructions in large pixels, bicubic, the upsampler's, and originals.

    Of the first pictures, as many as are wide enough to look at.
    """
    side = redrawing.tokenizer.spec.image_side * redrawing.scale
    originals = held_out.pictures(range(min(count, max(1, min(_MOST_DRAWN, _MOST_DRAWN_PX // side)))))
    reconstructed = redrawing.reconstruct(originals)
    in_squares = reconstructed.repeat(redrawing.scale, 1).repeat(redrawing.scale, 2)
    rows = (in_squares, redrawing.enlarge_bicubic(reconstructed), upsampler.enlarge(reconstructed), originals)
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
