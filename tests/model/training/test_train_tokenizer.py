"""The tokenizer's job: where its images come from, exact resume with everything on, and what it leaves."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from model.tokenizers import load_tokenizer
from model.tokenizers.code_usage import CodeUsage
from model.training.ranks import Ranks
from model.training.tokenizer_config import NEVER
from model.training.tokenizer_trainee import TokenizerTrainee
from model.training.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from parti_data.errors import CheckpointError, ConfigError
from parti_data.held_out import is_held_out
from parti_data.images import to_png
from parti_data.manifest import read_manifest
from parti_data.storage import publish_bytes

SIZE = {"num_layers": 1, "num_heads": 1, "width": 16, "hidden": 32}
SHAPE = {"image_side": 16, "patch_side": 8, "codebook_size": 16, "code_width": 4, "encoder": SIZE, "decoder": SIZE}
SCHEDULE = {"num_steps": 9, "lr": 1e-3, "warmup_steps": 2, "checkpoint_every": 4, "log_every": 2}
CARE = {"continuous_steps": 2, "restart_every": 2, "restart_until": 1.0}
EVERYTHING = {
    "adversarial": {"start_step": 3, "r1_every": 2, "size": {"channel_base": 64}},
    "augmentation": "dalle",
    "batch_parts": 2,
    "ema_decay": 0.9,
    "held_out_share": 0.2,
}


@pytest.fixture
def configure(tmp_path, filtered):
    def make(name: str, **named) -> TrainTokenizerConfig:
        values = {"source": filtered, "architecture": SHAPE, "codebook": CARE, "schedule": SCHEDULE, "batch_size": 8}
        return TrainTokenizerConfig.model_validate({"output": str(tmp_path / name), **values, **named})

    return make


def files(directory: str) -> dict[str, bytes]:
    """Those of the manifest, but for the speed in the metrics."""
    names = [shard.name for shard in read_manifest(directory).shards]
    return {name: Path(directory, name).read_bytes() for name in names if name != "metrics.jsonl"}


@pytest.mark.parametrize("moment", [1, 5, 8])
def test_a_run_with_everything_on_that_is_stopped_anywhere_ends_the_same(configure, monkeypatch, moment, metrics):
    whole, parts = configure("whole", **EVERYTHING), configure("parts", **EVERYTHING)
    train_tokenizer(whole)
    after_step = TokenizerTrainee.after_step

    def stop(self, step):
        if step == moment:
            raise KeyboardInterrupt
        after_step(self, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(TokenizerTrainee, "after_step", stop)
        train_tokenizer(parts)
    train_tokenizer(parts)
    assert files(parts.output) == files(whole.output)
    assert newest(whole) == newest(parts)
    assert all("discriminator_r1" in line for line in metrics(whole.output) if line["step"] > 4 and "total" in line)
    for mine, other in zip(metrics(parts.output), metrics(whole.output), strict=True):
        assert {**mine, "steps_per_s": 0} == {**other, "steps_per_s": 0}


def newest(config) -> dict:
    """Every number of a run's newest checkpoint but for the metrics."""
    folder = sorted(Path(config.output, "checkpoints").iterdir())[-1]
    index = json.loads((folder / "index.json").read_text())
    tensors = {name: tensor.tolist() for name, tensor in load_file(folder / "rank-00000.safetensors").items()}
    return tensors | {name: index[name] for name in ("step", "figures", "plain")}


