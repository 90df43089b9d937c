"""Held against what the projects' own code gave for small checkpoints in their own containers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model.tokenizers import load_tokenizer

MARGIN = 1e-4
PLACES = {
    "enhancing": ("enhancing/small_l2", "imagenet_vitvq.ckpt", "config.yaml"),
    "taming": ("taming/small_vq_noattn_avgpool", "model.ckpt", "config.yaml"),
    "llamagen": ("llamagen/small_l2", "vq.pt", "config.json"),
    "openai_dvae": ("openai_dvae/small", "encoder.pkl", None),
    "igpt": ("igpt/clusters512", "clusters.npy", None),
}


@pytest.fixture
def folder(kind, shared) -> Path:
    return shared / "conformance" / PLACES[kind][0]


@pytest.fixture
def tokenizer(kind, folder):
    _, file, config = PLACES[kind]
    return load_tokenizer(str(folder / file), config and str(folder / config))


def read(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy")


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", PLACES)


def test_the_kind_is_found_and_tokens_are_the_projects_own(kind, folder, tokenizer):
    assert tokenizer.spec.name == kind
    tokens, expected = tokenizer.encode(read(folder, "images_u8")).numpy(), read(folder, "tokens")
    clear = read(folder, "margin") > MARGIN
    assert clear.mean() > 0.9
    assert np.array_equal(tokens[clear], expected[clear])
    assert np.array_equal(tokens, expected)  # so far even near ties


def test_pixels_are_the_projects_own_floats(kind, folder, tokenizer):
    if kind == "igpt":
        pytest.skip("its pixels are not recorded")
    fed = tokenizer._network.to_input(torch.from_numpy(read(folder, "images_u8")))
    assert np.array_equal(fed.numpy(), read(folder, "pixels"))


def test_decoded_pixels_are_within_a_grey_level(kind, folder, tokenizer):
    recorded = read(folder, "recon")
    if recorded.dtype != np.uint8:
        low = {"taming": -1, "llamagen": -1}.get(kind, 0)
        scaled = (recorded.transpose(0, 2, 3, 1).astype(np.float64) - low) / (1 - low)
        recorded = np.rint(255 * scaled.clip(0, 1)).astype(np.uint8)
    decoded = tokenizer.decode(read(folder, "tokens")[: len(recorded)]).numpy()
    assert np.abs(decoded.astype(int) - recorded).max() <= 1


def test_without_its_config_the_tensors_tell_the_same(kind, folder, tmp_path, tokenizer):
    _, file, config = PLACES[kind]
    if not config:
        pytest.skip("it has none")
    alone = tmp_path / file
    alone.symlink_to(folder / file)
    inferred = load_tokenizer(str(alone), choices=None)
    images = read(folder, "images_u8")
    assert np.array_equal(inferred.encode(images), tokenizer.encode(images))
    beside = load_tokenizer(str(folder / file))
    assert beside.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("size", [1, 7, 64])
def test_tokens_do_not_depend_on_how_many_images_come_at_once(kind, folder, tokenizer, size):
    images = np.concatenate([read(folder, "images_u8")] * 22)[:64]
    whole = tokenizer.encode(images[:8])
    parts = [tokenizer.encode(images[start : start + size]) for start in range(0, 8, size)]
    assert torch.equal(whole, torch.cat(parts)[:8])


def test_tokens_do_not_depend_on_threads(kind, folder, tokenizer):
    images, threads = read(folder, "images_u8")[:2], torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(tokenizer.encode(images))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_no_images_give_no_tokens(kind, tokenizer):
    side, count = tokenizer.spec.image_side, tokenizer.spec.num_tokens
    assert tokenizer.encode(np.empty((0, side, side, 3), np.uint8)).shape == (0, count)


def test_the_dvaes_logits_are_the_projects_own(shared):
    folder = shared / "conformance" / PLACES["openai_dvae"][0]
    network = load_tokenizer(str(folder))._network
    recorded = read(folder, "logits_first")
    with torch.no_grad():
        hidden = network.latents(network.to_input(torch.from_numpy(read(folder, "images_u8")[:1])))
        last = network.both.encoder.last
        logits = hidden @ last.w.flatten(1).T + last.b
    corner = logits[0].T.unflatten(1, (8, 8))[None, :, :2, :2]
    assert np.abs(corner.numpy() - recorded).max() < 1e-4


def test_every_tensor_of_the_recorded_list_is_read_or_has_no_say(kind, folder, tokenizer):
    listed = json.loads((folder / "meta.json").read_text()).get("keys")
    if not listed:
        pytest.skip("none is listed")
    names = {name.partition(".")[2] if kind in ("taming", "llamagen", "openai_dvae") else name
             for name in tokenizer._network.state_dict()}  # fmt: skip
    assert len(names) == len([name for name in listed if name != "quantize.codebook_used"])
