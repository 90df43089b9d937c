from dataclasses import asdict

import pytest
import torch

from model.contrastive import Contrastive, ContrastiveShape
from model.text_encoder import TextEncoder, TextEncoderShape
from model.text_encoder_file import load_text_encoder, save_text_encoder
from model.weights import write_weights
from parti_data.errors import CheckpointError

TINY = TextEncoderShape(
    text_vocabulary_size=32, max_text_length=12, width=32, hidden=64, num_heads=2, num_encoder_layers=1
)


def test_a_saved_text_encoder_is_the_same_one(tmp_path):
    encoder, path = TextEncoder(TINY), str(tmp_path / "x")
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    save_text_encoder(encoder, TINY, "bb", path)
    loaded = load_text_encoder(path)
    assert (loaded.shape, loaded.text_tokenizer) == (TINY, "bb")
    assert all(torch.equal(loaded.encoder.state_dict()[name], value) for name, value in encoder.state_dict().items())


def test_that_of_a_contrastive_model_is_read_alone(tmp_path):
    shape = ContrastiveShape(**asdict(TINY), codebook_size=64, grid_side=4, num_image_layers=1, embedding_width=8)
    model, path = Contrastive(shape), str(tmp_path / "x")
    write_weights(path, model, {"kind": "contrastive", "shape": asdict(shape), "text_tokenizer": "bb"})
    loaded = load_text_encoder(path)
    assert loaded.shape == TINY
    wanted = model.text_encoder.state_dict()
    assert all(torch.equal(loaded.encoder.state_dict()[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"kind": "parti"}, "expected a text encoder of ours, found kind parti; check the file"),
        ({"kind": ["text_encoder"]}, r"found kind \['text_encoder'\]"),
        ({"shape": [1, 2]}, r"found architecture: expected a table, found \[1, 2\]"),
        ({"shape": "large"}, "found architecture: expected a table, found 'large'"),
        ({"shape": asdict(TINY) | {"grid_side": 4}}, "expected a known key, found 'grid_side'"),
        (
            {"shape": asdict(TINY) | {"width": 64}},
            r"positions of shape \(12, 32\) where its header tells of \(12, 64\)",
        ),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, header, message):
    told = {"kind": "text_encoder", "shape": asdict(TINY), "text_tokenizer": "bb"}
    write_weights(str(tmp_path / "x"), TextEncoder(TINY), told | header)
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(str(tmp_path / "x"))


def test_rotations_that_a_small_file_asks_for_are_refused_before_they_take_memory(tmp_path):
    """They would be 512 MiB for each 1,024 of the width."""
    told = asdict(TINY) | {
        "text_vocabulary_size": 1, "max_text_length": 1 << 16, "width": 1 << 20, "num_heads": 1,
        "num_encoder_layers": 1, "positions": "rotary",
    }  # fmt: skip
    write_weights(str(tmp_path / "x"), TextEncoder(TINY), {"kind": "text_encoder", "shape": told, "text_tokenizer": ""})
    with pytest.raises(CheckpointError, match="a header of 1 layers, 65536 text positions, .* heads of 1048576 chann"):
        load_text_encoder(str(tmp_path / "x"))
