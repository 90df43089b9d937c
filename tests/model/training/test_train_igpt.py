"""From pictures to completed pictures by pixels: a palette, its tokens, an iGPT of either objective."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from model.evaluation.evaluate import EvaluateConfig, evaluate
from model.priors.prior_file import load_prior
from model.sampling.completion import Completion, list_pictures
from model.sampling.sample import SampleConfig, sample
from model.tokenizers import Choices, load_tokenizer
from model.training.schedule import Schedule
from model.training.train_palette import TrainPaletteConfig, train_palette
from model.training.train_prior import TrainPriorConfig, train_prior
from parti_data.errors import ConfigError
from parti_data.image_dataset import load_pictures
from parti_data.images import to_png
from parti_data.ledger import PairDirectory
from parti_data.sources import SyntheticSource

SIDE = 8
SHAPE = {"width": 32, "hidden": 128, "num_heads": 2, "num_layers": 2}
SCHEDULE = Schedule(num_steps=50, lr=5e-3, warmup_steps=5, beta2=0.95, weight_decay=0, checkpoint_every=25, log_every=5)


@pytest.fixture(scope="module")
def palette(tmp_path_factory) -> str:
    output = str(tmp_path_factory.mktemp("palette"))
    source = SyntheticSource(num_pairs=60, side_px=32)
    sizes = {"image_side": SIDE, "codebook_size": 16, "num_pixels": 4000, "batch_size": 32}
    train_palette(TrainPaletteConfig.model_validate({"output": output, "source": source, **sizes}))
    return output


@pytest.fixture(scope="module")
def pixels(tmp_path_factory, palette, make_tokenize_config, beam_options) -> str:
    """Token shards whose tokens are pixels."""
    from pipelines.tokenize import tokenize_pairs

    output = str(tmp_path_factory.mktemp("pixels"))
    reading = {"kind": "igpt", "image_side": SIDE}
    tokenize_pairs(make_tokenize_config(output, image_tokenizer=palette, tokenizer=reading), beam_options())
    return output


@pytest.fixture(scope="module", params=["autoregressive", "bert"])
def trained(request, tmp_path_factory, pixels) -> TrainPriorConfig:
    config = TrainPriorConfig.model_validate(
        {
            "output": str(tmp_path_factory.mktemp(request.param)), "source": pixels, "held_out": pixels,
            "family": "igpt", "architecture": SHAPE | {"objective": request.param}, "schedule": SCHEDULE,
            "batch_size": 16,
        }
    )  # fmt: skip
    train_prior(config)
    return config


def test_it_learns_and_its_file_says_what(trained, metrics):
    losses = [line["total"] for line in metrics(trained.output) if "total" in line]
    held_out = [line["held_out_loss"] for line in metrics(trained.output) if "held_out_loss" in line]
    assert losses[0] > 0.6 * np.log(16)
    assert losses[-1] < 0.6 * losses[0]
    assert held_out[-1] < held_out[0]
    assert load_prior(f"{trained.output}/prior.safetensors").model.shape.objective == trained.architecture["objective"]


@pytest.fixture
def sample_config(palette, tmp_path):
    def make(prior: str, **named) -> SampleConfig:
        values = {"prior": f"{prior}/prior.safetensors", "image_tokenizer": palette, "output": f"{tmp_path}/samples"}
        values |= {"tokenizer": {"kind": "igpt", "image_side": SIDE}}
        return SampleConfig.model_validate(values | named)

    return make


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    drawn = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    for number, picture in enumerate(drawn):
        (tmp_path / f"{number}.png").write_bytes(to_png(picture))
    return [f"{tmp_path}/{number}.png" for number in range(3)]


def test_whole_images_and_halves_are_drawn_without_prompts(trained, sample_config, pictures, palette, tmp_path):
    if trained.architecture["objective"] == "bert":
        with pytest.raises(ConfigError, match="found one trained with architecture.objective=bert"):
            sample(sample_config(trained.output))
        assert not Path(tmp_path, "samples").exists()
        return
    whole = sample(sample_config(trained.output, samples_per_prompt=5))
    assert whole.counts == {"prompts": 0, "images": 5}
    halves = sample_config(
        trained.output, output=f"{tmp_path}/halves", samples_per_prompt=2, completion={"pictures": pictures, "rows": 4}
    )
    assert sample(halves).counts == {"prompts": 0, "images": 6}
    rows = pq.read_table(f"{tmp_path}/halves/samples.parquet").to_pylist()
    tokenizer = load_tokenizer(palette, choices=Choices(image_side=SIDE))
    for number, row in enumerate(rows):
        with Image.open(pictures[number // 2]) as picture:
            known = tokenizer.encode(np.asarray(picture)[None])[0, : 4 * SIDE]
        assert (row["prompt"], row["image_tokens"][: 4 * SIDE]) == ("", known.tolist())
    assert len({tuple(row["image_tokens"]) for row in rows}) == 6


@pytest.mark.parametrize("kind", ["filtered", "sharded"])
def test_the_pictures_of_a_finished_directory_are_completed_and_judged(
    trained, sample_config, palette, tmp_path, kind, request
):
    if trained.architecture["objective"] == "bert":
        pytest.skip("which draws nothing")
    source = request.getfixturevalue(kind)
    completion = {"source": source, "num_pictures": 6, "rows": 4}
    manifest = sample(sample_config(trained.output, samples_per_prompt=2, completion=completion))
    assert manifest.counts == {"prompts": 0, "images": 12}
    assert manifest.config["completion"].keys() == {"rows", "limits"}
    pairs = PairDirectory(source)
    kept = list(pairs.kept(0, 6))
    tokenizer = load_tokenizer(palette, choices=Choices(image_side=SIDE))
    known = tokenizer.encode(np.stack([picture for picture, _ in load_pictures(pairs, kept, SIDE)]))[:, : 4 * SIDE]
    rows = pq.read_table(f"{tmp_path}/samples/samples.parquet").to_pylist()
    for number, row in enumerate(rows):
        assert (row["given_key"], row["given_rows"]) == (kept[number // 2].key, 4)
        assert row["image_tokens"][: 4 * SIDE] == known[number // 2].tolist()
    config = {"output": f"{tmp_path}/out", "samples": f"{tmp_path}/samples", "completions": {"source": source}}
    counts = evaluate(EvaluateConfig.model_validate(config)).counts
    assert counts["completions_judged"] + counts["completions_not_judged"] == 12
    assert counts["completions_judged"] > 0


def test_pictures_to_complete_are_named_once(sample_config, filtered, pictures):
    for named in ({"rows": 4}, {"rows": 4, "pictures": pictures, "source": filtered}):
        with pytest.raises(
            ValidationError, match="pictures are told by either completion.pictures or completion.source"
        ):
            sample_config("prior", completion=named)


def test_a_directory_without_pictures_completes_none(filtered, monkeypatch):
    monkeypatch.setattr(PairDirectory, "kept", lambda self, start, stop: iter(()))
    with pytest.raises(ConfigError, match=f"completion.source: expected kept pairs, found none in {filtered}; name"):
        list_pictures(Completion(source=filtered, rows=1))


def test_held_out_rows_are_measured(trained, pixels, tmp_path):
    held_out = {"prior": f"{trained.output}/prior.safetensors", "tokens": pixels}
    manifest = evaluate(EvaluateConfig.model_validate({"output": str(tmp_path / "out"), "held_out": held_out}))
    nats = manifest.details["figures"]["held_out_nats_a_token"]
    assert 0 < nats < np.log(16)
    is_told = "held_out_bits_an_image" in manifest.details["figures"]
    assert is_told == (trained.architecture["objective"] == "autoregressive")
