"""Preprocessing recipes by name: pictures of any size to the square that a tokenizer was made for.

Each gives what a project's own code gives, pixel for pixel, with Pillow 13, of pictures at most 16 times as long as
wide; of longer ones the middle is cut out first. `RECIPES` lists them. None refuses a picture: what is smaller than the
square is enlarged, as all of the projects but OpenAI's do it, whose code raises there. Who wants such pictures left out
says so to filter, by `rules.min_side_px`, and finds them in its ledger.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from PIL import Image

from parti_data.errors import ConfigError

RESIZE_RECIPE = "resize_center"
"""Of our own tokenizers."""
TEN_CROP_RANGE = 1.1
"""How much longer than a crop the square is that ten crops are cut from. Source: LlamaGen, extract_codes_c2i.py."""
_VAR_RANGE = 1.125
_LONGEST = 16
"""Of a picture that is more times longer than wide, the middle is cut out first: resizing all of a strip of one pixel
would take gigabytes. Its square may differ from the project's."""

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
    return _cut_middle(pixels, side, side, _Way(_truncated, _with_filter(Image.Resampling.BILINEAR), _rounded))


def squash(pixels: np.ndarray, side: int) -> View:
    """Return the whole picture as a square, bilinear with antialiasing: torchvision's Resize((S, S))."""
    height, width = pixels.shape[:2]
    squashed = _resize(Image.fromarray(pixels), (side, side), Image.Resampling.BILINEAR)
    return View(np.asarray(squashed), (0, 0, width, height))


def adm(pixels: np.ndarray, side: int) -> View:
    """Return the middle square, halved as long as that leaves enough, then bicubic: ADM's center_crop_arr."""
    pixels, (x, y) = _without_ends(pixels)
    halved = Image.fromarray(pixels)
    while min(halved.size) >= 2 * side:
        halved = _resize(halved, (halved.width // 2, halved.height // 2), Image.Resampling.BOX)
    way = _Way(_nearest, _with_filter(Image.Resampling.BICUBIC), _floored)
    view = _cut_middle(np.asarray(halved), side, side, way)
    length, factor = min(pixels.shape[:2]), min(pixels.shape[:2]) / min(halved.size)
    left, top = (
        min(round(at * factor), whole - length) for at, whole in zip(view.box[:2], pixels.shape[1::-1], strict=True)
    )
    return View(view.pixels, (x + left, y + top, length, length))


def dalle(pixels: np.ndarray, side: int) -> View:
    """Return the middle square by Lanczos: the dVAE's preprocessing, which raises where the short side is below S."""
    return _cut_middle(pixels, side, side, _Way(_nearest, _with_filter(Image.Resampling.LANCZOS), _rounded))


def chameleon(pixels: np.ndarray, side: int) -> View:
    """Return the middle square by Lanczos, at most a pixel further left or up than `dalle`."""
    return _cut_middle(pixels, side, side, _Way(_nearest, _with_filter(Image.Resampling.LANCZOS), _floored))


def var(pixels: np.ndarray, side: int) -> View:
    """Return the middle, a ninth cut off along the short side, by Lanczos: VAR's validation transform."""
    short = round(_VAR_RANGE * side)
    return _cut_middle(pixels, side, short, _Way(_truncated, _with_filter(Image.Resampling.LANCZOS), _rounded))


def taming(pixels: np.ndarray, side: int) -> View:
    """Return the middle square, bilinear without antialiasing: albumentations' SmallestMaxSize and CenterCrop.

    Needs OpenCV; raises ConfigError where it is missing.
    """
    return _cut_middle(pixels, side, side, _Way(_nearest, _resize_opencv, _floored))


def ten_crop(pixels: np.ndarray, side: int, recipe: str = "adm") -> list[View]:
    """Return ten views of a recipe's square of 1.1 S, in torchvision's order: its corners (upper left, upper right,
    lower left, lower right) and its middle, then those of the mirrored square. With `adm` it is LlamaGen's ten-crop.
    """
    large = int(side * TEN_CROP_RANGE)
    square = apply_recipe(recipe, pixels, large)
    slack, centre = large - side, round((large - side) / 2)
    places = [(0, 0), (slack, 0), (0, slack), (slack, slack), (centre, centre)]
    views = []
    for flipped in (False, True):
        source = square.pixels[:, ::-1] if flipped else square.pixels
        for left, top in places:
            crop = source[top : top + side, left : left + side]
            place = slack - left if flipped else left, top
            views.append(View(crop, _box_within(square.box, place, side, large), flipped))
    return views


def _box_within(outer: Box, place: tuple[int, int], side: int, large: int) -> Box:
    """Return the box of a crop at a place of the square, `large` pixels wide, that an outer box was resized to."""
    (x, width), (y, height) = (
        _stretch(start, length, at, side, large) for start, length, at in zip(outer[:2], outer[2:], place, strict=True)
    )
    return x, y, width, height


def _stretch(start: int, length: int, at: int, side: int, large: int) -> tuple[int, int]:
    """Return where `side` of `large` pixels lie, from `at` on, in a stretch of another length, and their number."""
    inner = max(round(length * side / large), 1)
    return start + min(round(at * length / large), length - inner), inner


class _Way(NamedTuple):
    """What the recipes of a middle square differ by."""

    scale: Callable[[Size, int], Size]
    """The size with a short side."""
    resize: Callable[[np.ndarray, Size], np.ndarray]
    halve: Callable[[int], int]
    """Where the middle begins."""


def _cut_middle(pixels: np.ndarray, side: int, short: int, way: _Way) -> View:
    """Return the middle square, of S pixels, of the picture resized to a short side."""
    pixels, (x, y) = _without_ends(pixels)
    height, width = pixels.shape[:2]
    size = way.scale((width, height), short)
    left, top = way.halve(size[0] - side), way.halve(size[1] - side)
    resized = way.resize(pixels, size)[top : top + side, left : left + side]
    least = min(width, height)
    length = max(round(least * side / short), 1)
    place = min(round(left * least / short), width - length), min(round(top * least / short), height - length)
    return View(resized, (x + place[0], y + place[1], length, length))


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


def _resize(image: Image.Image, size: Size, filter: Image.Resampling) -> Image.Image:
    """Return a picture resized as Pillow 13 does it, whatever the version of Pillow.

    Where the height shrinks by more than twice what the width does, Pillow 13 begins with it, as Pillow 12 does in
    strips alone, and all else with the width; the order moves some values by one level.
    """
    (width, height), (new_width, new_height) = image.size, size
    is_height_first = new_height < height and height - new_height > 2 * (width - new_width)
    if is_height_first:
        image = image.resize((width, new_height), filter)
    elif height > 100 * width:
        image = image.resize((new_width, height), filter)
    return image.resize(size, filter)


def _with_filter(filter: Image.Resampling) -> Callable[[np.ndarray, Size], np.ndarray]:
    return lambda pixels, size: np.asarray(_resize(Image.fromarray(pixels), size, filter))


def _resize_opencv(pixels: np.ndarray, size: Size) -> np.ndarray:
    return _opencv().resize(np.ascontiguousarray(pixels), size, interpolation=_opencv().INTER_LINEAR)


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
