"""Preprocessing recipes by name: pictures of any size to the square that a tokenizer was made for.

Each is what a project's own code does, pixel for pixel; `RECIPES` lists them. None refuses a picture: what is smaller
than the square is enlarged, as all of the projects but OpenAI's do it, whose code raises there.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from PIL import Image

from parti_data.errors import ConfigError

DEFAULT_RECIPE = "resize_center"
TEN_CROP_RANGE = 1.1
"""How much longer than a crop the square is that ten crops are cut from. Source: LlamaGen, extract_codes_c2i.py."""
_VAR_RANGE = 1.125
_LONGEST = 16
"""Of a picture that is more times longer than wide, the middle is cut out first: resizing all of a strip of one pixel
would take gigabytes."""

Box = tuple[int, int, int, int]
"""x, y, width, height in the given pixels."""
Size = tuple[int, int]
"""Width and height."""


class View(NamedTuple):
    """A square cut from a picture."""

    pixels: np.ndarray
    """uint8 (S, S, 3)."""
    box: Box
    flipped: bool = False
    """Left and right are swapped."""


class Recipe(NamedTuple):
    """A way to a square, and the library that its pixels depend on."""

    make: Callable[[np.ndarray, int], View]
    package: str = "pillow"

    @property
    def library(self) -> str:
        """The name and version of the library, such as pillow 12.3.0; raises ConfigError where it is missing."""
        if self.package == "opencv":
            return f"opencv {_opencv().__version__}"
        return f"{self.package} {version(self.package)}"


def apply_recipe(name: str, pixels: np.ndarray, side: int) -> View:
    """Return the square that a recipe makes of uint8 (height, width, 3); raises ConfigError."""
    return find_recipe(name).make(pixels, side)


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a name; raises ConfigError."""
    if name not in RECIPES:
        raise ConfigError(f"resize recipe: expected one of {', '.join(RECIPES)}, found {name!r}; choose one of them")
    return RECIPES[name]


def resize_center(pixels: np.ndarray, side: int) -> View:
    """Return the middle square, bilinear with antialiasing: torchvision's Resize(S) and CenterCrop(S) of a picture."""
    return _cut_middle(pixels, side, side, _truncated, _pillow(Image.Resampling.BILINEAR), _rounded)


def squash(pixels: np.ndarray, side: int) -> View:
    """Return the whole picture as a square, bilinear with antialiasing: torchvision's Resize((S, S))."""
    height, width = pixels.shape[:2]
    return View(_pillow(Image.Resampling.BILINEAR)(pixels, (side, side)), (0, 0, width, height))


def adm(pixels: np.ndarray, side: int) -> View:
    """Return the middle square, halved as long as that leaves enough, then bicubic: ADM's center_crop_arr."""
    return _cut_middle(pixels, side, side, _nearest, _resize_adm, _floored)


def dalle(pixels: np.ndarray, side: int) -> View:
    """Return the middle square by Lanczos: the dVAE's preprocessing, which raises where the short side is below S."""
    return _cut_middle(pixels, side, side, _nearest, _pillow(Image.Resampling.LANCZOS), _rounded)


def chameleon(pixels: np.ndarray, side: int) -> View:
    """Return the middle square by Lanczos, half a pixel further left or up than `dalle` where halves are rounded."""
    return _cut_middle(pixels, side, side, _nearest, _pillow(Image.Resampling.LANCZOS), _floored)


def var(pixels: np.ndarray, side: int) -> View:
    """Return the middle, a ninth cut off along the short side, by Lanczos: VAR's validation transform."""
    short = round(_VAR_RANGE * side)
    return _cut_middle(pixels, side, short, _truncated, _pillow(Image.Resampling.LANCZOS), _rounded)


def taming(pixels: np.ndarray, side: int) -> View:
    """Return the middle square, bilinear without antialiasing: albumentations' SmallestMaxSize and CenterCrop.

    Needs OpenCV; raises ConfigError where it is missing.
    """
    return _cut_middle(pixels, side, side, _nearest, _resize_opencv, _floored)