def test_what_is_measured_and_saved_is_the_average(configure):
    plain, averaged = configure("plain"), configure("averaged", ema_decay=0.99)
    for config in (plain, averaged):
        train_tokenizer(config)
    ends = [
        {name: values for name, values in newest(config).items() if name.startswith("tokenizer.")}
        for config in (plain, averaged)
    ]
    assert ends[0] == ends[1] != {}
    prints = [
        load_tokenizer(str(Path(config.output, "tokenizer.safetensors"))).fingerprint for config in (plain, averaged)
    ]
    assert prints[0] != prints[1]
    assert prints[1] == read_manifest(averaged.output).details["fingerprint"]


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of 20 pictures without captions, 2 of them copies, and 2 files that are none."""
    folder = tmp_path / "pictures" / "deep"
    folder.mkdir(parents=True)
    luck = np.random.default_rng(0)
    for number in range(18):
        (folder / f"{number:02d}.png").write_bytes(to_png(luck.integers(0, 256, (20, 30, 3), dtype=np.uint8)))
    for number in (0, 1):
        (folder / f"copy{number}.png").write_bytes((folder / f"{number:02d}.png").read_bytes())
    whole = (folder / "03.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "page.jpg").write_bytes(b"<html>")
    return folder.parent


def test_a_plain_folder_of_images_is_enough_and_bad_ones_are_told(configure, pictures, capsys):
    config = configure("out", source={"kind": "images", "path": str(pictures)}, held_out_share=0.3)
    manifest = train_tokenizer(config)
    index = pq.read_table(Path(config.output, "images.parquet")).to_pylist()
    bad = {row["source_key"]: row["reason"] for row in index if row["outcome"] == "dropped"}
    assert bad == {"deep/cut.png": "image_undecodable", "deep/page.jpg": "image_unreadable"}
    assert manifest.details["dropped"] == {"image_undecodable": 1, "image_unreadable": 1}
    assert "images that could not be used: 1 image_undecodable, 1 image_unreadable; named in" in capsys.readouterr().err
    kept = [row["key"] for row in index if row["outcome"] == "kept"]
    held_out = {key for key in kept if is_held_out(key, 0.3)}
    assert manifest.counts == {"pictures": len([key for key in kept if key not in held_out]), "dropped": 2}
    assert 0 < len(held_out) < len(kept) == 20
    assert "images.parquet" in [shard.name for shard in manifest.shards]


def test_every_source_of_filter_is_a_source_of_images(configure, filtered, sharded, synthetic):
    for name, source in {
        "scenes": synthetic,
        "tars": {"kind": "webdataset", "path": sharded},
        "shards": sharded,
    }.items():
        config = configure(name, source=source, schedule=SCHEDULE | {"num_steps": 2})
        assert train_tokenizer(config).counts["pictures"] > 50
    assert read_manifest(config.output).inputs.keys() == {"source"}


def test_a_source_that_is_misspelt_is_refused(tmp_path):
    overrides = [f"output={tmp_path}", "schedule.num_steps=1", "schedule.lr=1.0", "source.kind=images"]
    with pytest.raises(ConfigError, match=r"expected a known key, found 'source\.pth'; did you mean 'source\.path'"):
        TrainTokenizerConfig.load(None, [*overrides, "source.pth=x"])
    with pytest.raises(ConfigError, match="expected for 'source' that .*webdataset.*found"):
        TrainTokenizerConfig.load(None, [*overrides, "source.kind=tars"])


@pytest.mark.parametrize("value", ["2024", "true"])
def test_a_source_that_is_neither_table_nor_path_is_refused(tmp_path, value):
    overrides = [f"output={tmp_path}", "schedule.num_steps=1", "schedule.lr=1.0", "source=x"]
    for name in ("source", "held_out"):
        with pytest.raises(ConfigError, match=rf"expected for '{name}' a table that names its kind, found \w+; add"):
            TrainTokenizerConfig.load(None, [*overrides, f"{name}={value}"])


def test_a_folder_of_images_given_as_a_directory_is_told_how_to_be_named(configure, pictures):
    found = rf"source: expected a directory .* finished, found none at {pictures}; .* source\.kind=images source\.path="
    with pytest.raises(ConfigError, match=found):
        train_tokenizer(configure("out", source=str(pictures)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_parts": 3}, "batch_parts: expected a divisor of the 8 images a rank, found 3"),
        ({"held_out_share": 1e-9}, "held_out_share: expected some images .* held out, found none at 1e-09; raise it"),
        ({"held_out_share": 0.9999}, "held_out_share: expected some images .* found all at 0.9999; lower it"),
        ({"architecture": SHAPE | {"image_side": 24}, "adversarial": {}}, "a power of two from 16 on, found 24"),
        ({"architecture": SHAPE | {"image_side": 8}, "vgg16": "VGG16"}, "images of at least 16 px, found 8"),
        ({"lpips": "/none.pth"}, "lpips: expected the weights of VGG16 .*, found no vgg16; name their file, or leave"),
        ({"held_out": "FILTERED", "held_out_share": 0.5}, "held_out_share: expected none beside held_out, found both"),
        ({"held_out": "FILTERED"}, "held_out: expected images that are not in .*, found none in .*; name others"),
    ],
)
def test_what_another_config_mends_is_refused_before_anything_is_begun(configure, filtered, vgg16_file, wrong, message):
    given = {name: {"FILTERED": filtered, "VGG16": vgg16_file}.get(str(value), value) for name, value in wrong.items()}
    config = configure("out", **given)
    with pytest.raises(ConfigError, match=message):
        train_tokenizer(config)
    assert not Path(config.output).exists()


def test_a_batch_that_ranks_cannot_share_is_refused_before_anything_is_begun(configure, monkeypatch):
    config = configure("out")
    monkeypatch.setattr("model.training.train_tokenizer.join_ranks", lambda device: nullcontext(Ranks(0, 3)))
    with pytest.raises(ConfigError, match="batch_size: expected a multiple of the 3 ranks, found 8"):
        train_tokenizer(config)
    assert not Path(config.output).exists()


def test_a_share_of_unread_images_that_holds_nothing_out_is_told(configure, pictures):
    config = configure("out", source={"kind": "images", "path": str(pictures)}, held_out_share=1e-9)
    with pytest.raises(ConfigError, match="found none at 1e-09; raise it, in a new output if this one is begun"):
        train_tokenizer(config)


def test_an_image_of_both_sources_is_not_measured_on(configure, pictures, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    for number in range(3):
        (others / f"{number}.png").write_bytes((pictures / "deep" / f"{number:02d}.png").read_bytes())
    (others / "new.png").write_bytes(to_png(np.zeros((20, 30, 3), np.uint8)))
    named = {name: {"kind": "images", "path": str(path)} for name, path in (("source", pictures), ("held_out", others))}
    details = train_tokenizer(configure("out", **named)).details
    assert (details["measured_pictures"], details["measured_on"]) == (1, "held_out")


def test_what_was_measured_on_is_told(configure):
    assert train_tokenizer(configure("all")).details["measured_on"] == "training"
    assert train_tokenizer(configure("some", held_out_share=0.2)).details["measured_on"] == "held_out"


def test_a_codebook_that_is_given_is_not_picked_anew_unless_asked_for(configure):
    assert configure("out", codebook={}).codebook.continuous_steps == 200
    assert configure("out", codebook={}, start_from="x").codebook.continuous_steps == NEVER
    assert configure("out", codebook={"continuous_steps": 5}, start_from="x").codebook.continuous_steps == 5


def test_a_run_too_short_to_quantize_is_told(configure, capsys):
    train_tokenizer(configure("short", codebook={}))
    assert "codebook.continuous_steps=200 leaves none of the 9 steps for quantizing" in capsys.readouterr().err
    train_tokenizer(configure("long"))
    assert "for quantizing" not in capsys.readouterr().err


def test_a_directory_is_known_by_its_digest_and_a_source_by_its_table(configure, synthetic):
    assert "source" not in configure("a").deciding()
    deciding = configure("a", source=synthetic, running={"device": "cpu"}, vgg16="x").deciding()
    assert deciding["source"] == synthetic.model_dump(mode="json")
    assert deciding.keys().isdisjoint({"running", "vgg16", "held_out", "output"})


def test_a_new_decoder_learns_while_every_token_stays(configure):
    first = configure("first")
    before = train_tokenizer(first)
    path = str(Path(first.output, "tokenizer.safetensors"))
    larger = SHAPE | {"decoder": SIZE | {"num_layers": 2}, "output": "rgb"}
    config = configure("second", architecture=larger, start_from=path, train="decoder", ema_decay=0.5)
    after = train_tokenizer(config)
    assert after.details["fingerprint"] == before.details["fingerprint"]
    assert after.inputs.keys() == {"source", "start_from"}
    old, new = load_tokenizer(path), load_tokenizer(str(Path(config.output, "tokenizer.safetensors")))
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    assert torch.equal(old.encode(images), new.encode(images))
    assert not torch.equal(old.decode(old.encode(images)), new.decode(new.encode(images)))
    with pytest.raises(ConfigError, match="start_from: expected the tokenizer whose decoder is trained, found none"):
        train_tokenizer(configure("third", train="decoder"))


@pytest.mark.parametrize("train", ["all", "decoder"])
def test_no_file_to_start_from_is_told(configure, tmp_path, train):
    for path in (tmp_path, tmp_path / "missing.safetensors"):
        config = configure("out", start_from=str(path), train=train)
        with pytest.raises(ConfigError, match=f"^start_from: expected the file of a tokenizer, found none at {path};"):
            train_tokenizer(config)
        assert not Path(config.output).exists()


@pytest.fixture
def vgg16_file(tmp_path) -> str:
    """Random weights in the form of torchvision's."""
    places = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
    places |= {17: (256, 512)} | dict.fromkeys((19, 21, 24, 26, 28), (512, 512))
    state = {}
    for number, (inner, outer) in places.items():
        state[f"features.{number}.weight"] = torch.randn(outer, inner, 3, 3) * (2 / 9 / inner) ** 0.5
        state[f"features.{number}.bias"] = torch.zeros(outer)
    torch.save(state, tmp_path / "vgg16.pth")
    return str(tmp_path / "vgg16.pth")


