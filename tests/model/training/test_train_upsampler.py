"""The upsampler's job: what it is fed, its loss in float64, exact resume with everything on, and that it helps."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from model.tokenizers import load_tokenizer
from model.training.enlargements import Redrawing, measure_upsampler
from model.training.ranks import Ranks
from model.training.tokenizer_images import open_images
from model.training.train_upsampler import TrainUpsamplerConfig, train_upsampler
from model.training.upsampler_trainee import UpsamplerTrainee
from model.upsamplers import WDSR, WDSRShape, load_upsampler
from parti_data.errors import ConfigError, ShardError
from parti_data.images import to_png
from parti_data.manifest import read_manifest
from parti_data.sources import SyntheticSource

SMALL = {"num_blocks": 1, "width": 8, "expansion": 2}
SCHEDULE = {"num_steps": 5, "lr": 1e-3, "warmup_steps": 2, "checkpoint_every": 2, "log_every": 1}
EVERYTHING = {
    "adversarial": {"start_step": 1, "r1_every": 2, "size": {"channel_base": 64}},
    "augmentation": "dalle",
    "batch_parts": 2,
    "ema_decay": 0.9,
    "held_out_share": 0.2,
}


@pytest.fixture
def configure(tmp_path, filtered, image_file):
    def make(name: str, **named) -> TrainUpsamplerConfig:
        values = {"source": filtered, "image_tokenizer": image_file, "architecture": SMALL, "schedule": SCHEDULE}
        values |= {"batch_size": 4, "measured_pictures": 6, "loss_weights": {"perceptual": 0.0}}
        return TrainUpsamplerConfig.model_validate({"output": str(tmp_path / name), **values, **named})

    return make


def random_pictures(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("scale", [2, 4])
def test_an_original_is_made_small_as_torch_does_it(image_file, scale):
    tokenizer, originals = load_tokenizer(image_file), random_pictures(2, 8 * scale)
    pixels = torch.from_numpy(originals).movedim(-1, 1).double()
    for shrinking, mode in (("nearest", "nearest"), ("area", "area")):
        wanted = F.interpolate(pixels, scale_factor=1 / scale, mode=mode).movedim(1, -1).numpy()
        small = Redrawing(tokenizer, scale, shrinking).shrink(originals)
        assert np.abs(small - wanted).max() <= (0 if shrinking == "nearest" else 0.5 + 1e-3)


def test_bicubic_puts_each_pixel_where_it_was_taken_from(image_file):
    tokenizer, small = load_tokenizer(image_file), random_pictures(2, 7)
    pixels = torch.from_numpy(small).movedim(-1, 1).double() / 255
    wanted = F.interpolate(pixels, scale_factor=4, mode="bicubic").clamp(0, 1).movedim(1, -1).numpy() * 255
    middle = Redrawing(tokenizer, 4, "area").enlarge_bicubic(small)
    assert np.abs(middle - wanted).max() <= 0.5 + 1e-2
    corner = Redrawing(tokenizer, 4, "nearest")
    assert np.array_equal(corner.shrink(corner.enlarge_bicubic(small)), small)


def test_what_is_enlarged_is_what_the_tokenizer_draws_whatever_the_precision(configure, image_file):
    config = configure("out")
    tokenizer = load_tokenizer(image_file)
    images = open_images(config, 64, Ranks())
    trainee = UpsamplerTrainee(config, WDSR(WDSRShape(**SMALL)), Redrawing(tokenizer, 2, "nearest"), images, Ranks())
    seen = []
    trainee._forward = lambda pictures: seen.append(pictures) or pictures.repeat(1, 2, 2, 1)
    with torch.autocast("cpu", torch.bfloat16):
        trainee.losses("upsampler", 3, 0)
    originals = images.pictures.batch(3)
    wanted = tokenizer.decode(tokenizer.encode(originals[:, ::2, ::2]))
    assert torch.equal(seen[0], wanted.float() / 255)


def test_a_steps_loss_is_the_weighted_sum_in_float64(configure, image_file):
    adversarial = {"gan_loss": "logistic", "size": {"channel_base": 64}}
    weights = {"l2": 0.7, "perceptual": 0.3, "adversarial": 0.2}
    config = configure("out", adversarial=adversarial, loss_weights=weights)
    images = open_images(config, 64, Ranks())
    network, redrawing = WDSR(WDSRShape(**SMALL)), Redrawing(load_tokenizer(image_file), 2, "nearest")
    distance = Distance()
    trainee = UpsamplerTrainee(config, network, redrawing, images, Ranks(), distance)
    terms = {name: term.item() for name, term in trainee.losses("upsampler", 0, 0).items()}
    originals = images.pictures.batch(0)
    inputs = torch.from_numpy(redrawing.reconstruct(originals)).movedim(-1, 1).double() / 255
    made = F.interpolate(inputs, scale_factor=2, mode="bicubic").movedim(1, -1).numpy()  # what a new network gives
    wanted = originals.astype(np.float64) / 255
    discriminator = trainee.networks["discriminator"].double()
    scores = discriminator(torch.from_numpy(made)).detach().double().numpy()
    l2, perceptual, judged = (
        ((made - wanted) ** 2).mean(),
        np.abs(made - wanted).mean(),
        np.log1p(np.exp(-scores)).mean(),
    )
    assert terms["l2"] == pytest.approx(l2, rel=1e-5)
    assert terms["perceptual"] == pytest.approx(perceptual, rel=1e-5)
    assert terms["adversarial"] == pytest.approx(judged, rel=1e-4)
    assert terms["total"] == pytest.approx(0.7 * l2 + 0.3 * perceptual + 0.2 * judged, rel=1e-4)


class Distance(torch.nn.Module):
    """In place of VGG16's: the mean absolute difference."""

    def forward(self, images, others):
        return (images - others).abs().mean()


