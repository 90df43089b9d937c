"""A text encoder that learns from text, then from pairs, then begins a prior: each by its job, on tiny data."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.contrastive import Contrastive, load_contrastive
from model.priors.prior_file import load_prior
from model.text_encoder_file import load_text_encoder
from model.training.row_trainee import RowTrainee
from model.training.train_contrastive import TrainContrastiveConfig, train_contrastive
from model.training.train_prior import TrainPriorConfig, train_prior
from model.training.train_text_encoder import TrainTextEncoderConfig, train_text_encoder
from parti_data import TokenDataset
from parti_data.errors import CheckpointError, ConfigError
from parti_data.ledger import PairDirectory
from parti_data.storage import sha256_file
from parti_data.text import TextTokenizer

ARCHITECTURE = """
[architecture]
max_text_length = 16
width = 16
hidden = 32
num_heads = 2
num_encoder_layers = 1
"""
SCHEDULE = """
[schedule]
num_steps = 24
lr = 1e-2
warmup_steps = 5
checkpoint_every = 6
log_every = 1
precision = "float32"
"""
TEXT = f"batch_size = 32\nmeasured_rows = 40\nema_decay = 0.9\n{ARCHITECTURE}dropout = 0.1\n{SCHEDULE}"
PAIRS = (
    "batch_size = 32\nmeasured_rows = 50\n"
    f"{ARCHITECTURE}dropout = 0.1\nnum_image_layers = 1\nembedding_width = 8\n{SCHEDULE}"
)
JOBS = {
    "text_encoder": (train_text_encoder, TrainTextEncoderConfig),
    "contrastive": (train_contrastive, TrainContrastiveConfig),
    "prior": (train_prior, TrainPriorConfig),
}
FILES = {"text_encoder": "text_encoder.safetensors", "contrastive": "contrastive.safetensors"}
LEARNED = (
    "step", "total", "gradient_norm", "scale", "held_out_loss", "held_out_accuracy", "text_to_image_accuracy",
    "image_to_text_accuracy",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokens, filtered, text_file):
    """The folder of configs and runs, with the captions as plain text."""
    folder = tmp_path_factory.mktemp("warm")
    captions = [caption for row in PairDirectory(filtered).kept() for caption in row.captions]
    (folder / "a.txt").write_text("\n".join(captions[:30]))
    (folder / "b.txt").write_text("\n\n".join(captions[30:]))
    held_out = f'source = "{tokens}"\nheld_out = "{tokens}"\n'
    (folder / "text_encoder.toml").write_text(held_out + TEXT)
    (folder / "contrastive.toml").write_text(held_out + PAIRS)
    (folder / "prior.toml").write_text(
        f'source = "{tokens}"\nbatch_size = 8\n{ARCHITECTURE}num_decoder_layers = 1\n{SCHEDULE}'
    )
    return folder


@pytest.fixture(scope="module")
def train(folder):
    """Run a job with overrides, stopped in a step where one is told; return its output."""
    after_step = RowTrainee.after_step

    def train(job, name, *words, stop=-1):
        def stopped(self, step):
            if step == stop:
                raise KeyboardInterrupt
            after_step(self, step)

        run, config = JOBS[job]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(RowTrainee, "after_step", stopped)
            try:
                run(config.load(str(folder / f"{job}.toml"), [f"output={folder / name}", *words]))
            except KeyboardInterrupt:
                assert stop >= 0
        return folder / name

    return train


@pytest.fixture(scope="module")
def text_encoder(train):
    return train("text_encoder", "captions")


@pytest.fixture(scope="module")
def contrastive(train, text_encoder):
    return train("contrastive", "pairs", f"start_from={text_encoder}/text_encoder.safetensors")


@pytest.fixture(scope="module")
def outputs(text_encoder, contrastive):
    return {"text_encoder": text_encoder, "contrastive": contrastive}


def learned(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in LEARNED if name in line} for line in lines]


def series(directory: Path, name: str) -> list[float]:
    return [line[name] for line in learned(directory) if name in line]


def test_a_text_encoder_learns_to_tell_the_captions_hidden_ids(text_encoder):
    losses = series(text_encoder, "held_out_loss")
    assert len(losses) == 4
    assert losses[-1] < 0.9 * losses[0]
    assert series(text_encoder, "total")[0] == pytest.approx(torch.tensor(128.0).log().item(), abs=1.5)
    assert 0 < series(text_encoder, "held_out_accuracy")[-1] <= 1


def test_a_contrastive_model_learns_to_tell_pairs(contrastive):
    losses, scales = series(contrastive, "total"), series(contrastive, "scale")
    assert losses[-1] < 0.9 * losses[0]
    assert scales[0] == pytest.approx(1 / 0.07, rel=1e-4)
    assert max(scales) <= 100
    for side in ("text_to_image_accuracy", "image_to_text_accuracy"):
        found = series(contrastive, side)
        assert len(found) == 4
        assert found[-1] > found[0] > 0
    assert load_contrastive(f"{contrastive}/contrastive.safetensors").model.shape.grid_side == 4


@pytest.mark.parametrize("job", FILES)
def test_a_run_stopped_anywhere_ends_with_the_same_bytes(train, outputs, job):
    words = [] if job == "text_encoder" else [f"start_from={outputs['text_encoder']}/text_encoder.safetensors"]
    for stop in (8, -1):
        stopped = train(job, f"{job}_stopped", *words, stop=stop)
    assert learned(stopped) == learned(outputs[job])
    assert (stopped / FILES[job]).read_bytes() == (outputs[job] / FILES[job]).read_bytes()


@pytest.mark.parametrize("job", FILES)
def test_a_prior_begins_with_the_text_encoder_of_either_file_and_its_manifest_tells_which(train, outputs, job):
    path = f"{outputs[job]}/{FILES[job]}"
    output = train("prior", f"prior_of_{job}", f"start_from={path}", "schedule.num_steps=1", "schedule.lr=1e-12")
    begun = load_prior(f"{output}/prior.safetensors").model.text_encoder.state_dict()
    prefix = "text_encoder." if job == "contrastive" else ""
    wanted = {name.removeprefix(prefix): value for name, value in load_file(path).items() if name.startswith(prefix)}
    assert begun.keys() == wanted.keys()
    for name, value in begun.items():
        torch.testing.assert_close(value, wanted[name], atol=1e-6, rtol=0)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["inputs"]["start_from"] == sha256_file(path)
    assert "start_from" not in manifest["config"]


def test_the_contrastive_text_tower_began_with_the_text_encoder(train, text_encoder):
    path = f"{text_encoder}/text_encoder.safetensors"
    words = [f"start_from={path}", "schedule.num_steps=1", "schedule.lr=1e-12", "held_out="]
    output = train("contrastive", "begun", *words)
    found, wanted = load_text_encoder(f"{output}/contrastive.safetensors"), load_text_encoder(path)
    assert found.text_tokenizer == wanted.text_tokenizer
    for name, value in wanted.encoder.state_dict().items():
        torch.testing.assert_close(found.encoder.state_dict()[name], value, atol=1e-6, rtol=0)


def test_plain_text_is_learned_from_as_captions_are(train, folder, text_file, tokens):
    words = [f"source={folder}/?.txt", f"text.tokenizer={text_file}", f"held_out={tokens}"]
    for stop in (8, -1):
        output = train("text_encoder", "lines", *words, stop=stop)
    losses = series(output, "held_out_loss")
    assert losses[-1] < 0.9 * losses[0]
    manifest = json.loads((output / "manifest.json").read_text())
    lines = [line for name in "ab" for line in (folder / f"{name}.txt").read_text().splitlines() if line]
    assert manifest["counts"] == {"rows": len(lines)}
    assert {shard["name"] for shard in manifest["shards"]} == {
        "lines.parquet", "metrics.jsonl", "text_encoder.safetensors"
    }  # fmt: skip
    fingerprint = TextTokenizer(text_file).fingerprint
    assert manifest["inputs"]["text_tokenizer"] == fingerprint
    assert load_text_encoder(f"{output}/text_encoder.safetensors").text_tokenizer == fingerprint


def test_two_ranks_or_two_parts_learn_as_one(train, folder, outputs, run_on_ranks):
    start = f"start_from={outputs['text_encoder']}/text_encoder.safetensors"
    together = [
        ["text_encoder", f"{folder}/text_encoder.toml", f"output={folder}/text_two"],
        ["contrastive", f"{folder}/contrastive.toml", f"output={folder}/pairs_two", start],
    ]
    run_on_ranks(Path(__file__).with_name("train_on_two_ranks.py"), TRAININGS=together)
    train("text_encoder", "text_parts", "batch_parts=2", "recompute_blocks=true")
    for job, name in (("text_encoder", "text_two"), ("text_encoder", "text_parts"), ("contrastive", "pairs_two")):
        for mine, its in zip(learned(outputs[job]), learned(folder / name), strict=True):
            rounding = 1e-5 if "total" in mine else 0.021  # figures of 40 or 50 rows: one may be found or lost
            assert its == pytest.approx(mine, abs=rounding, rel=2e-5), (mine, its)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["architecture.width=32"], "start_from: expected width 32 as in architecture, found 16 in .*; change archi"),
        (["architecture.qk_norm=true"], "start_from: expected qk_norm True as in architecture, found False in"),
        (["architecture.max_text_length=12"], "start_from: expected max_text_length 12 as in architecture, found 16"),
    ],
)
def test_a_text_encoder_of_another_shape_is_refused_before_anything_is_begun(train, folder, outputs, words, message):
    for job, path in ((name, outputs[name] / FILES[name]) for name in FILES):
        with pytest.raises(ConfigError, match=message):
            train("prior", f"refused_{job}", f"start_from={path}", *words)
        assert not (folder / f"refused_{job}").exists()


def test_a_text_encoder_of_another_text_tokenizer_is_refused(train, folder, outputs, filtered, tmp_path):
    from parti_data.text import train_sentencepiece

    captions = (caption for row in PairDirectory(filtered).kept() for caption in row.captions)
    (tmp_path / "other.model").write_bytes(train_sentencepiece(captions, 100, 0))
    other = TextTokenizer(f"{tmp_path}/other.model").fingerprint[:12]
    path = outputs["text_encoder"] / FILES["text_encoder"]
    with pytest.raises(ConfigError, match=f"expected a text encoder of the text tokenizer {other} that gives the ids"):
        train("contrastive", "refused", f"start_from={path}", f"text.tokenizer={tmp_path}/other.model", "held_out=")
    assert not (folder / "refused").exists()


def test_dropout_may_be_another(train, outputs):
    path = outputs["contrastive"] / FILES["contrastive"]
    output = train("prior", "dropout", f"start_from={path}", "schedule.num_steps=1", "architecture.dropout=0.3")
    assert load_prior(f"{output}/prior.safetensors").model.shape.dropout == 0.3


@pytest.mark.parametrize("name", ["none", "prior"])
def test_what_has_no_such_text_encoder_is_refused(train, folder, outputs, name):
    found = {
        "none": "expected a text encoder's file, found none; make one with parti train text-encoder or parti train",
        "prior": "expected a text encoder of ours, found kind parti; check the file",
    }
    output = train("prior", "another", "schedule.num_steps=1")
    with pytest.raises(CheckpointError, match=found[name]):
        train("prior", "refused", f"start_from={output}/{name}.safetensors")


def test_plain_text_without_a_tokenizer_is_refused(train, folder):
    with pytest.raises(ConfigError, match="text.tokenizer: expected the SentencePiece model that makes ids of the lin"):
        train("text_encoder", "refused", f"source={folder}/a.txt")
    assert not (folder / "refused").exists()


def test_held_out_text_of_another_tokenizer_is_refused(train, folder, tokens, tmp_path):
    """Token shards whose manifest tells of another text tokenizer."""
    other = tmp_path / "tokens"
    shutil.copytree(tokens, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["details"]["metadata"]["text_tokenizer"] = "cd" * 32
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=f"held_out: expected ids of the text tokenizer .* found {'cd' * 6} in"):
        train("text_encoder", "refused", f"held_out={other}")
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("job", FILES)
def test_a_batch_that_ranks_cannot_share_is_refused(train, folder, job, monkeypatch):
    from contextlib import nullcontext

    from model.training.ranks import Ranks

    monkeypatch.setattr(f"model.training.train_{job}.join_ranks", lambda device: nullcontext(Ranks(0, 3)))
    with pytest.raises(ConfigError, match="batch_size: expected a multiple of 3 ranks, found 32"):
        train(job, "refused")


def test_rows_that_are_measured_are_counted(outputs, tokens):
    assert TokenDataset(tokens, 8).num_rows > 50  # so that measured_rows is what bounds them
    shares = [50 * value for value in series(outputs["contrastive"], "text_to_image_accuracy")]
    assert shares == pytest.approx([round(share) for share in shares], abs=1e-6)


def test_no_more_held_out_rows_are_embedded_than_are_measured(train, monkeypatch):
    embed, seen = Contrastive.embed_texts, []

    def counted(self, text_ids):
        seen.extend([] if self.training else text_ids)
        return embed(self, text_ids)

    monkeypatch.setattr(Contrastive, "embed_texts", counted)
    train("contrastive", "few", "measured_rows=3", "schedule.num_steps=1")
    assert len(seen) == 3
