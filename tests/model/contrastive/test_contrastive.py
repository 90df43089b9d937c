import math
from dataclasses import asdict, replace

import pytest
import torch

from model.contrastive import Contrastive, ContrastiveShape, load_contrastive, save_contrastive
from model.weights import write_weights
from parti_data.errors import CheckpointError, ConfigError
from parti_data.text import END, PAD
from parti_data.token_shard import ShardMetadata

TINY = ContrastiveShape(
    text_vocabulary_size=32, max_text_length=12, codebook_size=64, grid_side=4, width=32, hidden=64, num_heads=2,
    num_encoder_layers=2, num_image_layers=2, embedding_width=8, dropout=0.1,
)  # fmt: skip
METADATA = ShardMetadata(
    image_tokenizer="aa", image_tokenizer_name="x", codebook_size=64, grid_side=4, image_side=32, resize_recipe="r",
    resize_library="l", precision="float32", text_tokenizer="bb", text_vocabulary_size=32, config_digest="c",
    input_digest="i",
)  # fmt: skip
TEXT_IDS = torch.tensor([[5, 6, 7, END, PAD, PAD], [8, 9, 10, 11, 12, END]])


@pytest.fixture(params=["both", "learned", "rotary"])
def model(request):
    torch.manual_seed(0)
    return Contrastive(replace(TINY, positions=request.param)).eval()


@pytest.fixture
def tokens():
    return torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))


def test_a_score_is_the_cosine_of_the_projected_means_of_both_towers_states_in_float64(model, tokens):
    model.double()
    projected = (
        [
            (model.text_encoder(TEXT_IDS[row : row + 1, :length]).states[0].mean(0), model.text_projection.weight)
            for row, length in ((0, 4), (1, 6))
        ],
        [(states.mean(0), model.image_projection.weight) for states in model.image_tower(tokens)],
    )
    texts, images = ([weight @ mean for mean, weight in side] for side in projected)
    wanted = [(text @ image / text.norm() / image.norm()).item() for text, image in zip(texts, images, strict=True)]
    found = model.float().scores(TEXT_IDS, tokens)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)


def test_padding_and_the_other_rows_change_no_score(model, tokens):
    alone = model.scores(TEXT_IDS[:1, :4], tokens[:1])
    assert model.scores(TEXT_IDS, tokens)[0].item() == pytest.approx(alone.item(), abs=1e-6)


def test_every_token_of_an_image_and_where_it_lies_count(model, tokens):
    before = model.embed_images(tokens[:1])
    for changed in (tokens[:1].roll(1, 1), tokens[:1].index_fill(1, torch.tensor([15]), 1)):
        assert not torch.allclose(model.embed_images(changed), before, atol=1e-4)


def test_similarities_begin_at_clips_temperature_and_are_multiplied_by_at_most_100(model):
    assert model.log_scale.exp().item() == pytest.approx(1 / 0.07)
    model.log_scale.data.fill_(7.0)
    model.clamp_scale()
    assert model.log_scale.item() == pytest.approx(math.log(100))


def test_a_saved_model_scores_the_same_and_names_its_tokenizers(model, tokens, tmp_path):
    path = str(tmp_path / "contrastive.safetensors")
    save_contrastive(model, METADATA, path)
    loaded = load_contrastive(path)
    assert (loaded.image_tokenizer, loaded.text_tokenizer) == ("aa", "bb")
    assert torch.equal(loaded.model.scores(TEXT_IDS, tokens), model.scores(TEXT_IDS, tokens))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="expected a contrastive model's file, found none; make one with parti"):
        load_contrastive(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "parti"}, "expected a contrastive model of ours, found kind parti"),
        ({"num_image_layers": 1 << 20}, "found a header of 1048576 layers, 12 text positions, a grid side of 4, heads"),
        ({"embedding_width": 16}, r"projection.weight of shape \(8, 32\) where its header tells of \(16, 32\)"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, changes, message):
    path, kind = str(tmp_path / "x"), changes.get("kind", "contrastive")
    shape = asdict(TINY) | {name: value for name, value in changes.items() if name != "kind"}
    marks = {"image_tokenizer": "aa", "text_tokenizer": "bb"}
    write_weights(path, Contrastive(TINY), {"kind": kind, "shape": shape} | marks)
    with pytest.raises(CheckpointError, match=message):
        load_contrastive(path)


@pytest.mark.parametrize("name", ["num_image_layers", "embedding_width"])
def test_an_architecture_without_a_tower_or_an_embedding_is_refused(name):
    with pytest.raises(ConfigError, match=f"architecture.{name}: expected at least 1, found 0"):
        replace(TINY, **{name: 0})