def files(directory: str) -> dict[str, bytes]:
    """Those of the manifest, but for the speed in the metrics."""
    names = [shard.name for shard in read_manifest(directory).shards]
    return {name: Path(directory, name).read_bytes() for name in names if name != "metrics.jsonl"}


def test_a_run_with_everything_on_that_is_stopped_ends_the_same(configure, monkeypatch, metrics):
    whole, parts = configure("whole", **EVERYTHING), configure("parts", **EVERYTHING)
    train_upsampler(whole)
    after_step = UpsamplerTrainee.after_step

    def stop(self, step):
        if step == 3:
            raise KeyboardInterrupt
        after_step(self, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(UpsamplerTrainee, "after_step", stop)
        train_upsampler(parts)
    train_upsampler(parts)
    assert files(parts.output) == files(whole.output)
    assert files(whole.output).keys() >= {"upsampler.safetensors", "enlargements.png", "enlargements-00000005.png"}
    for mine, other in zip(metrics(parts.output), metrics(whole.output), strict=True):
        assert {**mine, "steps_per_s": 0} == {**other, "steps_per_s": 0}
    named = {name for line in metrics(whole.output) for name in line}
    assert named >= {"l2", "adversarial", "discriminator_r1", "psnr_db", "bicubic_psnr_db"}
    assert read_manifest(whole.output).inputs.keys() == {"source", "image_tokenizer", "image_tokenizer_files"}


def test_figures_and_pictures_are_those_of_what_is_saved(configure, image_file, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    originals = random_pictures(3, 64)
    for number, picture in enumerate(originals):
        (folder / f"{number}.png").write_bytes(to_png(picture))
    config = configure("out", source={"kind": "images", "path": str(folder)}, batch_size=2)
    details = train_upsampler(config).details
    upsampler, tokenizer = load_upsampler(f"{config.output}/upsampler.safetensors"), load_tokenizer(image_file)
    small = tokenizer.decode(tokenizer.encode(originals[:, ::2, ::2])).numpy()
    error = np.square(upsampler.enlarge(small).astype(np.float64) - originals).mean()
    assert details["psnr_db"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    assert details["image_tokenizer"] == tokenizer.fingerprint == upsampler.image_tokenizer
    with Image.open(Path(config.output, "enlargements.png")) as drawn:
        pixels = np.asarray(drawn)
    assert pixels.shape == (4 * 64, 3 * 64, 3)
    columns = [pixels[:, 64 * number :][:, :64] for number in range(3)]
    for column in columns:  # in the order of the files' keys
        (number,) = (n for n, original in enumerate(originals) if np.array_equal(original, column[192:]))
        assert np.array_equal(column[:64:2, ::2], small[number])
        assert np.array_equal(column[128:192], upsampler.enlarge(small[number][None])[0])


def test_pictures_that_come_back_exactly_have_a_figure():
    same = SimpleNamespace(pictures=lambda places: random_pictures(len(places), 8))
    same.reconstruct = same.enlarge = same.enlarge_bicubic = lambda pictures: pictures
    assert measure_upsampler(same, same, same, 3) == {"psnr_db": 100.0, "bicubic_psnr_db": 100.0}


def test_a_short_run_beats_bicubic_on_pictures_that_it_never_saw(configure):
    scenes = SyntheticSource(num_pairs=80, side_px=64)
    schedule = {"num_steps": 60, "lr": 4e-3, "warmup_steps": 5, "checkpoint_every": 60, "precision": "float32"}
    config = configure("out", source=scenes, held_out_share=0.2, batch_size=8, schedule=schedule, shrinking="area")
    details = train_upsampler(config).details
    assert details["measured_on"] == "held_out"
    assert details["psnr_db"] > details["bicubic_psnr_db"] + 0.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_parts": 3}, "batch_parts: expected a divisor of the 4 images a rank, found 3"),
        ({"architecture": {"scale": 3}}, r"architecture\.scale: expected one of \(2, 4, 8\), found 3"),
        ({"lpips": "/none.pth"}, "lpips: expected the weights of VGG16 .*, found no vgg16; name their file, or leave"),
        ({"architecture": {"depth": 3}}, "architecture: expected a known key, found 'depth'"),
    ],
)
def test_what_another_config_mends_is_refused_before_anything_is_begun(configure, wrong, message):
    config = configure("out", **wrong)
    with pytest.raises(ConfigError, match=message):
        train_upsampler(config)
    assert not Path(config.output).exists()


def test_another_tokenizer_is_another_run(configure, make_image_file, tmp_path):
    config = configure("out", schedule=SCHEDULE | {"num_steps": 1})
    train_upsampler(config)
    other = make_image_file(tmp_path / "other.safetensors", 7)
    with pytest.raises(ShardError, match=r"input image_tokenizer: begun with '\w+', now"):
        train_upsampler(config.model_copy(update={"image_tokenizer": other}))