def test_training_goes_on_without_vgg16_and_says_so_once(configure, capsys):
    config = configure("out")
    assert train_tokenizer(config).details["perceptual"] is False
    assert capsys.readouterr().err.count("no weights of VGG16 (vgg16=PATH)") == 1
    silent = configure("silent", loss_weights={"perceptual": 0.0})
    train_tokenizer(silent)
    assert "VGG16" not in capsys.readouterr().err


def test_the_perceptual_term_is_in_the_loss_and_its_file_among_the_inputs(configure, tmp_path, metrics, vgg16_file):
    config = configure("out", vgg16=vgg16_file, schedule=SCHEDULE | {"num_steps": 2})
    manifest = train_tokenizer(config)
    assert manifest.details["perceptual"] is True
    assert manifest.inputs.keys() == {"source", "vgg16"}
    assert metrics(config.output)[0]["perceptual"] > 0


def test_code_usage_is_told_of_the_last_epoch_and_of_what_is_held_out(configure, metrics):
    config = configure("out", held_out_share=0.2, schedule=SCHEDULE | {"num_steps": 24, "checkpoint_every": 24})
    train_tokenizer(config)
    figures = metrics(config.output)[-1]
    assert figures.keys() == {"step", "psnr_db", "code_usage", "perplexity", "train_code_usage", "train_perplexity"}
    assert 1 <= figures["train_perplexity"] <= 16 * figures["train_code_usage"]
    assert 1 <= figures["perplexity"] <= 16 * figures["code_usage"]


