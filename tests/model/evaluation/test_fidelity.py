import shutil

import numpy as np
import pytest
import torch
from sample_directories import make_samples

from model.evaluation import fidelity
from model.evaluation.evaluate import evaluate
from model.evaluation.evaluate_config import EvaluateConfig
from model.evaluation.frechet_distance import fit_gaussian, frechet_distance
from model.evaluation.inception import WIDTH, Inception, load_inception
from model.evaluation.inception_score import inception_score
from model.evaluation.precision_recall import precision_recall
from model.evaluation.real_images import preprocess
from parti_data.augmentation import LISTING_2, cut_random
from parti_data.errors import CheckpointError, ConfigError, ShardError
from parti_data.image_dataset import load_pixels
from parti_data.images import to_png
from parti_data.ledger import PairDirectory
from parti_data.recipes import RECIPES, resize_center

PROMPTS = [(f"prompt {number}", "", "") for number in range(12)]


class Projection(torch.nn.Module):
    """In Inception's place where only the way of pictures to it and of features from it is looked at."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.fc = torch.nn.Linear(WIDTH, 5)
        self.projection = torch.randn(3 * 16 * 16, WIDTH, generator=torch.Generator().manual_seed(0))

    def forward(self, images):
        self.seen.extend(images.numpy())
        return images.reshape(len(images), -1).float() @ self.projection / 1e4

    def logits(self, features):
        return features[:, :5]


@pytest.fixture
def network(monkeypatch) -> Projection:
    network = Projection()
    monkeypatch.setattr("model.evaluation.evaluate.load_inception", lambda path: network)
    return network


@pytest.fixture
def weights(tmp_path) -> str:
    (tmp_path / "weights.pth").write_bytes(b"not read")
    return str(tmp_path / "weights.pth")


@pytest.fixture
def samples(tmp_path) -> str:
    rng = np.random.default_rng(0)
    return make_samples(tmp_path / "samples", PROMPTS, pictures=list(rng.integers(0, 256, (12, 16, 16, 3), np.uint8)))


@pytest.fixture
def folder(tmp_path):
    """A folder of photographs of any size, and a file among them that is none."""
    rng = np.random.default_rng(1)
    (tmp_path / "photographs").mkdir()
    for number in range(9):
        pixels = rng.integers(0, 256, (20 + number, 30, 3), np.uint8)
        (tmp_path / "photographs" / f"{number}.png").write_bytes(to_png(pixels))
    (tmp_path / "photographs" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    return {"kind": "images", "path": str(tmp_path / "photographs")}


def config(tmp_path, samples, weights, name="evaluation", **settings) -> EvaluateConfig:
    values = {"output": str(tmp_path / name), "samples": samples, "fidelity": {"inception": weights, **settings}}
    return EvaluateConfig.model_validate({**values, "device": "cpu"})


def features(tmp_path, which: str, name: str = "evaluation") -> np.ndarray:
    return np.load(tmp_path / name / f"{which}_features.npy")


def test_figures_are_those_of_the_features_of_all_images(network, tmp_path, samples, folder, weights):
    manifest = evaluate(config(tmp_path, samples, weights, real=folder, batch_size=5))
    real, generated = features(tmp_path, "real"), features(tmp_path, "sample")
    assert manifest.counts == {"samples": 12, "real_images": 9}
    score, both = inception_score(generated[:, :5]), precision_recall(real, generated)
    assert manifest.details["figures"] == pytest.approx(
        {
            "inception_score": score.mean,
            "inception_score_std": score.std,
            "fid": frechet_distance(fit_gaussian(real), fit_gaussian(generated)),
            "precision": both.precision,
            "recall": both.recall,
        },
        abs=1e-6,
    )
    assert {shard.name for shard in manifest.shards} == {
        "real_features.npy", "sample_features.npy", "real_images.parquet",
    }  # fmt: skip


def test_real_images_against_themselves_are_at_no_distance(network, tmp_path, weights, filtered):
    pairs = PairDirectory(filtered)
    pictures = [resize_center(pixels, 16).pixels for pixels in load_pixels(pairs, list(pairs.kept()))]
    samples = make_samples(tmp_path / "samples", [("a scene", "", "")] * len(pictures), pictures=pictures)
    found = evaluate(config(tmp_path, samples, weights, real=filtered)).details["figures"]
    assert (found["precision"], found["recall"]) == (1, 1)
    assert found["fid"] == pytest.approx(0, abs=1e-6)


def test_so_many_of_both_are_drawn_at_random_and_the_seed_decides(network, tmp_path, samples, folder, weights):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        evaluate(config(tmp_path, samples, weights, name, real=folder, num_images=5, seed=seed, figures=["fid"]))
    assert features(tmp_path, "real", "a").shape == (5, WIDTH)
    assert np.array_equal(features(tmp_path, "sample", "a"), features(tmp_path, "sample", "b"))
    assert not np.array_equal(features(tmp_path, "sample", "a"), features(tmp_path, "sample", "c"))
    with pytest.raises(ConfigError, match=r"expected at least 13 samples in .*, found 12; lower it or give more"):
        evaluate(config(tmp_path, samples, weights, "d", real=folder, num_images=13))
    with pytest.raises(ConfigError, match=r"expected at least 10 real images in .*real_images.parquet, found 9; lower"):
        evaluate(config(tmp_path, samples, weights, "e", real=folder, num_images=10, figures=["fid"]))


def test_too_few_images_are_refused_before_any_is_measured(network, tmp_path, samples, folder, weights, filtered):
    few = make_samples(tmp_path / "few", PROMPTS[:9], side=16)
    pairs = len(list(PairDirectory(filtered).kept()))
    for generated, settings, message in (
        (few, {"figures": ["inception_score"]}, "expected at least 10 samples for inception_score, found 9; give more"),
        (few, {"real": filtered, "figures": ["precision_recall"], "num_images": 3}, "at least 4 samples for precision"),
        (samples, {"real": filtered, "figures": ["fid"], "num_images": 1}, "at least 2 samples for fid, found 1"),
        (
            samples,
            {"real": filtered, "num_images": 12 + pairs},
            rf"expected at least {12 + pairs} samples in .*, found 12",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(config(tmp_path, generated, weights, "refused", **settings))
    assert not (tmp_path / "refused").exists()
    for image in list((tmp_path / "photographs").glob("*.png"))[3:]:
        image.unlink()
    with pytest.raises(ConfigError, match="expected at least 4 real images for precision_recall, found 3; give more"):
        evaluate(config(tmp_path, samples, weights, "read", real=folder))
    assert not (tmp_path / "read" / "sample_features.npy").exists()
    assert network.seen == []


def test_real_images_are_cut_as_dalles_second_listing(network, tmp_path, samples, folder, weights):
    evaluate(config(tmp_path, samples, weights, real=folder, preprocessing="dalle_listing_2", figures=["fid"], seed=3))
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    wanted = cut_random(pixels, 16, LISTING_2, np.random.default_rng([3, 0])).pixels
    assert np.array_equal(network.seen[12], wanted)


def test_every_recipe_of_the_project_prepares_real_images():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    generator = np.random.default_rng(0)
    names = EvaluateConfig.model_fields["fidelity"].annotation.__args__[0].model_fields["preprocessing"].annotation
    assert set(names.__args__) == {*RECIPES, "dalle_listing_2"}
    for name in RECIPES:
        assert preprocess(name, pixels, 16, generator).shape == (16, 16, 3)


def test_features_of_an_evaluation_with_the_same_real_images_are_taken(network, tmp_path, samples, folder, weights):
    evaluate(config(tmp_path, samples, weights, "first", real=folder))
    shutil.rmtree(folder["path"])
    other = make_samples(tmp_path / "others", PROMPTS, side=16)
    first = str(tmp_path / "first")
    manifest = evaluate(config(tmp_path, other, weights, "second", real=first, figures=["fid"]))
    assert np.array_equal(features(tmp_path, "real", "first"), features(tmp_path, "real", "second"))
    wanted = (fit_gaussian(features(tmp_path, which, "second")) for which in ("real", "sample"))
    assert manifest.details["figures"]["fid"] == pytest.approx(frechet_distance(*wanted), abs=1e-6)
    with pytest.raises(ShardError, match="first: expected an evaluation with fidelity.seed 1, found 0; name the real"):
        evaluate(config(tmp_path, other, weights, "third", real=first, seed=1))
    small = make_samples(tmp_path / "small", PROMPTS, side=8)
    with pytest.raises(ShardError, match="expected an evaluation with fidelity.side_px 8, found 16; name the real"):
        evaluate(config(tmp_path, small, weights, "fourth", real=first))
    np.save(tmp_path / "first" / "real_features.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(
        ShardError, match=r"expected features float32 \(N, 2048\), found float32 \(3, 4\); run evaluate"
    ):
        evaluate(config(tmp_path, other, weights, "fifth", real=first))
    torch.save({"other": torch.zeros(1)}, tmp_path / "first" / "real_features.npy")
    with pytest.raises(ShardError, match=r"expected features float32 \(N, 2048\), found float32 \(0,\); run evaluate"):
        evaluate(config(tmp_path, other, weights, "sixth", real=first))


def test_a_run_that_was_stopped_goes_on_behind_the_features(network, tmp_path, samples, folder, weights, monkeypatch):
    whole = evaluate(config(tmp_path, samples, weights, "whole", real=folder))
    monkeypatch.setattr(fidelity, "_real_features", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(tmp_path, samples, weights, "parts", real=folder))
    monkeypatch.undo()
    monkeypatch.setattr("model.evaluation.evaluate.load_inception", lambda path: network)
    network.seen.clear()
    assert evaluate(config(tmp_path, samples, weights, "parts", real=folder)).shards == whole.shards
    assert len(network.seen) == 9


def test_the_inception_score_needs_no_real_images(network, tmp_path, samples, weights):
    manifest = evaluate(config(tmp_path, samples, weights, figures=["inception_score"]))
    assert manifest.details["figures"].keys() == {"inception_score", "inception_score_std"}
    with pytest.raises(ConfigError, match="fidelity.real: expected real images to compare with, found none; add"):
        evaluate(config(tmp_path, samples, weights, "other", figures=["fid"]))


def test_a_missing_file_of_weights_is_refused_before_anything_is_begun(tmp_path, samples, folder):
    with pytest.raises(ConfigError, match=r"fidelity.inception: expected a file of weights, found none at .*none.pth;"):
        evaluate(config(tmp_path, samples, str(tmp_path / "none.pth"), real=folder))
    assert not (tmp_path / "evaluation").exists()


def test_a_file_of_other_weights_is_refused_before_anything_is_begun(tmp_path, samples, folder, weights):
    torch.save({"fc.weight": torch.zeros(1000, WIDTH)}, weights)
    with pytest.raises(
        CheckpointError, match=r"weights.pth: expected Conv2d_1a_3x3.conv.weight \(32, 3, 3, 3\), found no"
    ):
        evaluate(config(tmp_path, samples, weights, real=folder))
    assert not (tmp_path / "evaluation").exists()


def test_features_are_inceptions(tmp_path, filtered):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Inception()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)  # as it is drawn, features would be next to nothing
        torch.save(network.state_dict(), tmp_path / "inception.pth")
    samples = make_samples(tmp_path / "samples", PROMPTS[:3], side=16)
    weights = str(tmp_path / "inception.pth")
    evaluate(config(tmp_path, samples, weights, real=filtered, num_images=2, figures=["fid"]))
    found = features(tmp_path, "sample")
    pictures = torch.stack([torch.full((16, 16, 3), 40 + n, dtype=torch.uint8) for n in range(3)])
    with torch.inference_mode():
        wanted = load_inception(weights)(pictures).numpy()
    between = np.abs(wanted[:, None] - wanted[None]).max(2)[~np.eye(3, dtype=bool)]
    gaps = np.abs(found[:, None] - wanted[None]).max(2)
    assert gaps.min(1).max() < 0.02 * between.min()
    assert len(set(gaps.argmin(1).tolist())) == len(found)
