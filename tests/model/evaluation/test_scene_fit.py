"""Scenes are found again in small pictures: exactly, in coarse colours, and where they are not what scenes are."""

import numpy as np
import pytest

from model.evaluation.judge import compare, find_objects
from model.evaluation.scene_fit import SceneFitter
from parti_data.recipes import resize_center
from parti_data.scenes import SHAPES, Scene, SceneObject, draw_scene, make_scene

NUM_SCENES = 120


@pytest.fixture(scope="module")
def fitter() -> SceneFitter:
    return SceneFitter(16, 64)


def small(scene: Scene) -> np.ndarray:
    return resize_center(draw_scene(scene, 64), 16).pixels.copy()


@pytest.mark.parametrize("levels", [256, 9], ids=["every colour", "nine levels a channel"])
def test_every_object_is_found_where_it_stands(fitter, levels):
    step, scenes = 255 / (levels - 1), [make_scene(11, index) for index in range(NUM_SCENES)]
    right_by_outlines = 0
    for scene in scenes:
        picture = (np.rint(small(scene) / step) * step).astype(np.uint8)
        found = fitter.fit(picture)
        assert found.background == scene.background
        assert set(found.objects) == set(scene.objects)
        assert found.distances.max() < (2 if levels == 256 else 60)
        right_by_outlines += compare(find_objects(picture), scene).is_right
    assert right_by_outlines < 0.8 * NUM_SCENES  # which is why there is another way


@pytest.mark.parametrize("drawn_px", [16, 32, 48])
def test_scenes_drawn_at_another_side_are_found_by_it(drawn_px):
    fitter, scenes = SceneFitter(16, drawn_px), [make_scene(12, index) for index in range(30)]
    for scene in scenes:
        assert set(fitter.fit(resize_center(draw_scene(scene, drawn_px), 16).pixels).objects) == set(scene.objects)


def test_a_plain_picture_has_no_objects_and_one_of_four_has_four(fitter):
    assert fitter.fit(np.full((16, 16, 3), 250, np.uint8)).objects == ()
    corners = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]
    objects = tuple(SceneObject(shape, "red", "small", *at) for shape, at in zip(SHAPES[:4], corners, strict=True))
    assert set(fitter.fit(small(Scene("black", objects))).objects) == set(objects)


def test_what_is_no_object_is_left(fitter):
    picture = small(Scene("black", (SceneObject("square", "blue", "large", 0.5, 0.5),)))
    picture[1, 2] = 255
    found = fitter.fit(picture)
    assert [(item.shape, item.colour) for item in found.objects] == [("square", "blue")]
    assert np.argwhere(found.distances > 60).tolist() == [[1, 2]]


def test_the_share_of_an_object_above_a_row_is_that_of_its_surface(fitter):
    for y, rows, wanted in ((0.5, 8, 0.5), (0.25, 8, 1.0), (0.5, 6, 0.0), (0.5, 16, 1.0)):
        square = SceneObject("square", "red", "small", 0.5, y)
        assert fitter.share_above(square, rows) == pytest.approx(wanted, abs=0.07)
