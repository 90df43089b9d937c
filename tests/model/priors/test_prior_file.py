import pytest
import torch

from model.priors.parti import Parti, PartiShape
from model.priors.prior_file import load_prior, save_prior
from parti_data.errors import CheckpointError
from parti_data.token_shard import ShardMetadata

METADATA = ShardMetadata(
    image_tokenizer="aa", image_tokenizer_name="x", codebook_size=64, grid_side=4, image_side=32, resize_recipe="r",
    resize_library="l", precision="float32", text_tokenizer="bb", text_vocabulary_size=32, config_digest="c",
    input_digest="i",
)  # fmt: skip
TINY = PartiShape(32, 12, 64, 4, 32, 64, 2, 1, 1, 0.0)


def test_a_saved_prior_is_the_same_prior_and_names_its_tokenizers(tmp_path):
    torch.manual_seed(0)
    model, path = Parti(TINY).eval(), str(tmp_path / "prior.safetensors")
    save_prior(model, METADATA, path)
    loaded = load_prior(path)
    assert (loaded.image_tokenizer, loaded.text_tokenizer) == ("aa", "bb")
    text_ids, tokens = torch.tensor([[3, 2]]), torch.arange(16)[None]
    assert torch.equal(loaded.model(text_ids, tokens), model(text_ids, tokens))


def test_a_missing_prior_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="expected a prior's file, found none"):
        load_prior(str(tmp_path / "none"))


def test_a_file_that_is_no_prior_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="expected a prior of ours"):
        load_prior(str(tmp_path / "x"))
