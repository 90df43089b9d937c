"""The upsampler's face and file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.upsamplers import WDSR, Upsampler, WDSRShape, load_upsampler, save_upsampler
from model.weights import write_weights
from parti_data.errors import CheckpointError, TokenizerError

SMALL = WDSRShape(scale=4, num_blocks=1, width=4, expansion=2, blocks_at="first_side")
FINGERPRINT = "ab" * 32


@pytest.fixture
def network() -> WDSR:
    torch.manual_seed(0)
    made = WDSR(SMALL)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)


def test_what_is_saved_enlarges_as_it_did_and_is_the_same_bytes_twice(network, pictures, tmp_path):
    paths = [str(tmp_path / name) for name in ("a", "b")]
    for path in paths:
        save_upsampler(network, FINGERPRINT, path)
    assert Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes()
    loaded = load_upsampler(paths[0])
    assert (loaded.scale, loaded.image_tokenizer) == (4, FINGERPRINT)
    wanted = network(torch.from_numpy(pictures).float() / 255).detach().double().clamp(0, 1).numpy() * 255
    made = loaded.enlarge(pictures)
    assert (made.dtype, made.shape) == (np.uint8, (5, 24, 24, 3))
    assert np.abs(made - wanted).max() <= 0.5 + 1e-3


def test_a_picture_does_not_depend_on_those_beside_it(network, pictures):
    upsampler = Upsampler(network, FINGERPRINT)
    assert np.array_equal(upsampler.enlarge(pictures)[3:], upsampler.enlarge(pictures[3:]))


def test_pictures_of_another_tokenizer_are_refused(network):
    upsampler = Upsampler(network, FINGERPRINT)
    upsampler.refuse_pictures_of(FINGERPRINT, "up.safetensors")
    found = "up.safetensors: expected an upsampler of the image tokenizer cdcdcdcdcdcd, found one of abababababab;"
    with pytest.raises(TokenizerError, match=found):
        upsampler.refuse_pictures_of("cd" * 32, "up.safetensors")


def header(**changes) -> dict:
    shape = {"scale": 4, "num_blocks": 1, "width": 4, "expansion": 2, "blocks_at": "first_side"}
    return {"kind": "wdsr", "shape": shape | changes.pop("shape", {}), "image_tokenizer": FINGERPRINT} | changes


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (header(kind="parti"), "found kind parti; check the file"),
        (header(shape={"scale": 16}), r"found architecture\.scale: expected one of"),
        (header(shape={"num_blocks": 200}), "found a header of 400 blocks"),
        (
            header(shape={"width": 1 << 20}),
            r"found from_rgb\.bias of shape \(4,\) where its header tells of",
        ),
        (header(shape={"skip": "convolution"}), r"found skip\.bias of shape none where"),
        (header(shape={"normalisation": "none"}), r"found from_rgb\.weight of shape none where"),
        ({"kind": "wdsr"}, "found 'shape'; check"),
    ],
)
def test_files_that_are_not_what_they_say_are_refused(network, tmp_path, told, found):
    write_weights(str(tmp_path / "bad"), network, told)
    with pytest.raises(CheckpointError, match=f"bad: expected an upsampler of ours, {found}"):
        load_upsampler(str(tmp_path / "bad"))


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "bad").write_bytes(b"\x08" + bytes(7) + b"no json!")
    with pytest.raises(CheckpointError, match="expected an upsampler of ours, found"):
        load_upsampler(str(tmp_path / "bad"))
    with pytest.raises(CheckpointError, match="expected an upsampler's file, found none; make one with parti train up"):
        load_upsampler(str(tmp_path / "none"))
