"""What seems to be mixed up where pictures do not come back from their tokens as they were."""

import numpy as np

from model.tokenizers.tokenizer import ImageTokenizer
from parti_data.quality import MIXUP_DB, find_swap, psnr_db, swapped

PIXEL_RANGES = ((0.0, 1.0), (-1.0, 1.0))
"""Those that projects feed their networks, and confuse."""

TRIED = 4
"""Pictures that another range or order of channels is tried on: each try encodes and decodes them."""


def find_mixup(tokenizer: ImageTokenizer, originals: np.ndarray, decoded: np.ndarray, is_tried: bool) -> str:
    """Say which channels or range would have fitted better, nothing where none would.

    `decoded` is what came of the originals' tokens, uint8 (B, S, S, 3) both. Where these are not swapped, the tokenizer
    may be tried on the first `TRIED` with other pixel ranges, and with red and blue of the pictures swapped.
    """
    swap = find_swap(originals, decoded)
    if swap or not is_tried:
        return swap
    originals, decoded = originals[:TRIED], decoded[:TRIED]
    least = psnr_db(originals, decoded) + MIXUP_DB
    for low, high in PIXEL_RANGES:
        if (low, high) != tuple(tokenizer.spec.pixel_range):
            found = psnr_db(originals, tokenizer.reconstruct_in_range(originals, (low, high)).numpy())
            if found >= least:
                return f"the pixel range looks wrong ({found:g} dB with {low:g} to {high:g})"
    exchanged = np.ascontiguousarray(swapped(originals))
    found = psnr_db(exchanged, tokenizer.decode(tokenizer.encode(exchanged)).numpy())
    if found >= least:
        return f"red and blue look swapped ({found:g} dB for pictures with them swapped)"
    return ""
