"""Priors of classes, and of nothing, through the jobs that every family shares: trained, sampled, measured."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.evaluation.evaluate import EvaluateConfig, evaluate
from model.evaluation.evaluate_config import HeldOutLossSettings
from model.priors.prior_file import load_prior
from model.sampling.sample import SampleConfig, sample
from model.training.schedule import Schedule
from model.training.train_prior import TrainPriorConfig, train_prior
from parti_data import token_directory
from parti_data.errors import ConfigError, ShardError
from parti_data.manifest import Manifest
from parti_data.token_directory import class_names, open_token_directory

TINY = {"width": 32, "hidden": 64, "num_heads": 2, "num_layers": 1}
SHORT = Schedule(num_steps=20, lr=3e-3, warmup_steps=5, checkpoint_every=10, log_every=5)


def train(output: Path, tokens: str, **values) -> Manifest:
    values = {"family": "vim", "architecture": TINY, "schedule": SHORT, "batch_size": 8, "text_drop": 0.0} | values
    return train_prior(TrainPriorConfig(output=str(output), source=tokens, held_out=tokens, **values))


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory, tokens) -> str:
    output = tmp_path_factory.mktemp("of_classes")
    train(output, tokens, architecture=TINY | {"class_conditional": True})
    return str(output / "prior.safetensors")


@pytest.fixture(scope="module")
def of_nothing(tmp_path_factory, tokens) -> str:
    output = tmp_path_factory.mktemp("of_nothing")
    train(output, tokens)
    return str(output / "prior.safetensors")


def captions_of(tokens: str) -> list[str]:
    tables = [pq.read_table(path, columns=["captions"]) for path in sorted(Path(tokens).glob("tokens-*.parquet"))]
    return sorted({caption for table in tables for row in table.column("captions").to_pylist() for caption in row})


def drawn(path: Path, prior: str, image_file: str, **values) -> list[dict]:
    values = {"samples_per_prompt": 3, "sampling": {"guidance": 1}} | values
    sample(SampleConfig(output=str(path), prior=prior, image_tokenizer=image_file, **values))
    return pq.read_table(path / "samples.parquet").to_pylist()


def test_the_classes_are_the_distinct_captions_of_the_shards(of_classes, tokens):
    assert list(load_prior(of_classes).model.shape.classes) == captions_of(tokens)


def test_too_many_captions_are_no_classes(tokens, monkeypatch):
    monkeypatch.setattr(token_directory, "MOST_CLASSES", 3)
    with pytest.raises(ShardError, match="expected captions that name at most 3 classes, found more; train without"):
        class_names([open_token_directory(tokens)])


def test_a_prior_that_never_went_without_a_class_is_not_guided(of_classes, image_file, tokens, tmp_path):
    message = "sampling.guidance: expected 1 for a prior that was trained with text_drop=0, found 1.2; change it, or"
    with pytest.raises(ConfigError, match=message):
        drawn(tmp_path / "samples", of_classes, image_file, prompts=captions_of(tokens)[:1], sampling={})
    assert not (tmp_path / "samples").exists()


def test_a_share_of_texts_that_is_none_is_refused(tokens, tmp_path):
    for text_drop in (-0.1, 1.0, 10):
        with pytest.raises(ValueError, match="text_drop"):
            train(tmp_path / "prior", tokens, text_drop=text_drop)


def test_a_row_without_a_caption_has_no_class(tokens, monkeypatch):
    bare = pa.table({"captions": pa.array([["a red ring"], []], pa.list_(pa.string()))})
    monkeypatch.setattr(token_directory, "read_row_group", lambda *_: bare)
    message = "expected a caption that names the class of each row, found a row without; tokenize pairs"
    with pytest.raises(ShardError, match=message):
        class_names([open_token_directory(tokens)])


def test_held_out_captions_that_are_no_classes_are_refused_before_anything_is_begun(tokens, tmp_path, monkeypatch):
    told = iter([["a"], ["a", "b"]])  # of source, then of held_out
    monkeypatch.setattr("model.training.pair_job.class_names", lambda directories: next(told))
    message = "held_out: expected captions that name one of the 1 classes of source, found 'b'; hold out pairs of"
    with pytest.raises(ShardError, match=message):
        train(tmp_path / "prior", tokens, architecture=TINY | {"class_conditional": True})
    assert not (tmp_path / "prior").exists()


@pytest.mark.parametrize("classes", ["abc", 1000])
def test_classes_are_told_by_the_shards_alone(tokens, tmp_path, classes):
    with pytest.raises(ConfigError, match="architecture: expected a known key, found 'classes'; did you mean"):
        train(tmp_path / "prior", tokens, architecture=TINY | {"classes": classes})


def test_a_prior_of_nothing_is_ranked_by_no_prompt(of_nothing, image_file, text_file, tmp_path):
    values = {"ranking": {"model": "x"}, "text_tokenizer": text_file}
    with pytest.raises(ConfigError, match="ranking: expected a prior that reads prompts, found one that reads none;"):
        drawn(tmp_path / "samples", of_nothing, image_file, **values)


def test_captions_too_long_for_a_files_header_are_no_classes(tokens, monkeypatch):
    num_bytes = sum(len(caption.encode()) for caption in captions_of(tokens))
    monkeypatch.setattr(token_directory, "_MOST_NAME_BYTES", num_bytes)
    assert class_names([open_token_directory(tokens)]) == captions_of(tokens)
    monkeypatch.setattr(token_directory, "_MOST_NAME_BYTES", num_bytes - 1)
    with pytest.raises(ShardError, match=f"that name classes in {num_bytes - 1} bytes together, found {num_bytes}; tr"):
        class_names([open_token_directory(tokens)])


def test_a_prior_of_classes_draws_by_their_names_without_a_text_tokenizer(of_classes, image_file, tokens, tmp_path):
    names = captions_of(tokens)[:2]
    rows = drawn(tmp_path / "samples", of_classes, image_file, prompts=names)
    assert [row["prompt"] for row in rows] == [names[0]] * 3 + [names[1]] * 3
    assert rows[0]["image_tokens"] != rows[3]["image_tokens"]


def test_a_prompt_that_is_no_class_is_refused_before_anything_is_begun(of_classes, image_file, tmp_path):
    with pytest.raises(ConfigError, match="found 'a purple cow'"):
        drawn(tmp_path / "samples", of_classes, image_file, prompts=["a purple cow"])
    assert not (tmp_path / "samples").exists()


def test_a_prior_of_nothing_draws_as_many_as_are_asked_for_whatever_the_guidance(of_nothing, image_file, tmp_path):
    plain, guided = (
        drawn(tmp_path / str(guidance), of_nothing, image_file, sampling={"guidance": guidance}) for guidance in (1, 3)
    )
    assert [row["prompt"] for row in plain] == [""] * 3
    assert len({tuple(row["image_tokens"]) for row in plain}) == 3
    assert [row["image_tokens"] for row in plain] == [row["image_tokens"] for row in guided]


def test_prompts_for_a_prior_of_nothing_are_refused(of_nothing, image_file, tmp_path):
    with pytest.raises(ConfigError, match="prompts: expected none for a prior that reads nothing, found 1; leave"):
        drawn(tmp_path / "samples", of_nothing, image_file, prompts=["a small red ring"])


def test_a_prior_of_nothing_completes_pictures_without_prompts(of_nothing, image_file, tmp_path, tokens):
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    completion = {"pictures": [str(tmp_path / "red.png")], "rows": 2}
    rows = drawn(tmp_path / "samples", of_nothing, image_file, completion=completion)
    assert len(rows) == 3
    assert len({tuple(row["image_tokens"][:8]) for row in rows}) == 1


@pytest.mark.parametrize("kind", ["of_classes", "of_nothing"])
def test_the_held_out_loss_is_measured_whatever_a_prior_reads(kind, tokens, request, tmp_path):
    held_out = HeldOutLossSettings(prior=request.getfixturevalue(kind), tokens=tokens)
    manifest = evaluate(EvaluateConfig(output=str(tmp_path), held_out=held_out))
    assert 0 < manifest.details["figures"]["held_out_nats_a_token"] < 4.5


def test_a_prior_without_a_text_encoder_begins_with_none(tokens, tmp_path):
    with pytest.raises(ConfigError, match="start_from: expected a network with a text encoder, found one without"):
        train(tmp_path / "prior", tokens, start_from="encoder.safetensors")


def test_a_prior_that_reads_text_needs_its_tokenizer(tokens, image_file, tmp_path):
    sizes = {"width": 32, "hidden": 64, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
    short = SHORT.model_copy(update={"num_steps": 6})
    train(tmp_path / "prior", tokens, family="parti", architecture=sizes, schedule=short)
    with pytest.raises(ConfigError, match="text_tokenizer: expected the file that gave the text ids, found none"):
        drawn(tmp_path / "samples", str(tmp_path / "prior" / "prior.safetensors"), image_file, prompts=["x"])
