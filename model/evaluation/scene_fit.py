"""The scene whose drawing comes nearest to a picture, and what is left of the picture beside it.

For pictures too small for `judge`: at 16 px a shape is five to seven pixels wide, most of them edges, and outlines tell
it wrongly in every other picture. But objects stand on a grid, so it is known what each looks like at each place; the
one that accounts for most is taken away, then the next.
"""

import math
from typing import NamedTuple

import numpy as np

from model.evaluation.judge import nearest_colour
from parti_data.recipes import resize_center
from parti_data.scenes import BACKGROUNDS, COLOURS, GRID, MOST_OBJECTS, SHAPES, SIZES, Scene, SceneObject, draw_scene

_LEAST_GAIN = 0.3
"""Of an object's own squares, what it has to account for to be one; the rest may be of others beside it."""


class Fit(NamedTuple):
    """What is in a picture."""

    background: str
    objects: tuple[SceneObject, ...]
    """Each exactly where it stands, what accounts for most first."""
    distances: np.ndarray
    """float64 (S, S), of each pixel from the drawing of all this, Euclidean in RGB."""


class SceneFitter:
    """Fits scenes to pictures of one side; `drawn_px` is the side that they were drawn at, before they were resized."""

    def __init__(self, side: int, drawn_px: int):
        self.side = side
        self._looks = [SceneObject(shape, "", size, *at) for size in SIZES for at in _places(size) for shape in SHAPES]
        self._covers = np.stack([_cover(look, side, drawn_px) for look in self._looks])  # (M, S * S)
        self._squares = np.square(self._covers).sum(1)
        self._numbers = {(look.shape, look.size, look.x, look.y): n for n, look in enumerate(self._looks)}

    def fit(self, picture: np.ndarray) -> Fit:
        """Return what is in a picture uint8 (S, S, 3)."""
        pixels = picture.astype(np.float64)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        name = nearest_colour(np.asarray(np.median(border, axis=0)), BACKGROUNDS)
        background = np.array(BACKGROUNDS[name], np.float64)
        colours = np.array(list(COLOURS.values())) - background
        left, found = (pixels - background).reshape(-1, 3), []
        while len(found) <= MOST_OBJECTS:  # one more than a scene has, so that too many are told
            own = self._squares[:, None] * np.square(colours).sum(1)  # (M, colours): all that an object has
            gains = 2 * self._covers @ (left @ colours.T) - own
            look, colour = np.unravel_index(gains.argmax(), gains.shape)
            if gains[look, colour] < _LEAST_GAIN * own[look, colour]:
                break
            left = left - self._covers[look][:, None] * colours[colour]
            found.append(_coloured(self._looks[look], list(COLOURS)[colour]))
        return Fit(name, tuple(found), np.linalg.norm(left, axis=1).reshape(self.side, self.side))

    def share_above(self, item: SceneObject, rows: int) -> float:
        """Return the share of a found object that lies in the first rows."""
        cover = self._covers[self._numbers[item.shape, item.size, item.x, item.y]]
        return float(cover[: rows * self.side].sum() / cover.sum())


def _places(size: str) -> list[tuple[float, float]]:
    """Return where an object's centre may lie, as scenes have it."""
    margin = SIZES[size] / 2
    steps = [step / GRID for step in range(math.ceil(margin * GRID), math.floor((1 - margin) * GRID) + 1)]
    return [(x, y) for y in steps for x in steps]


def _cover(look: SceneObject, side: int, drawn_px: int) -> np.ndarray:
    """Return how much of each pixel an object covers, float64 (S * S), told by a yellow one on black."""
    scene = Scene("black", (_coloured(look, "yellow"),))
    drawn = resize_center(draw_scene(scene, drawn_px), side).pixels.astype(np.float64) - BACKGROUNDS["black"]
    colour = np.array(COLOURS["yellow"], np.float64) - BACKGROUNDS["black"]
    return (drawn @ colour / (colour @ colour)).ravel()


def _coloured(look: SceneObject, colour: str) -> SceneObject:
    return SceneObject(look.shape, colour, look.size, look.x, look.y)
