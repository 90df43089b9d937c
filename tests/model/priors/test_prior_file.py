from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from model.noble import NobleShape
from model.priors.parti import Parti, PartiShape
from model.priors.prior_file import load_prior, save_prior
from model.weights import write_weights
from parti_data.errors import CheckpointError

TINY = PartiShape(
    text_vocabulary_size=32, max_text_length=12, codebook_size=64, grid_side=4, width=32, hidden=64, num_heads=2,
    num_encoder_layers=1, num_decoder_layers=1, dropout=0.0,
)  # fmt: skip


@pytest.mark.parametrize("noble", [None, NobleShape(rank=4), NobleShape.PRESETS["paper"]])
def test_a_saved_prior_is_the_same_prior_and_names_its_tokenizers(noble, metadata, tmp_path):
    torch.manual_seed(0)
    model, path = Parti(replace(TINY, noble=noble)).eval(), str(tmp_path / "prior.safetensors")
    save_prior(model, metadata, path, text_drop=0.25)
    loaded = load_prior(path)
    assert (loaded.image_tokenizer, loaded.text_tokenizer, loaded.told) == ("aa", "bb", {"text_drop": 0.25})
    text_ids, tokens = torch.tensor([[3, 2]]), torch.arange(16)[None]
    assert torch.equal(loaded.model(text_ids, tokens), model(text_ids, tokens))


def test_a_missing_prior_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="expected a prior's file, found none"):
        load_prior(str(tmp_path / "none"))


def test_a_file_that_is_no_prior_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="expected a prior of ours"):
        load_prior(str(tmp_path / "x"))


def write_told(path, fields, **parameters):
    """Write a prior whose header tells of other fields, with some parameters more."""
    model = Parti(TINY)
    for name, value in parameters.items():
        model.register_parameter(name, value)
    shape = asdict(TINY) | fields
    write_weights(path, model, {"kind": "parti", "shape": shape, "image_tokenizer": "aa", "text_tokenizer": "bb"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden": 128},
            r"blocks.0.feed_forward.0.weight of shape \(64, 32\) where its header tells of \(128, 32\)",
        ),
        (
            {"qk_norm": True},
            r"blocks.0.self_attention.query_norm.weight of shape none where its header tells of",
        ),
        (
            {"noble": {"rank": 4}},
            r"blocks.0.self_attention.to_qkv.main.weight of shape none where its header tells of \(96, 32\)",
        ),
        ({"noble": {"rank": 0}}, "architecture.noble.rank: expected at least 1, found 0"),
        ({"depth": 3}, "architecture: expected a known key, found 'depth'"),
        ({"norm": "batch"}, "architecture.norm: expected one of layer, rms, found 'batch'"),
        ({"width": 1e9}, "architecture.width: expected a whole number, found 1000000000.0"),
        ({"width": 1 << 11}, r"start_positions of shape \(1, 32\) where its header tells of \(1, 2048\)"),
        ({"grid_side": 1 << 20}, "a header of 1 layers, 12 text positions, a grid side of 1048576"),
        ({"num_decoder_layers": 1 << 20}, "a header of 1048576 layers"),
        ({"max_text_length": 1 << 30}, "a header of 1 layers, 1073741824 text positions"),
        ({"width": 1 << 12}, "a grid side of 4, heads of 2048 channels"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_before_it_takes_memory(fields, message, tmp_path):
    write_told(str(tmp_path / "x"), fields)
    with pytest.raises(CheckpointError, match=message):
        load_prior(str(tmp_path / "x"))


def test_weights_that_the_architecture_lacks_are_refused(tmp_path):
    write_told(str(tmp_path / "x"), {}, more=nn.Parameter(torch.zeros(2)))
    with pytest.raises(CheckpointError, match="expected a prior of ours, found Error.* in loading state_dict"):
        load_prior(str(tmp_path / "x"))


def test_another_kind_is_refused(tmp_path):
    write_weights(str(tmp_path / "x"), Parti(TINY), {"kind": "vit_vqgan"})
    with pytest.raises(CheckpointError, match="expected a prior of ours, found kind vit_vqgan"):
        load_prior(str(tmp_path / "x"))
