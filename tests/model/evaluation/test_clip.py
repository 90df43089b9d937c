import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sample_directories import make_samples
from stand_in_clip import save_towers, stand_in

from model.evaluation.clip import load_clip
from model.evaluation.evaluate import evaluate
from model.evaluation.evaluate_config import EvaluateConfig
from parti_data.errors import CheckpointError, ConfigError

CPU = torch.device("cpu")


@pytest.fixture
def made(monkeypatch) -> list:
    return stand_in(monkeypatch)


@pytest.fixture
def weights(tmp_path) -> str:
    return save_towers(str(tmp_path / "clip.pt"))


def test_weights_come_from_the_file_alone_and_features_are_of_both_towers(made, weights):
    clip = load_clip("Two", weights, CPU)
    assert made == [("Two", None)]
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 1] = 255
    assert clip.picture_features([picture]).tolist() == [[0, 2, 0]]
    assert clip.text_features(["rgg"]).tolist() == [[2, 4, 0]]


def test_samples_are_scored_against_their_prompts_and_by_group(made, weights, tmp_path):
    red, green = (np.zeros((8, 8, 3), np.uint8) for _ in range(2))
    red[..., 0], green[..., 1] = 255, 255
    prompts = [("r", "Colours", "Basic"), ("b", "Colours", "Complex"), ("rg", "Other", "Complex")]
    samples = make_samples(tmp_path / "samples", prompts, pictures=[red, green, green])
    settings = {"model": "Two", "weights": weights, "batch_size": 2}
    config = EvaluateConfig.model_validate(
        {"output": str(tmp_path / "evaluation"), "samples": samples, "clip": settings, "device": "cpu"}
    )
    manifest = evaluate(config)
    scores = pq.read_table(tmp_path / "evaluation" / "clip_scores.parquet")["score"].to_pylist()
    assert scores == pytest.approx([100, 0, 100 * np.sqrt(0.5)], abs=1e-4)
    figures = manifest.details["figures"]
    assert figures["clip_score"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert figures["clip_score_standard_error"] == pytest.approx(np.std(scores, ddof=1) / np.sqrt(3), abs=1e-4)
    assert manifest.details["clip_score"]["category"] == pytest.approx({"Colours": 50.0, "Other": 70.7107}, abs=1e-3)
    assert manifest.details["clip_score"]["tier"].keys() == {"Standard", "Challenging"}


def test_without_open_clip_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ConfigError, match=r"clip: expected open_clip, found none; pip install 'parti\[clip\]'"):
        load_clip("Two", "none.pt", CPU)


def test_what_would_be_downloaded_is_refused(made, weights):
    with pytest.raises(ConfigError, match="expected a model that needs no download, found 'Hub' with .* google/t5;"):
        load_clip("Hub", weights, CPU)
    for name in ("hf-hub:laion/x", "unknown"):
        with pytest.raises(ConfigError, match=f"expected a model that open_clip has built in, found '{name}'; choose"):
            load_clip(name, weights, CPU)
    assert made == []


def test_weights_of_another_model_are_refused(made, tmp_path):
    path = str(tmp_path / "other.pt")
    torch.save({"visual.weight": torch.eye(3)}, path)
    with pytest.raises(CheckpointError, match="expected the weights of open_clip's Two, found others .*text.weight"):
        load_clip("Two", path, CPU)
