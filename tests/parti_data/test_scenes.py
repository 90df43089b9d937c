import hashlib
import itertools

import numpy as np
import pytest

from parti_data import scenes
from parti_data.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_COMBINATIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    SPLITS,
    Scene,
    SceneObject,
    belongs_to,
    draw_scene,
    is_held_out_prompt,
    make_scene,
    parse_caption,
    relation_of,
    shape_outline,
)  # fmt: skip


def without_places(scene: Scene) -> Scene:
    looks = tuple(SceneObject(item.shape, item.colour, item.size) for item in scene.objects)
    return Scene(scene.background, looks, scene.relation)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("num_objects", [1, 2, 3])
def test_parsing_undoes_captioning(split, num_objects):
    for index in range(20):
        scene = make_scene(0, index, split, num_objects)
        assert len(scene.objects) == num_objects
        assert parse_caption(scene.caption()) == without_places(scene)


def test_parsing_undoes_captioning_for_every_look_and_relation():
    looks = [SceneObject(*look) for look in itertools.product(SHAPES, COLOURS, SIZES)]
    for number, (look, background) in enumerate(itertools.product(looks, BACKGROUNDS)):
        other = looks[(number * 7 + 1) % len(looks)]
        for scene in (
            Scene(background, (look,)),
            Scene(background, (look, other), list(RELATIONS)[number % 4]),
            Scene(background, (look, other, looks[number % 11])),
        ):
            assert parse_caption(scene.caption()) == scene


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a cat on a mat",
        "a small red circle on a plaid background",
        "a small red circle",
        "a tiny red circle on a white background",
        "a small red blob on a white background",
        "a small red circle left of a white background",
        "a small red circle above a small red ring and a small blue ring on a white background",
        "a small red ring, a small red star, a small red cross and a large red ring on a white background",
    ],
)
def test_text_outside_the_grammar_is_no_scene(caption):
    assert parse_caption(caption) is None


def test_the_first_scenes_never_change():
    assert [make_scene(0, index).caption() for index in range(3)] == [
        "a large blue triangle on a white background",
        "a small yellow star on a black background",
        "a small blue ring above a large orange circle on a white background",
    ]
    pictures = [hashlib.sha256(draw_scene(make_scene(0, index), 32).tobytes()).hexdigest()[:16] for index in range(3)]
    assert pictures == ["44d93e3f0f62979f", "ac671b9b410b4112", "f1ede48e9550c82e"]


def test_the_first_held_out_scenes_never_change():
    captions = [make_scene(0, 0, split).caption() for split in ("new_prompts", "new_combinations")]
    assert captions == [
        "a small orange star, a small orange circle and a large yellow circle on a black background",
        "a small cyan triangle right of a small green ring on a white background",
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_every_scene_belongs_to_its_split_alone(split):
    for index in range(30):
        scene = make_scene(3, index, split)
        assert [name for name in SPLITS if belongs_to(scene, name)] == [split]


def test_what_is_held_out_never_occurs_in_training():
    for index in range(60):
        scene = make_scene(0, index)
        assert not {(item.colour, item.shape) for item in scene.objects} & HELD_OUT_COMBINATIONS
        assert hashlib.sha256(scene.caption().encode()).digest()[0] % 8 != 0
        assert not is_held_out_prompt(scene.caption())


def test_held_out_combinations_have_every_colour_once_and_every_shape_at_most_twice():
    colours = [colour for colour, _ in HELD_OUT_COMBINATIONS]
    shapes = [shape for _, shape in HELD_OUT_COMBINATIONS]
    assert sorted(colours) == sorted(COLOURS)
    assert max(map(shapes.count, SHAPES)) <= 2


@pytest.mark.parametrize(
    ("x", "y", "relation"),
    [(0.2, 0.5, "left of"), (0.8, 0.5, "right of"), (0.5, 0.2, "above"), (0.5, 0.8, "below"),
     (0.25, 0.625, "left of"), (0.25, 0.6875, None), (0.2, 0.2, None)],
)  # fmt: skip
def test_a_relation_is_stated_where_one_direction_is_twice_the_other(x, y, relation):
    first = SceneObject("ring", "red", "small", x, y)
    assert relation_of(first, SceneObject("ring", "blue", "small")) == relation


def test_objects_lie_inside_and_apart():
    for index in range(40):
        objects = make_scene(1, index).objects
        for item in objects:
            assert SIZES[item.size] / 2 <= min(item.x, item.y)
            assert max(item.x, item.y) <= 1 - SIZES[item.size] / 2
        for a, b in itertools.combinations(objects, 2):
            assert np.hypot(a.x - b.x, a.y - b.y) >= (SIZES[a.size] + SIZES[b.size]) / 2 + scenes.GAP


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_drawn_in_its_colour_where_it_should_be(shape):
    item = SceneObject(shape, "red", "large", 0.25, 0.75)
    picture = draw_scene(Scene("white", (item,)), 64)
    assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
    is_red = (picture == COLOURS["red"]).all(-1)
    y, x = np.nonzero(is_red)
    assert abs(x.mean() - 16) < 1.5
    assert abs(y.mean() - 48) < 3  # a triangle's centre of mass lies below the centre of its circle
    assert np.hypot(x + 0.5 - 16, y + 0.5 - 48).max() <= 14 + 0.5
    assert (picture[:32, 32:] == BACKGROUNDS["white"]).all()
    assert is_red[48, 16] == (shape != "ring")


def test_areas_are_those_of_geometry():
    radius = SIZES["large"] / 2 * 64
    areas = {"circle": np.pi, "square": 2.0, "ring": np.pi * 0.75, "triangle": 3 * np.sqrt(3) / 4}
    for shape, area in areas.items():
        picture = draw_scene(Scene("black", (SceneObject(shape, "cyan", "large"),)), 64).astype(float)
        share = (picture - BACKGROUNDS["black"]).sum() / (np.subtract(COLOURS["cyan"], BACKGROUNDS["black"])).sum()
        assert share == pytest.approx(area * radius**2, rel=0.06), shape


@pytest.mark.parametrize("shape", ["square", "triangle", "star", "cross"])
def test_an_outline_touches_the_unit_circle_and_stays_inside(shape):
    distances = np.hypot(*shape_outline(shape).T)
    assert distances.max() == pytest.approx(1)
