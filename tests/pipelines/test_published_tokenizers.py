"""A published tokenizer through every stage that takes a tokenizer's file."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from published_checkpoints import LLAMAGEN, make_autoencoder, make_vit
from safetensors.torch import save_file

from model.sampling.sample import SampleConfig, sample
from model.tokenizers import Reading, open_tokenizer
from model.training.loop import Schedule
from model.training.train_prior import TrainPriorConfig, train_prior
from parti_data.errors import ShardError, TokenizerError
from parti_data.image_dataset import ImageDataset
from parti_data.ledger import PairDirectory
from parti_data.manifest import read_manifest
from parti_data.token_shard import read_metadata, read_row_group
from pipelines.plan.plan_tokenize import plan_tokenize
from pipelines.tokenize import tokenize_pairs
from pipelines.verify import verify

READING = Reading(kind="llamagen", image_side=32, resize_recipe="resize_center")
TINY_PRIOR = {
    "width": 32, "hidden": 64, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "max_text_length": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def llamagen(tmp_path_factory) -> str:
    net = make_autoencoder(LLAMAGEN, mult=(1, 1, 2, 2), attention_levels=(3,))
    path = str(tmp_path_factory.mktemp("published") / "model.safetensors")
    save_file({f"gen_vision_model.{name}": tensor for name, tensor in net.tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory, llamagen, make_tokenize_config, beam_options) -> str:
    output = str(tmp_path_factory.mktemp("shards") / "tokens")
    tokenize_pairs(make_tokenize_config(output, image_tokenizer=llamagen, tokenizer=READING), beam_options())
    return output


def test_shards_hold_its_tokens_and_name_it(filtered, shards, llamagen):
    tokenizer = open_tokenizer(llamagen, READING)
    pictures = ImageDataset(filtered, 32, 1)
    expected = tokenizer.encode(pictures.pictures(range(len(pictures)))).tolist()
    by_key = {row.key: ids for row, ids in zip(PairDirectory(filtered).kept(), expected, strict=True)}
    found = {}
    for shard in read_manifest(shards).shards:
        metadata, _ = read_metadata(f"{shards}/{shard.name}")
        assert (metadata.image_tokenizer_name, metadata.image_tokenizer) == ("llamagen", tokenizer.fingerprint)
        assert (metadata.codebook_size, metadata.grid_side, metadata.image_side) == (48, 4, 32)
        assert (metadata.resize_recipe, metadata.num_quantizers) == ("resize_center", 1)
        found |= {row["key"]: row["image_tokens"] for row in read_row_group(f"{shards}/{shard.name}", 0).to_pylist()}
    assert found == by_key
    assert verify(shards)[-1].endswith("rows encoded again, all ids equal")


def test_two_workers_write_the_same_bytes(tmp_path, shards, llamagen, make_tokenize_config, beam_options, contents):
    config = make_tokenize_config(tmp_path / "again", image_tokenizer=llamagen, tokenizer=READING)
    tokenize_pairs(config, beam_options("--direct_num_workers=2"))
    assert contents(config.output) == contents(shards)


def test_a_file_read_otherwise_does_not_go_on_with_a_directory(shards, llamagen, make_tokenize_config, beam_options):
    other = READING.model_copy(update={"pixel_range": "unit"})
    with pytest.raises(ShardError, match="image_tokenizer"):
        tokenize_pairs(make_tokenize_config(shards, image_tokenizer=llamagen, tokenizer=other), beam_options())


def test_a_plan_is_made_with_it(tmp_path, llamagen, make_tokenize_config):
    plan = plan_tokenize(make_tokenize_config(tmp_path, image_tokenizer=llamagen, tokenizer=READING), 8, 1)
    assert dict(plan.source)["a pair"].endswith("16 tokens")


def test_a_prior_trained_on_its_tokens_draws_through_it(tmp_path, shards, llamagen, text_file, image_file):
    schedule = Schedule(num_steps=2, lr=3e-3, warmup_steps=1, checkpoint_every=2, log_every=1)
    train_prior(
        TrainPriorConfig(
            output=str(tmp_path / "prior"), source=shards, architecture=TINY_PRIOR, schedule=schedule, batch_size=8
        )
    )
    config = SampleConfig(
        output=str(tmp_path / "samples"), prior=str(tmp_path / "prior/prior.safetensors"), image_tokenizer=llamagen,
        tokenizer=READING, text_tokenizer=text_file, prompts=["a ring"], samples_per_prompt=2,
    )  # fmt: skip
    sample(config)
    rows = pq.read_table(tmp_path / "samples/samples.parquet").to_pylist()
    assert np.shape([row["image_tokens"] for row in rows]) == (2, 16)
    with pytest.raises(TokenizerError, match="expected the image tokenizer"):
        sample(config.model_copy(update={"output": str(tmp_path / "other"), "tokenizer": Reading(image_side=64)}))


def test_a_residual_is_stored_and_refused_by_the_prior(tmp_path, make_tokenize_config, beam_options):
    torch.save({"state_dict": make_vit()}, tmp_path / "vit.ckpt")
    quantizer = {"embed_dim": 6, "n_embed": 40, "use_residual": True, "num_quantizers": 2}
    parameters = {
        "image_size": 32, "patch_size": 8, "encoder": {"dim": 64, "depth": 2, "heads": 2, "mlp_dim": 48},
        "decoder": {"dim": 32, "depth": 2, "heads": 1, "mlp_dim": 48}, "quantizer": quantizer,
    }  # fmt: skip
    (tmp_path / "vit.yaml").write_text(json.dumps({"model": {"params": parameters}}))
    reading = Reading(config=str(tmp_path / "vit.yaml"), resize_recipe="resize_center")
    output = str(tmp_path / "tokens")
    config = make_tokenize_config(output, image_tokenizer=str(tmp_path / "vit.ckpt"), tokenizer=reading)
    tokenize_pairs(config, beam_options())
    metadata, _ = read_metadata(f"{output}/{read_manifest(output).shards[0].name}")
    assert (metadata.num_quantizers, metadata.num_tokens) == (2, 32)
    assert verify(output)[-1].endswith("all ids equal")
    schedule = Schedule(num_steps=2, lr=3e-3, warmup_steps=1, checkpoint_every=2, log_every=1)
    prior = TrainPriorConfig(
        output=str(tmp_path / "prior"), source=output, architecture=TINY_PRIOR, schedule=schedule, batch_size=8
    )
    with pytest.raises(ShardError, match="expected one token a position, found 2 of a residual enhancing; tokenize"):
        train_prior(prior)
