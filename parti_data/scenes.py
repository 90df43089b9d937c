"""Synthetic scenes: coloured shapes on a plain background, with a caption whose truth is known.

A seed and an index go in; a `Scene`, its caption and its picture come out. The caption states everything that
can be checked in the picture, and `parse_caption` reads it back, so that a picture can be judged by its prompt.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 40),
    "orange": (245, 135, 20),
    "yellow": (250, 225, 40),
    "green": (40, 165, 60),
    "cyan": (50, 215, 225),
    "blue": (35, 70, 220),
    "purple": (135, 50, 175),
    "pink": (250, 135, 190),
}
BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (10, 10, 10),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = {"small": 20 / 64, "large": 28 / 64}
"""Diameter of the circle around an object, as a share of the image side."""
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""The direction, x to the right and y down, from the second object to the first."""

GRID = 16
"""Centres lie on a grid of this many steps a side: coarse, so that ten minutes are enough to learn to draw; twice as
fine as the demo's patches, so that a code stands for a part that several shapes share and a new pair can be drawn."""
GAP = 3 / 64
"""Least space between two objects, as a share of the image side."""
HELD_OUT_COMBINATIONS = frozenset(
    {
        ("red", "star"),
        ("orange", "ring"),
        ("yellow", "cross"),
        ("green", "square"),
        ("cyan", "triangle"),
        ("blue", "circle"),
        ("purple", "star"),
        ("pink", "cross"),
    }
)
"""Pairs of colour and shape that training never sees: every colour once, every shape at most twice."""
HELD_OUT_PROMPT_SHARE = 8
"""One caption in this many, picked by its hash, never occurs in training."""
OBJECT_COUNT_WEIGHTS = (0.15, 0.7, 0.15)
"""Shares of scenes with one, two and three objects: two show which words belong together."""
MOST_OBJECTS = len(OBJECT_COUNT_WEIGHTS)
_SUPERSAMPLING = 4
_PLACEMENTS = 50
"""Tries at placing objects before others are drawn."""
_COLOUR_NAMES, _BACKGROUND_NAMES, _SIZE_NAMES = tuple(COLOURS), tuple(BACKGROUNDS), tuple(SIZES)

Split = Literal["train", "new_prompts", "new_combinations"]
SPLITS: tuple[Split, ...] = ("train", "new_prompts", "new_combinations")


@dataclass(frozen=True)
class SceneObject:
    """One shape; its centre in shares of the image side, x to the right and y down."""

    shape: str
    colour: str
    size: str
    x: float = 0.5
    y: float = 0.5

    def phrase(self) -> str:
        """Say the object as the caption does."""
        return f"{article(self.size)} {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One to three objects on a background; two objects stand in a relation."""

    background: str
    objects: tuple[SceneObject, ...]
    relation: str | None = None

    def caption(self) -> str:
        """Say all that can be checked in the picture, in one sentence of the grammar."""
        phrases = [item.phrase() for item in self.objects]
        if self.relation:
            subject = f"{phrases[0]} {self.relation} {phrases[1]}"
        elif len(phrases) == 1:
            subject = phrases[0]
        else:
            subject = f"{', '.join(phrases[:-1])} and {phrases[-1]}"
        return f"{subject} on {article(self.background)} {self.background} background"


def article(word: str) -> str:
    """Return the indefinite article that fits the word."""
    return "an" if word[0] in "aeiou" else "a"


def parse_caption(caption: str) -> Scene | None:
    """Return the scene that a caption of the grammar states, without positions; None for any other text."""
    match = re.fullmatch(r"(.+) on an? (\w+) background", caption.strip())
    if not match or match[2] not in BACKGROUNDS:
        return None
    relation = next((name for name in RELATIONS if f" {name} " in match[1]), None)
    phrases = match[1].split(f" {relation} ") if relation else re.split(r", | and ", match[1])
    objects = tuple(item for item in map(_parse_phrase, phrases) if item)
    if len(objects) != len(phrases) or len(objects) > 3 or (relation and len(objects) != 2):
        return None
    return Scene(match[2], objects, relation)


def _parse_phrase(phrase: str) -> SceneObject | None:
    words = phrase.split()
    if len(words) != 4 or words[1] not in SIZES or words[2] not in COLOURS or words[3] not in SHAPES:
        return None
    return SceneObject(shape=words[3], colour=words[2], size=words[1])


def is_held_out_prompt(caption: str) -> bool:
    """Whether the caption belongs to the *new prompts* split: decided by its hash alone."""
    return hashlib.sha256(caption.encode()).digest()[0] % HELD_OUT_PROMPT_SHARE == 0


def has_new_combination(scene: Scene) -> bool:
    """Whether an object's pair of colour and shape is one that training never sees."""
    return any((item.colour, item.shape) in HELD_OUT_COMBINATIONS for item in scene.objects)


def belongs_to(scene: Scene, split: Split) -> bool:
    """Whether the scene may occur in the split; every scene may occur in exactly one."""
    if has_new_combination(scene):
        return split == "new_combinations"
    return split == ("new_prompts" if is_held_out_prompt(scene.caption()) else "train")


