from pathlib import Path

import numpy as np
import pytest
from sample_directories import make_samples

from model.evaluation.evaluate import evaluate, figure_lines
from model.evaluation.evaluate_config import EvaluateConfig
from parti_data.errors import ShardError
from parti_data.scenes import draw_scene, make_scene

SCENES = [make_scene(0, index, num_objects=1) for index in range(2)]
PROMPTS = [(SCENES[0].caption(), "one", ""), (SCENES[1].caption(), "two", "")]


def make(path: Path, right: list[bool], inputs: dict | None = None, **sampling) -> str:
    """Samples of both scenes, right or black, by a config with these settings."""
    black = np.zeros((32, 32, 3), np.uint8)
    pictures = [draw_scene(scene, 32) if fits else black for scene, fits in zip(SCENES, right, strict=True)]
    config = {"seed": 0, "sampling": {"guidance": 1.0, "top_k": 0, **sampling}}
    beginning = {"config": config, "inputs": {"prior": "a"} | (inputs or {})}
    return make_samples(path, PROMPTS, pictures=pictures, beginning=beginning)


def config(tmp_path, *samples: str) -> EvaluateConfig:
    values = {"output": str(tmp_path / "evaluation"), "curve": {"samples": list(samples)}, "device": "cpu"}
    return EvaluateConfig.model_validate(values)


def test_right_pictures_are_told_by_the_setting_in_which_directories_differ(tmp_path):
    third = make(tmp_path / "c", [True, True], guidance=3.0)
    first = make(tmp_path / "a", [False, True])
    second = make(tmp_path / "b", [True, True], guidance=1.5)
    manifest = evaluate(config(tmp_path, third, first, second))
    found = manifest.details["curves"]["curve"]
    assert found["x_label"] == "sampling.guidance"
    assert [(panel["category"], panel["lines"][0]["points"]) for panel in found["panels"]] == [
        ("one", [[1, 0], [1.5, 1], [3, 1]]),
        ("two", [[1, 1], [1.5, 1], [3, 1]]),
    ]
    assert manifest.counts == {"curve_directories": 3, "curve_judged": 6}
    assert figure_lines(manifest)[0] == "right, one, right: 0 at 1, 1 at 1.5, 1 at 3"
    assert "sampling.guidance</text>" in (tmp_path / "evaluation" / "curve.svg").read_text()
    assert set(manifest.inputs) == {"curve.1.0", "curve.1.5", "curve.3.0"}
    moved = str(Path(third).rename(tmp_path / "moved"))
    assert evaluate(config(tmp_path, second, first, moved)) == manifest


def test_directories_that_differ_in_more_or_in_nothing_are_refused(tmp_path):
    first = make(tmp_path / "first", [True, True])
    for name, settings, message in (
        (
            "same",
            {},
            "curve.samples: expected directories that differ in one number, each from all others, found eq",
        ),
        (
            "more",
            {"guidance": 2.0, "top_k": 5},
            r"found sampling.guidance \[1.0, 2.0\]; sampling.top_k \[0, 5\]; le",
        ),
        ("text", {"guidance": "much"}, r"found sampling.guidance \[1.0, 'much'\]; leave out what does not belong"),
        ("huge", {"guidance": 10**400}, r"found sampling.guidance \[1.0, 10+\]; leave out what does not belong"),
        (
            "prior",
            {"inputs": {"prior": "b"}},
            "prior: expected samples with the prior of .*/first, found another; le",
        ),
    ):
        with pytest.raises(ShardError, match=message):
            evaluate(config(tmp_path, first, make(tmp_path / name, [True, True], **settings)))
    assert not (tmp_path / "evaluation").exists()