def ten_crop(pixels: np.ndarray, side: int) -> list[View]:
    """Return ten views: corners (upper left, upper right, lower left, lower right) and centre, then those of the mirrored
    picture in that order, of `adm`'s square of 1.1 S: LlamaGen's ten-crop, in torchvision's order.
    """
    large = int(side * TEN_CROP_RANGE)
    square = adm(pixels, large)
    slack, centre = large - side, round((large - side) / 2)
    places = [(0, 0), (slack, 0), (0, slack), (slack, slack), (centre, centre)]
    views = []
    for flipped in (False, True):
        source = square.pixels[:, ::-1] if flipped else square.pixels
        for left, top in places:
            crop = np.ascontiguousarray(source[top : top + side, left : left + side])
            views.append(View(crop, _inside(square.box, slack - left if flipped else left, top, side, large), flipped))
    return views


def _inside(outer: Box, left: int, top: int, side: int, large: int) -> Box:
    """Return the box of a crop of the square that an outer box was resized to."""
    x, y, length, _ = outer
    inner = round(length * side / large)
    return x + min(round(left * length / large), length - inner), y + min(round(top * length / large), length - inner), inner, inner  # fmt: skip


def _cut_middle(
    pixels: np.ndarray,
    side: int,
    short: int,
    scale: Callable[[Size, int], Size],
    resize: Callable[[np.ndarray, Size], np.ndarray],
    halve: Callable[[int], int],
) -> View:
    """Return the middle square of the picture resized to a short side: what the recipes share."""
    pixels, (x, y) = _without_ends(pixels)
    height, width = pixels.shape[:2]
    new_width, new_height = scale((width, height), short)
    left, top = halve(new_width - side), halve(new_height - side)
    resized = resize(pixels, (new_width, new_height))[top : top + side, left : left + side]
    length = min(width, height)
    inner = max(round(length * side / short), 1)
    box_x, box_y = min(round(left * length / short), width - inner), min(round(top * length / short), height - inner)
    return View(np.ascontiguousarray(resized), (x + box_x, y + box_y, inner, inner))


def _without_ends(pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the middle of a strip, and where it lies; anything else as it is."""
    height, width = pixels.shape[:2]
    longest = _LONGEST * min(height, width)
    x, y = max(width - longest, 0) // 2, max(height - longest, 0) // 2
    return pixels[y : y + longest, x : x + longest], (x, y)


def _truncated(size: Size, short: int) -> Size:
    """Return the size with that short side as torchvision's Resize computes it."""
    least = min(size)
    return int(short * size[0] / least), int(short * size[1] / least)


def _nearest(size: Size, short: int) -> Size:
    scale = short / min(size)
    return round(size[0] * scale), round(size[1] * scale)


def _rounded(slack: int) -> int:
    """Return where the middle begins as torchvision's CenterCrop computes it."""
    return round(slack / 2)


def _floored(slack: int) -> int:
    return slack // 2


def _pillow(resample: Image.Resampling) -> Callable[[np.ndarray, Size], np.ndarray]:
    def resize(pixels: np.ndarray, size: Size) -> np.ndarray:
        if pixels.shape[1::-1] == size:
            return pixels
        return np.asarray(Image.fromarray(pixels).resize(size, resample))

    return resize


def _resize_adm(pixels: np.ndarray, size: Size) -> np.ndarray:
    image, short = Image.fromarray(pixels), min(size)
    while min(image.size) >= 2 * short:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def _resize_opencv(pixels: np.ndarray, size: Size) -> np.ndarray:
    cv2 = _opencv()
    return cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_LINEAR)


@cache
def _opencv():
    try:
        import cv2
    except ModuleNotFoundError:
        raise ConfigError(
            "resize recipe taming: expected OpenCV, found none; pip install 'parti[opencv]' or choose another recipe"
        ) from None
    return cv2


RECIPES = {
    "resize_center": Recipe(resize_center),
    "squash": Recipe(squash),
    "adm": Recipe(adm),
    "dalle": Recipe(dalle),
    "chameleon": Recipe(chameleon),
    "var": Recipe(var),
    "taming": Recipe(taming, "opencv"),
}
"""Every recipe that makes one square of a picture."""