def make_scene(seed: int, index: int, split: Split = "train", num_objects: int | None = None) -> Scene:
    """Return scene number `index` of a split: a function of its arguments alone."""
    rng = Random(f"{seed} {split} {index}")
    count = num_objects or rng.choices((1, 2, 3), OBJECT_COUNT_WEIGHTS)[0]
    while True:
        scene = _draw_lots(rng, count)
        if scene and belongs_to(scene, split):
            return scene


def _draw_lots(rng: Random, num_objects: int) -> Scene | None:
    """Return a random scene of so many objects, or None where they look alike or find no room."""
    background = rng.choice(_BACKGROUND_NAMES)
    objects: list[SceneObject] = []
    for _ in range(num_objects):
        look = rng.choice(SHAPES), rng.choice(_COLOUR_NAMES), rng.choice(_SIZE_NAMES)
        places = (SceneObject(*look, *_random_centre(rng, look[2])) for _ in range(_PLACEMENTS))
        placed = next((item for item in places if _fits(item, objects, num_objects)), None)
        if placed is None:
            return None
        objects.append(placed)
    return Scene(background, tuple(objects), relation_of(*objects) if num_objects == 2 else None)


def _random_centre(rng: Random, size: str) -> tuple[float, float]:
    margin = SIZES[size] / 2
    lowest, highest = math.ceil(margin * GRID), math.floor((1 - margin) * GRID)
    return rng.randint(lowest, highest) / GRID, rng.randint(lowest, highest) / GRID


def _fits(item: SceneObject, others: list[SceneObject], num_objects: int) -> bool:
    """Whether an object keeps its distance, looks unlike the others, and stands in a relation where it must."""
    if any(look_alike(item, other) or not are_apart(item, other) for other in others):
        return False
    return num_objects != 2 or not others or relation_of(others[0], item) is not None


def look_alike(item: SceneObject, other: SceneObject) -> bool:
    """Whether two objects differ in their places at most; no scene has two such."""
    return (item.shape, item.colour, item.size) == (other.shape, other.colour, other.size)


def are_apart(item: SceneObject, other: SceneObject) -> bool:
    """Whether two objects keep the distance that they have in every scene."""
    distance = math.hypot(item.x - other.x, item.y - other.y)
    return distance >= (SIZES[item.size] + SIZES[other.size]) / 2 + GAP


def relation_of(first: SceneObject, second: SceneObject) -> str | None:
    """Return the relation in which the first object stands to the second; None where the direction is oblique."""
    dx, dy = first.x - second.x, first.y - second.y
    if max(abs(dx), abs(dy)) < 2 * min(abs(dx), abs(dy)):
        return None
    along_x = abs(dx) > abs(dy)
    direction = (int(math.copysign(1, dx)), 0) if along_x else (0, int(math.copysign(1, dy)))
    return next(name for name, step in RELATIONS.items() if step == direction)


def draw_scene(scene: Scene, side_px: int) -> np.ndarray:
    """Return the picture, uint8 (S, S, 3), with smooth edges."""
    fine = side_px * _SUPERSAMPLING
    image = Image.new("RGB", (fine, fine), BACKGROUNDS[scene.background])
    for item in scene.objects:
        _draw_object(
            ImageDraw.Draw(image), item.shape, COLOURS[item.colour], BACKGROUNDS[scene.background],
            np.array([item.x, item.y]) * fine, SIZES[item.size] / 2 * fine,
        )  # fmt: skip
    return np.asarray(image.reduce(_SUPERSAMPLING))


def _draw_object(
    canvas: ImageDraw.ImageDraw,
    shape: str,
    colour: tuple[int, int, int],
    background: tuple[int, int, int],
    centre: np.ndarray,
    radius: float,
) -> None:
    if shape in ("circle", "ring"):
        canvas.ellipse([*(centre - radius), *(centre + radius)], fill=colour)
        if shape == "ring":
            canvas.ellipse([*(centre - 0.5 * radius), *(centre + 0.5 * radius)], fill=background)
        return
    outline = centre + radius * shape_outline(shape)
    canvas.polygon([(float(x), float(y)) for x, y in outline], fill=colour)


def shape_outline(shape: str) -> np.ndarray:
    """Return the corners of a polygonal shape inside the unit circle, float (N, 2)."""
    if shape == "square":
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * math.sqrt(0.5)
    if shape == "triangle":
        return _on_circle(np.arange(3) / 3, np.ones(3))
    if shape == "star":
        return _on_circle(np.arange(10) / 10, np.where(np.arange(10) % 2, 0.4, 1.0))
    arm = 0.3
    reach = math.sqrt(1 - arm**2)
    quarter = [(arm, -reach), (arm, -arm), (reach, -arm)]
    turns = [np.array([[0, -1], [1, 0]]), np.array([[-1, 0], [0, -1]]), np.array([[0, 1], [-1, 0]])]
    return np.concatenate([np.array(quarter), *(np.array(quarter) @ turn.T for turn in turns)])


def _on_circle(turns: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return points at so many turns clockwise from the top."""
    return np.stack([radii * np.sin(turns * 2 * np.pi), -radii * np.cos(turns * 2 * np.pi)], axis=1)
