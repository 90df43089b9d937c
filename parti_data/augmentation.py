"""Random square crops: DALL-E's two listings, for any side.

Both cut a square of the short side, resize it to t x t and cut S x S of that; here the region that is left at the end
is drawn in whole source pixels and resized once, so that its box tells exactly what the view shows. The listings
resize with TensorFlow's AREA on a grid of aligned corners, which moves a pixel by at most s/t - 1 of a source pixel.
Here the grid is the usual one, and the filter BILINEAR with antialiasing, the nearest to AREA of Pillow's where t is
close to s: a detailed picture of 300 px made 270 differs by 1.6 grey levels in the mean, 1.5 of them by the grid; with
Pillow's BOX, which never divides a pixel, it is 7.0.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from parti_data.recipes import View


class RandomCrop(NamedTuple):
    """What may be cut out of a picture whose short side is s."""

    least_zoom: float
    """The least t, in S."""
    most_zoom: float
    """The greatest t, in S; both at most s, and at least S."""
    near_center: bool
    """The square of the short side leaves out between 3/8 and 5/8 of the rest on either side; else anything."""
    may_flip: bool
    """Half of the views are mirrored."""


LISTING_1 = RandomCrop(9 / 8, 12 / 8, near_center=False, may_flip=True)
"""For training a tokenizer. Source: DALL-E, appendix A.2, listing 1."""
LISTING_2 = RandomCrop(1.0, 9 / 8, near_center=True, may_flip=False)
"""For training a prior on captions: a picture may hold text. Source: DALL-E, appendix B.2, listing 2."""


def cut_random(pixels: np.ndarray, side: int, crop: RandomCrop, generator: np.random.Generator) -> View:
    """Return a random view of uint8 (height, width, 3): uint8 (S, S, 3), its box, and whether it is mirrored.

    Pictures with a short side below S are enlarged; the listings fail there.
    """
    height, width = pixels.shape[:2]
    short = min(height, width)
    x, y = (_draw_offset(length - short, crop.near_center, generator) for length in (width, height))
    length = _draw_length(short, side, crop, generator)
    inner_x, inner_y = generator.integers(0, short - length, size=2, endpoint=True).tolist()
    x, y = x + inner_x, y + inner_y
    region = Image.fromarray(pixels[y : y + length, x : x + length])
    image = region.resize((side, side), Image.Resampling.BILINEAR)
    flipped = crop.may_flip and bool(generator.integers(2))
    cut = np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else image)
    return View(cut, (x, y, length, length), flipped)


def _draw_offset(slack: int, near_center: bool, generator: np.random.Generator) -> int:
    """Return where the square of the short side begins, of so many pixels that it leaves out."""
    if not near_center:
        return int(generator.integers(0, slack, endpoint=True))
    first = 3 * slack // 8
    return int(generator.integers(first, max(first + 1, 5 * slack // 8)))


def _draw_length(short: int, side: int, crop: RandomCrop, generator: np.random.Generator) -> int:
    """Return the side, in source pixels, of the region that becomes the view."""
    least, most = (min(short, round(zoom * side)) for zoom in (crop.least_zoom, crop.most_zoom))
    resized = max(int(generator.integers(least, most, endpoint=True)), side)
    return min(max(round(short * side / resized), 1), short)
