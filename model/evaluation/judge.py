"""The judge: finds the objects in a picture of a synthetic scene by plain image analysis, and compares with a prompt.

It knows the palette and the shapes, never the prior: pixels that differ from the background form connected
components; a component's colour is the nearest palette colour of its middle, its shape the template that overlaps it
best, its size the diameter.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from parti_data.scenes import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    draw_scene,
    parse_caption,
)  # fmt: skip

FOREGROUND_DISTANCE = 60.0
"""Euclidean RGB distance from the background beyond which a pixel belongs to an object."""
LEAST_AREA_SHARE = 0.008
"""Smaller components are specks; the smallest object, a small star, covers twice as much."""
LEAST_OVERLAP = 0.6
"""Intersection over union with the best template below which a component has no shape."""


class Finding(NamedTuple):
    """What the judge saw in a picture."""

    background: str
    objects: tuple[SceneObject, ...]
    """Shape is "unclear" where no template fits."""


class Verdict(NamedTuple):
    """Whether a picture shows its prompt, and the first thing that is wrong."""

    is_right: bool
    fault: str


def judge(picture: np.ndarray, prompt: str) -> Verdict | None:
    """Return the verdict on a picture uint8 (S, S, 3); None where the prompt is not of the scenes' grammar."""
    wanted = parse_caption(prompt)
    return compare(find_objects(picture), wanted) if wanted else None


def compare(found: Finding, wanted: Scene) -> Verdict:
    """Compare what was found with what was asked for: background, objects, relation."""
    if found.background != wanted.background:
        return Verdict(False, f"{found.background} background")
    if len(found.objects) != len(wanted.objects):
        return Verdict(False, f"{len(found.objects)} objects")
    left = list(found.objects)
    matched = []
    for item in wanted.objects:
        match = next((other for other in left if _looks(other) == _looks(item)), None)
        if match is None:
            seen = ", ".join(" ".join(_looks(other)) for other in left)
            return Verdict(False, f"no {' '.join(_looks(item))} but {seen}")
        left.remove(match)
        matched.append(match)
    if wanted.relation and not _stands(matched[0], matched[1], wanted.relation):
        return Verdict(False, f"not {wanted.relation}")
    return Verdict(True, "")


def _looks(item: SceneObject) -> tuple[str, str, str]:
    return item.size, item.colour, item.shape


def _stands(first: SceneObject, second: SceneObject, relation: str) -> bool:
    """Whether the relation holds; directions up to 45 degrees off count, training shows at most 27."""
    dx, dy = first.x - second.x, first.y - second.y
    along = dx * RELATIONS[relation][0] + dy * RELATIONS[relation][1]
    return along > 0 and along >= max(abs(dx), abs(dy))


def find_objects(picture: np.ndarray) -> Finding:
    """Return the background and the objects of a picture uint8 (S, S, 3)."""
    pixels = picture.astype(np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = nearest_colour(np.asarray(np.median(border, axis=0)), BACKGROUNDS)
    background_rgb = np.array(BACKGROUNDS[background], np.float64)
    is_foreground = np.linalg.norm(pixels - background_rgb, axis=-1) > FOREGROUND_DISTANCE
    labels = np.asarray(ndimage.label(is_foreground, structure=np.ones((3, 3)))[0])  # type: ignore[index]
    areas = np.bincount(labels.flat)[1:]
    kept = [number for number, area in enumerate(areas, 1) if area >= LEAST_AREA_SHARE * labels.size]
    return Finding(background, tuple(_describe(pixels, labels == number, background_rgb) for number in kept))


def nearest_colour(rgb: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    """Return the palette's name of the colour nearest to an RGB value."""
    return min(palette, key=lambda name: math.dist(rgb, palette[name]))


def _describe(pixels: np.ndarray, component: np.ndarray, background: np.ndarray) -> SceneObject:
    inside = ndimage.binary_erosion(component)
    middle = np.asarray(inside if np.any(inside) else component, bool)
    rgb = np.asarray(np.median(pixels[middle], axis=0))
    is_nearer = np.linalg.norm(pixels - rgb, axis=-1) < np.linalg.norm(pixels - background, axis=-1)
    outline = component & is_nearer  # edge pixels count where the object covers more than half of them
    candidates = [(_best_overlap(outline, shape, size), shape, size) for shape in SHAPES for size in SIZES]
    (overlap, x, y), shape, size = max(candidates, key=lambda candidate: candidate[0][0])
    return SceneObject(shape if overlap >= LEAST_OVERLAP else "unclear", nearest_colour(rgb, COLOURS), size, x, y)


def _best_overlap(component: np.ndarray, shape: str, size: str) -> tuple[float, float, float]:
    """Return the best intersection over union with a template near the component's centre, and where it lies."""
    side = component.shape[0]
    template = template_mask(shape, size, side)
    offsets = np.array(ndimage.center_of_mass(component)) - np.array(ndimage.center_of_mass(template))
    best = (0.0, 0.0, 0.0)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            down, right = round(offsets[0]) + dy, round(offsets[1]) + dx
            moved = _shift(template, down, right)
            overlap = float((moved & component).sum() / (moved | component).sum())
            best = max(best, (overlap, 0.5 + right / side, 0.5 + down / side))
    return best


@cache
def template_mask(shape: str, size: str, side: int) -> np.ndarray:
    """Return the pixels (S, S) of a shape drawn in the middle."""
    scene = Scene("black", (SceneObject(shape, "yellow", size),))
    difference = draw_scene(scene, side).astype(np.float64) - np.array(BACKGROUNDS["black"])
    return np.linalg.norm(difference, axis=-1) > np.linalg.norm(np.array(COLOURS["yellow"])) / 2


def _shift(mask: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Move a mask without wrapping around."""
    moved = np.zeros_like(mask)
    side = mask.shape[0]
    moved[max(dy, 0) : side + min(dy, 0), max(dx, 0) : side + min(dx, 0)] = mask[
        max(-dy, 0) : side + min(-dy, 0), max(-dx, 0) : side + min(-dx, 0)
    ]
    return moved
