import numpy as np
import pytest

from model.evaluation.judge import find_objects, judge
from parti_data.scenes import SPLITS, Scene, SceneObject, draw_scene, make_scene


def test_truth_is_right_and_another_prompt_is_wrong():
    scenes = [make_scene(3, index, split) for split in SPLITS for index in range(100)]
    pictures = [draw_scene(scene, 64) for scene in scenes]
    prompts = [scene.caption() for scene in scenes]
    right = [judge(picture, prompt) for picture, prompt in zip(pictures, prompts, strict=True)]
    assert np.mean([verdict.is_right for verdict in right if verdict]) >= 0.995
    wrong = [judge(p, other).is_right for p, other in zip(pictures, prompts[1:] + prompts[:1], strict=True)]
    assert np.mean(wrong) <= 0.05


def test_the_judge_sees_through_noise_and_blur():
    rng = np.random.default_rng(0)
    scenes = [make_scene(4, index) for index in range(100)]
    noisy = [np.clip(draw_scene(s, 64) + rng.normal(0, 12, (64, 64, 3)), 0, 255).astype(np.uint8) for s in scenes]
    verdicts = [judge(picture, scene.caption()) for picture, scene in zip(noisy, scenes, strict=True)]
    assert np.mean([verdict.is_right for verdict in verdicts if verdict]) >= 0.97


CIRCLE, STAR = SceneObject("circle", "red", "small", 0.25, 0.5), SceneObject("star", "blue", "large", 0.7, 0.5)
SCENE = Scene("white", (CIRCLE, STAR), "left of")


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (Scene("black", SCENE.objects, "left of"), "white background"),
        (Scene("white", SCENE.objects[:1]), "2 objects"),
        (Scene("white", SCENE.objects, "right of"), "not right of"),
        (Scene("white", SCENE.objects, "above"), "not above"),
        (
            Scene("white", (SceneObject("circle", "green", "small"), STAR), "left of"),
            "no small green circle",
        ),
        (Scene("white", (SceneObject("circle", "red", "large"), STAR), "left of"), "no large red circle"),
        (Scene("white", (SceneObject("square", "red", "small"), STAR), "left of"), "no small red square"),
    ],
)
def test_each_attribute_that_differs_is_named(wrong, fault):
    picture = draw_scene(SCENE, 64)
    assert judge(picture, SCENE.caption()).is_right
    verdict = judge(picture, wrong.caption())
    assert not verdict.is_right
    assert fault in verdict.fault


def test_two_alike_objects_are_both_needed():
    twice = Scene(
        "white", (SceneObject("circle", "red", "small", 0.2, 0.5), SceneObject("circle", "red", "small", 0.8, 0.5))
    )
    asked = "a small red circle left of a small blue circle on a white background"
    assert not judge(draw_scene(twice, 64), asked).is_right


def test_an_empty_picture_has_no_objects():
    assert find_objects(np.full((64, 64, 3), 250, np.uint8)).objects == ()


def test_any_other_prompt_is_not_judged():
    assert judge(np.zeros((64, 64, 3), np.uint8), "a wombat in a hat") is None
