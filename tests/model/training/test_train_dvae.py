"""The dVAE's job: its loss and one update in float64, ranks and parts, exact resume, and its tokens in shards."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from published_checkpoints import dvae_half
from pydantic import ValidationError

from model.tokenizers import load_tokenizer, save_tokenizer
from model.tokenizers.dvae import DVAE, DVAEShape, Relaxed
from model.training.dvae_losses import dvae_losses
from model.training.dvae_trainee import DVAETrainee
from model.training.loop import train
from model.training.ranks import Ranks
from model.training.schedule import Schedule
from model.training.tokenizer_images import open_images
from model.training.train_dvae import TrainDVAEConfig, train_dvae
from model.training.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from parti_data.errors import ConfigError
from parti_data.manifest import read_manifest
from parti_data.sources import SyntheticSource
from parti_data.token_shard import read_metadata, read_row_group
from pipelines.tokenize import tokenize_pairs
from pipelines.verify import verify

SMALL = {"image_side": 32, "width": 8, "num_groups": 3, "num_blocks": 2, "codebook_size": 24, "code_width": 12}
SCHEDULE = {
    "num_steps": 9, "lr": 1e-3, "warmup_steps": 2, "checkpoint_every": 4, "log_every": 2, "precision": "float32",
}  # fmt: skip
EVERYTHING = {"augmentation": "dalle", "batch_parts": 2, "ema_decay": 0.9, "held_out_share": 0.2}


@pytest.fixture
def configure(tmp_path, filtered):
    def make(name: str, **named) -> TrainDVAEConfig:
        values = {"source": filtered, "architecture": SMALL, "schedule": SCHEDULE, "batch_size": 8}
        annealed = {"temperature": {"num_steps": 6}, "kl_weight": {"num_steps": 4}, "measured_pictures": 6}
        return TrainDVAEConfig.model_validate({"output": str(tmp_path / name), **values, **annealed, **named})

    return make


def make_trainee(config: TrainDVAEConfig, ranks: Ranks | None = None) -> DVAETrainee:
    torch.manual_seed(2)
    network, ranks = DVAE(DVAEShape(**SMALL)), ranks or Ranks()
    with torch.no_grad():  # nothing keeps a value that hides a mistake
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return DVAETrainee(config, network, open_images(config, 32, ranks), ranks)


def reference_losses(weights: dict, pixels: np.ndarray, noise: torch.Tensor, tau: float, beta: float) -> dict:
    """The negative bound of each image, summed over its values and tokens, divided by its values; float64."""
    halves = [{n[8:]: t for n, t in weights.items() if n.startswith(half)} for half in ("encoder.", "decoder.")]
    x = 0.8 * torch.from_numpy(pixels).double().permute(0, 3, 1, 2) / 255 + 0.1
    logits = dvae_half(halves[0], x, lambda y: F.max_pool2d(y, 2))  # (B, V, H, W)
    q = logits.exp() / logits.exp().sum(1, keepdim=True)
    scores = ((logits + noise.double().transpose(1, 2).unflatten(2, (8, 8))) / tau).exp()
    statistics = dvae_half(
        halves[1], scores / scores.sum(1, keepdim=True), lambda y: y.repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    mean, scale = statistics[:, :3], statistics[:, 3:].exp()
    density = (-((x / (1 - x)).log() - mean).abs() / scale).exp() / (2 * scale * x * (1 - x))
    values, tokens = 32 * 32 * 3, 8 * 8
    likelihood = -density.log().sum((1, 2, 3))
    divergence = (q * (24 * q).log()).sum((1, 2, 3))
    bound = (likelihood + beta * divergence) / values
    return {
        "total": bound.mean(),
        "logit_laplace": likelihood.mean() / values,
        "kl": divergence.mean() / tokens,
        "tau": tau,
        "beta": beta,
    }


def named_weights(trainee: DVAETrainee) -> dict[str, torch.Tensor]:
    both = trainee.networks["tokenizer"].both
    return {name: tensor.detach().double().clone() for name, tensor in both.state_dict().items()}


def test_one_update_equals_the_reference(configure, metrics):
    adamw = {"num_steps": 1, "lr": 1e-3, "warmup_steps": 0, "beta2": 0.999, "weight_decay": 0.1, "clip_norm": 0.0}
    config = configure(
        "out", ema_decay=0.999, schedule=SCHEDULE | adamw, temperature={"start": 0.7}, kl_weight={"start": 3.0}
    )
    trainee = make_trainee(config)
    weights = {name: tensor.requires_grad_() for name, tensor in named_weights(trainee).items()}
    noise = trainee._noise.rows(0, np.arange(8))
    wanted = reference_losses(weights, trainee._pictures.batch(0), noise, 0.7, 3.0)
    gradients = dict(zip(weights, torch.autograd.grad(wanted["total"], list(weights.values())), strict=True))
    train(trainee, config.schedule, config.output, "train dvae")
    (told,) = [line for line in metrics(config.output) if "total" in line]
    assert {name: told[name] for name in wanted} == pytest.approx(
        {k: float(torch.as_tensor(v).detach()) for k, v in wanted.items()}, rel=1e-5
    )
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    assert told["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    for name, found in named_weights(trainee).items():
        before, gradient = weights[name].detach(), gradients[name]
        decay = 0.1 if before.dim() > 1 else 0.0
        after = before - 1e-3 * (decay * before + gradient / (gradient.abs() + 1e-8))  # the first of AdamW's
        clear = gradient.abs() > 1e-3 * gradient.abs().max()  # where rounding cannot turn the sign
        assert clear.double().mean() > 0.4, name
        np.testing.assert_allclose(found[clear], after[clear], atol=2e-6, err_msg=name)
        average = trainee.trained.both.state_dict()[name].double()
        np.testing.assert_allclose(average[clear], (0.1 * before + 0.9 * after)[clear], atol=2e-6, err_msg=name)


def test_of_a_patch_of_eight_pixels_the_kl_weight_is_that_of_the_paper_whatever_the_side():
    for side in (64, 256):
        count = (side // 8) ** 2
        posterior = torch.randn(1, count, 50).log_softmax(-1)
        relaxed = Relaxed(torch.zeros(1, side, side, 3), torch.zeros(1, side, side, 3), posterior)
        terms = dvae_losses(torch.rand(1, side, side, 3), relaxed, 6.6)
        assert (terms["total"] - terms["logit_laplace"]).item() == pytest.approx(
            6.6 / 192 * terms["kl"].item(), rel=1e-4
        )


def test_the_divergence_is_nothing_for_an_even_guess_and_ln_v_for_certainty():
    zeros = torch.zeros(1, 8, 8, 3)
    even = dvae_losses(zeros, Relaxed(zeros, zeros, torch.zeros(1, 4, 16).log_softmax(-1)), 1.0)
    sure = dvae_losses(zeros, Relaxed(zeros, zeros, (1e4 * F.one_hot(torch.arange(4), 16)[None]).log_softmax(-1)), 1.0)
    assert even["kl"].item() == pytest.approx(0, abs=1e-6)
    assert sure["kl"].item() == pytest.approx(math.log(16), rel=1e-6)


def test_the_log_scale_goes_no_deeper_than_its_floor():
    images, log_scale = torch.full((1, 2, 2, 3), 0.5), torch.full((1, 2, 2, 3), -9.0)
    relaxed = Relaxed(torch.zeros(1, 2, 2, 3), log_scale, torch.zeros(1, 1, 4).log_softmax(-1))
    floored = dvae_losses(images, relaxed, 0.0, -3.0)["total"]
    assert floored.item() == pytest.approx(-3 + math.log(2 * 0.5 * 0.5))
    assert dvae_losses(images, relaxed, 0.0)["total"].item() == pytest.approx(-9 + math.log(2 * 0.5 * 0.5))


class Unjoined(Ranks):
    """One of several ranks, which waits for none: what it works on is asked for, not what it hears."""

    def from_first(self, value):
        return value


def gradients_of(config: TrainDVAEConfig, ranks: Ranks) -> dict[str, torch.Tensor]:
    trainee = make_trainee(config, ranks)
    for part in range(trainee.num_parts):
        (trainee.losses("tokenizer", 3, part)["total"] / trainee.num_parts).backward()
    return {name: tensor.grad for name, tensor in trainee.networks["tokenizer"].named_parameters()}


def test_ranks_and_parts_have_together_the_gradient_of_the_whole(configure):
    whole = gradients_of(configure("out"), Ranks())
    halves = [gradients_of(configure("out", batch_parts=2), Unjoined(rank, 2)) for rank in (0, 1)]
    for name, gradient in whole.items():
        assert torch.allclose((halves[0][name] + halves[1][name]) / 2, gradient, rtol=1e-4, atol=1e-6), name


def files(directory: str) -> dict[str, bytes]:
    """Those of the manifest, but for the speed in the metrics."""
    names = [shard.name for shard in read_manifest(directory).shards]
    return {name: Path(directory, name).read_bytes() for name in names if name != "metrics.jsonl"}


def test_a_run_with_everything_on_that_is_stopped_ends_the_same(configure, monkeypatch, metrics):
    whole, parts = configure("whole", **EVERYTHING), configure("parts", **EVERYTHING)
    train_dvae(whole)
    after_step = DVAETrainee.after_step

    def stop(self, step):
        if step == 6:
            raise KeyboardInterrupt
        after_step(self, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(DVAETrainee, "after_step", stop)
        train_dvae(parts)
    train_dvae(parts)
    assert files(parts.output) == files(whole.output)
    assert files(whole.output).keys() >= {
        "tokenizer.safetensors",
        "reconstructions.png",
        "reconstructions-00000009.png",
    }
    for mine, other in zip(metrics(parts.output), metrics(whole.output), strict=True):
        assert {**mine, "steps_per_s": 0} == {**other, "steps_per_s": 0}
    assert {name for line in metrics(whole.output) for name in line} >= {
        "total", "logit_laplace", "kl", "tau", "beta", "psnr_db", "code_usage", "perplexity",
    }  # fmt: skip
    assert [line["tau"] for line in metrics(whole.output) if "tau" in line][-1] == 1 / 16


def test_figures_are_those_of_the_tokens_of_what_is_saved(configure):
    config = configure("out", ema_decay=0.5, held_out_share=0.2)
    manifest = train_dvae(config)
    tokenizer = load_tokenizer(f"{config.output}/tokenizer.safetensors")
    held_out = open_images(config, 32, Ranks()).held_out
    pictures = held_out.pictures(range(6))
    tokens = tokenizer.encode(pictures)
    error = np.square(tokenizer.decode(tokens).numpy().astype(np.float64) - pictures).mean()
    details = manifest.details
    assert details["psnr_db"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    assert details["code_usage"] == pytest.approx(len(tokens.unique()) / 24, abs=1e-4)
    assert (details["fingerprint"], details["shape"]) == (tokenizer.fingerprint, SMALL | {"patch_side": 4})
    assert (details["measured_on"], details["measured_pictures"]) == ("held_out", 6)
    with Image.open(Path(config.output, "reconstructions.png")) as drawn:
        assert drawn.size == (6 * 32, 2 * 32)


def test_tokens_of_a_trained_one_are_made_read_and_verified_like_all_others(
    configure, make_tokenize_config, beam_options, tmp_path
):
    config = configure("dvae")
    train_dvae(config)
    path = f"{config.output}/tokenizer.safetensors"
    output = str(tmp_path / "tokens")
    manifest = tokenize_pairs(make_tokenize_config(output, image_tokenizer=path), beam_options())
    tokenizer = load_tokenizer(path)
    shard = f"{output}/{manifest.shards[0].name}"
    metadata, _ = read_metadata(shard)
    assert (metadata.image_tokenizer, metadata.codebook_size) == (tokenizer.fingerprint, 24)
    assert (metadata.grid_side, metadata.image_side, metadata.num_tokens) == (8, 32, 64)
    assert len(read_row_group(shard, 0).column("image_tokens")[0]) == 64
    assert any("64" in line for line in verify(output, 64))


def test_a_short_run_learns_scenes_that_it_never_saw(configure, metrics):
    scenes = SyntheticSource(num_pairs=80, side_px=32)
    schedule = SCHEDULE | {"num_steps": 100, "lr": 5e-3, "warmup_steps": 5, "checkpoint_every": 100}
    named = {"architecture": SMALL | {"width": 16, "num_blocks": 1}, "kl_weight": {"end": 0.5}, "batch_size": 16}
    named |= {"temperature": {"num_steps": 50}, "lowest_log_scale": -2.0, "held_out_share": 0.2}
    config = configure("out", source=scenes, schedule=schedule, **named)
    details = train_dvae(config).details
    losses = [line["logit_laplace"] for line in metrics(config.output) if "total" in line]
    assert losses[-1] < losses[0] - 1
    pictures = open_images(config, 32, Ranks()).held_out.pictures(range(6)).astype(np.float64)
    one_colour = 10 * np.log10(255**2 / np.square(pictures - pictures.mean((0, 1, 2))).mean())
    assert details["psnr_db"] > one_colour + 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_parts": 3}, "batch_parts: expected a divisor of the 8 images a rank, found 3"),
        ({"architecture": {"image_side": 36}}, r"architecture\.image_side: expected a multiple of patch_side = 8"),
        ({"architecture": {"n_hid": 64}}, "architecture: expected a known key, found 'n_hid'"),
    ],
)
def test_what_another_config_mends_is_refused_before_anything_is_begun(configure, wrong, message):
    config = configure("out", **wrong)
    with pytest.raises(ConfigError, match=message):
        train_dvae(config)
    assert not Path(config.output).exists()


def test_the_other_job_for_tokenizers_does_not_start_from_one(tmp_path, filtered):
    path = str(tmp_path / "dvae.safetensors")
    save_tokenizer(DVAE(DVAEShape(**SMALL)), path)
    config = TrainTokenizerConfig(
        output=str(tmp_path / "out"), source=filtered, start_from=path, schedule=Schedule(num_steps=1, lr=1e-3)
    )
    with pytest.raises(ConfigError, match="start_from: expected a ViT-VQGAN, found openai_dvae; name another file"):
        train_tokenizer(config)


def test_nothing_looks_at_its_images_but_the_likelihood(configure):
    for name, value in (("vgg16", "vgg16.pth"), ("adversarial", {})):
        with pytest.raises(ValidationError, match=f"{name}\n  Extra inputs are not permitted"):
            configure("out", **{name: value})
