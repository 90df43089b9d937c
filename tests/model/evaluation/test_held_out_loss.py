import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from model.evaluation.evaluate import evaluate, figure_lines
from model.evaluation.evaluate_config import EvaluateConfig, HeldOutLossSettings
from model.evaluation.held_out_loss import estimate_loss, measure_held_out_loss, open_held_out
from model.priors.parti import Parti, PartiShape
from model.priors.prior_file import load_prior, save_prior
from parti_data.errors import CheckpointError, ShardError
from parti_data.text import END
from parti_data.token_directory import open_token_directory


@pytest.fixture(scope="module")
def prior_file(tmp_path_factory, tokens):
    """An untrained prior of the shared token shards, which reads eight ids of a caption."""
    metadata = open_token_directory(tokens).metadata
    shape = PartiShape(
        text_vocabulary_size=metadata.text_vocabulary_size, max_text_length=8, codebook_size=metadata.codebook_size,
        grid_side=metadata.grid_side, width=32, hidden=64, num_heads=2, num_encoder_layers=1, num_decoder_layers=1,
        dropout=0.0,
    )  # fmt: skip
    path = str(tmp_path_factory.mktemp("prior") / "prior.safetensors")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Parti(shape)
        model.to_logits.weight.data.normal_(0, 0.3)
        save_prior(model, metadata, path)
    return path


def rows_of(tokens: str) -> list[dict]:
    directory = open_token_directory(tokens)
    paths = [directory.shard_path(number) for number in range(len(directory.shards))]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_the_loss_is_that_of_each_row_once_by_float64_arithmetic(prior_file, tokens):
    prior, dataset = open_held_out(HeldOutLossSettings(prior=prior_file, tokens=tokens, batch_size=7))
    measured = measure_held_out_loss(prior, dataset, torch.device("cpu"))
    table = measured.tables["held_out_losses.parquet"].to_pylist()
    rows = {row["key"]: row for row in rows_of(tokens)}
    assert sorted(row["key"] for row in table) == sorted(rows)
    wanted = {}
    for key, row in rows.items():
        ids = [*row["text_ids"][0][:8]]
        ids[-1] = END
        image_tokens = torch.tensor([row["image_tokens"]])
        logits = prior.model(torch.tensor([ids]), image_tokens)[0].double().numpy()
        chosen = logits[np.arange(len(logits)), image_tokens[0].numpy()]
        wanted[key] = float(np.mean(np.log(np.exp(logits).sum(1)) - chosen))
    assert {row["key"]: row["nats_a_token"] for row in table} == pytest.approx(wanted, abs=1e-5)
    nats = np.array(list(wanted.values()))
    figures = measured.figures
    assert figures["held_out_nats_a_token"] == pytest.approx(nats.mean(), abs=1e-6)
    half = 1.96 * nats.std(ddof=1) / math.sqrt(len(nats))
    assert figures["held_out_nats_a_token_interval"] == pytest.approx(half, rel=1e-3)
    assert figures["held_out_bits_an_image"] == pytest.approx(nats.mean() * 16 / math.log(2), rel=1e-6)
    assert figures["held_out_bits_an_image_interval"] == pytest.approx(half * 16 / math.log(2), rel=1e-3)


def test_views_of_an_image_count_once():
    found = estimate_loss(["a", "b", "b", "b"], np.array([1.0, 2.0, 3.0, 4.0]))
    assert found == pytest.approx((2.0, math.sqrt(2) / math.sqrt(2), 2))


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    keys = [str(number) for number in range(200)]
    found = [estimate_loss(keys, rng.gamma(4, 0.25, 200)) for _ in range(400)]
    share = np.mean([abs(estimate.mean - 1) <= estimate.half_width for estimate in found])
    assert 0.92 < share < 0.98


def test_one_image_is_too_few():
    with pytest.raises(ShardError, match="held-out loss: expected at least two images, found 1; tokenize more"):
        estimate_loss(["a", "a"], np.array([1.0, 2.0]))


def test_the_job_writes_a_table_and_says_its_figures(prior_file, tokens, tmp_path):
    config = EvaluateConfig.model_validate(
        {"output": str(tmp_path), "held_out": {"prior": prior_file, "tokens": tokens}, "device": "cpu"}
    )
    manifest = evaluate(config)
    assert manifest.inputs.keys() == {"prior", "held_out"}
    assert [shard.name for shard in manifest.shards] == ["held_out_losses.parquet"]
    assert pq.read_table(tmp_path / "held_out_losses.parquet").num_rows == manifest.counts["held_out_rows"]
    nats = manifest.details["figures"]["held_out_nats_a_token"]
    assert figure_lines(manifest)[0] == f"held out nats a token: {nats:.5g}"
    assert evaluate(config) == manifest


def test_a_loss_that_is_not_finite_is_refused_each_time(prior_file, tokens, tmp_path):
    prior = load_prior(prior_file).model
    prior.to_logits.weight.data[5, 0] = float("nan")
    save_prior(prior, open_token_directory(tokens).metadata, str(tmp_path / "prior.safetensors"))
    settings = {"prior": str(tmp_path / "prior.safetensors"), "tokens": tokens}
    config = EvaluateConfig.model_validate({"output": str(tmp_path / "a"), "held_out": settings, "device": "cpu"})
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match="a: expected a finite held_out_nats_a_token, found nan; check the we"
        ):
            evaluate(config)


def test_shards_of_another_tokenizer_are_refused(prior_file, tokens, tmp_path):
    shutil.copytree(tokens, tmp_path / "other")
    manifest = tmp_path / "other" / "manifest.json"
    fingerprint = open_token_directory(tokens).metadata.image_tokenizer
    manifest.write_text(manifest.read_text().replace(fingerprint, "ef" * 32))
    with pytest.raises(
        ShardError, match=r"other: expected tokens of the image tokenizer \w+ that .* found efefefefefef"
    ):
        open_held_out(HeldOutLossSettings(prior=prior_file, tokens=str(tmp_path / "other")))
