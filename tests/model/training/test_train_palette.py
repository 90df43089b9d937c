"""The palette's job: the same bytes twice, a file that tokenize reads, figures of what is saved."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.tokenizers import Choices, load_tokenizer
from model.training.ranks import Ranks
from model.training.tokenizer_images import open_images
from model.training.train_palette import TrainPaletteConfig, sample_pixels, train_palette
from parti_data.errors import ConfigError, ShardError
from parti_data.images import to_png
from parti_data.manifest import read_manifest
from parti_data.storage import publish_bytes


@pytest.fixture
def configure(tmp_path, filtered):
    def make(name: str, **named) -> TrainPaletteConfig:
        values = {"source": filtered, "image_side": 16, "codebook_size": 12, "num_pixels": 2000, "batch_size": 8}
        return TrainPaletteConfig.model_validate({"output": str(tmp_path / name), **values, **named})

    return make


@pytest.fixture
def folder(tmp_path):
    """Write pictures as a folder and return it as a source."""

    def write(pictures: np.ndarray) -> dict[str, str]:
        for number, picture in enumerate(pictures):
            publish_bytes(f"{tmp_path}/pictures/{number:03d}.png", to_png(picture))
        return {"kind": "images", "path": f"{tmp_path}/pictures"}

    return write


def read_picture(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.float64)


def test_two_runs_write_the_same_bytes_and_another_seed_others(configure, contents):
    first, second, other = configure("first"), configure("second"), configure("other", seed=1)
    for config in (first, second, other):
        train_palette(config)
    assert contents(first.output) == contents(second.output)
    assert contents(first.output)["kmeans_centers.npy"] != contents(other.output)["kmeans_centers.npy"]
    assert set(contents(first.output)) == {
        "kmeans_centers.npy", "palette.png", "reconstructions.png", "metrics.jsonl", "begun.json", "manifest.json",
    }  # fmt: skip
    assert train_palette(first) == read_manifest(first.output)
    with pytest.raises(ShardError, match="codebook_size"):
        train_palette(configure("first", codebook_size=13))


def test_figures_are_those_of_the_file_as_it_lies(configure, metrics):
    config = configure("out", held_out_share=0.3, measured_pictures=5)
    details = train_palette(config).details
    centres = np.load(f"{config.output}/kmeans_centers.npy")
    assert (centres.dtype, centres.shape) == (np.float32, (12, 3))
    images = open_images(config, 16, Ranks())
    measured = images.held_out.pictures(range(5))
    distances = np.square(measured[..., None, :] / 127.5 - 1 - centres.astype(np.float64)).sum(-1)
    tokens = distances.argmin(-1)
    drawn = np.rint(127.5 * (centres.astype(np.float64) + 1))[tokens]
    error = np.square(drawn - measured).mean()
    assert details["psnr_db"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    assert details["code_usage"] == pytest.approx(len(np.unique(tokens)) / 12, abs=1e-4)
    assert (details["measured_on"], details["measured_pictures"]) == ("held_out", 5)
    colours = read_picture(f"{config.output}/palette.png")[8, 8 : 12 * 16 : 16]
    assert np.array_equal(colours, np.rint(127.5 * (centres.astype(np.float64) + 1)))
    pairs = read_picture(f"{config.output}/reconstructions.png").reshape(2, 16, 5, 16, 3).swapaxes(1, 2)
    assert np.array_equal(pairs, np.stack([measured, drawn]))
    sampled = sample_pixels(images.pictures, config) / 127.5 - 1
    costs = np.square(sampled[:, None] - centres).sum(-1)
    assert details["mean_squared_distance"] == pytest.approx(costs.min(1).mean(), rel=1e-5)
    assert (np.diff(np.bincount(costs.argmin(1), minlength=12)) <= 0).all()  # the most used first
    falling = [line["mean_squared_distance"] for line in metrics(config.output)]
    assert falling == sorted(falling, reverse=True)
    assert len(falling) > 3


def test_tokenize_reads_the_directory_as_it_is(configure):
    config = configure("out")
    details = train_palette(config).details
    tokenizer = load_tokenizer(config.output, choices=Choices(image_side=16))
    assert tokenizer.spec[:5] == ("igpt", 12, 16, 16, (-1.0, 1.0))
    assert tokenizer.fingerprint == details["fingerprint"]
    assert details["shape"] == {"codebook_size": 12, "image_side": 16, "patch_side": 1}


def test_pictures_of_few_colours_come_back_as_they_were(configure, folder):
    colours = np.array([[0, 0, 0], [255, 0, 0], [12, 200, 77], [255, 255, 255]], np.uint8)
    pictures = colours[np.random.default_rng(0).integers(0, 4, (6, 16, 16))]
    config = configure("out", source=folder(pictures), codebook_size=4, measured_pictures=6)
    details = train_palette(config).details
    assert details["psnr_db"] == 100
    found = np.load(f"{config.output}/kmeans_centers.npy")
    assert np.abs(np.sort(found, axis=0) - np.sort(colours / 127.5 - 1, axis=0)).max() < 1e-6


def test_more_codes_than_colours_are_refused(configure, folder):
    pictures = np.zeros((3, 16, 16, 3), np.uint8)
    pictures[:, :8] = 255
    config = configure("out", source=folder(pictures), codebook_size=3, num_pixels=700)
    with pytest.raises(
        ConfigError,
        match="codebook_size: expected at most 2, the distinct colours of the 700 pixels drawn, found 3; lower it in a "
        "new output, or draw more by num_pixels",
    ):
        train_palette(config)


@pytest.mark.parametrize(
    ("num_pixels", "pixels_per_picture", "each"),
    [(64, 8, [8] * 8), (600, 8, [60] * 10), (60, 16, [16, 16, 16, 12]), (10**6, 1, [256] * 10)],
)
def test_pixels_are_drawn_from_as_many_pictures_as_the_config_says(
    configure, folder, num_pixels, pixels_per_picture, each
):
    pictures = np.zeros((10, 16, 16, 3), np.uint8)
    pictures[..., 0] = np.arange(10)[:, None, None]
    pictures[..., 1] = np.arange(256).reshape(16, 16)
    sizes = {"num_pixels": num_pixels, "pixels_per_picture": pixels_per_picture, "batch_size": 4}
    config = configure("out", source=folder(pictures), **sizes)
    Path(config.output).mkdir()
    images = open_images(config, 16, Ranks())
    drawn = sample_pixels(images.pictures, config)
    assert len(drawn) == sum(each)
    assert len(np.unique(drawn, axis=0)) == len(drawn)  # none twice
    found = [drawn[drawn[:, 0] == number, 1] for number in range(10)]
    assert sorted((len(places) for places in found if len(places)), reverse=True) == each
    if len(drawn) == 64:
        chosen = [set(places.tolist()) for places in found if len(places)]
        assert len(set().union(*chosen)) > 40  # each picture's are others