def test_usage_of_an_epoch_is_that_of_the_codes_since_they_were_picked(configure, monkeypatch):
    seen = []
    update = CodeUsage.update
    monkeypatch.setattr(
        CodeUsage, "update", lambda self, counts: (update(self, counts), seen.append(self.counts.sum()))
    )
    first_steps = SCHEDULE | {"num_steps": 4, "checkpoint_every": 4}
    train_tokenizer(configure("out", schedule=first_steps))  # 4 tokens an image; codes are picked before step 2
    assert seen[:4] == [32, 64, 32, 64]


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        ("codebook", {"restart_every": -1}),
        ("codebook", {"restart_until": -0.1}),
        ("codebook", {"restart_until": 1.1}),
        ("codebook", {"continuous_steps": -2}),
        *[("loss_weights", {name: -0.1}) for name in ("vq", "l2", "logit_laplace", "perceptual", "adversarial")],
    ],
)
def test_settings_that_cannot_be_are_refused(configure, table, wrong):
    with pytest.raises(ValidationError, match=f"{table}.{next(iter(wrong))}"):
        configure("out", **{table: wrong})


def test_pictures_are_drawn_as_it_goes(configure):
    config = configure("out", held_out_share=0.2)
    train_tokenizer(config)
    names = sorted(path.name for path in Path(config.output).glob("reconstructions-*.png"))
    assert names == [f"reconstructions-{step:08d}.png" for step in (4, 8, 9)]
    with (
        Image.open(Path(config.output, names[-1])) as last,
        Image.open(Path(config.output, "reconstructions.png")) as all_,
    ):
        assert np.array_equal(np.asarray(last), np.asarray(all_)[16:])


def test_a_loss_that_is_not_finite_names_the_images(configure, monkeypatch):
    monkeypatch.setattr("model.training.tokenizer_trainee.reconstruction_losses", not_finite)
    with pytest.raises(CheckpointError, match=r"found nan at step 0, a batch of [0-9a-f]{32}, .* and 4 more; lower"):
        train_tokenizer(configure("out"))


def not_finite(images, output, weights, perceptual):
    return {"total": output.images.mean() * float("nan")}


def test_event_files_are_no_part_of_the_manifest(configure):
    pytest.importorskip("tensorboard")
    plain, watched = configure("plain"), configure("watched", running={"tensorboard": True})
    assert files(train_and_place(plain)) == files(train_and_place(watched))
    assert list(Path(watched.output, "tensorboard").iterdir())
    begun = [json.loads(Path(config.output, "begun.json").read_text()) for config in (plain, watched)]
    assert begun[0] == begun[1]


def train_and_place(config: TrainTokenizerConfig) -> str:
    train_tokenizer(config)
    return config.output


def test_an_object_store_holds_the_source_and_the_output(configure, pictures):
    for path in (pictures / "deep").iterdir():
        publish_bytes(f"memory://pictures/{path.name}", path.read_bytes())
    source = {"kind": "images", "path": "memory://pictures"}
    config = configure("x", source=source).model_copy(update={"output": "memory://trained"})
    manifest = train_tokenizer(config)
    assert manifest.counts == {"pictures": 20, "dropped": 2}
    local = train_tokenizer(configure("local", source={"kind": "images", "path": str(pictures)}))
    assert manifest.details["fingerprint"] == local.details["fingerprint"]
