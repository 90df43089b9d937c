import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from model.tokenizers import Execution, ImageTokenizer, load_tokenizer, save_tokenizer
from model.tokenizers import tokenizer as tokenizer_module
from model.tokenizers.vit_vqgan import TransformerSize, ViTVQGAN, ViTVQGANShape
from parti_data.errors import CheckpointError, TokenizerError

TINY = ViTVQGANShape(
    image_side=32, patch_side=8, codebook_size=64, code_width=8, positions="rotary",
    encoder=TransformerSize(num_layers=1, num_heads=2, width=32, hidden=64),
    decoder=TransformerSize(num_layers=2, num_heads=2, width=32, hidden=64),
)  # fmt: skip


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ViTVQGAN(TINY)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)


def test_a_saved_tokenizer_gives_the_same_tokens_and_fingerprint(network, images, tmp_path):
    path = str(tmp_path / "tokenizer.safetensors")
    mark = save_tokenizer(network, path)
    loaded = load_tokenizer(path)
    assert loaded.fingerprint == mark
    assert torch.equal(loaded.encode(images), ImageTokenizer(network).encode(images))


def test_two_saved_files_of_one_network_are_the_same_bytes(network, tmp_path):
    save_tokenizer(network, str(tmp_path / "a"))
    save_tokenizer(network, str(tmp_path / "b"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tokens_do_not_depend_on_how_images_are_batched(network):
    images = np.random.default_rng(1).integers(0, 256, (130, 32, 32, 3), dtype=np.uint8)
    tokenizer = ImageTokenizer(network)
    whole = tokenizer.encode(images)
    assert torch.equal(whole, torch.cat([tokenizer.encode(images[start : start + 1]) for start in range(130)]))
    assert torch.equal(whole, torch.cat([tokenizer.encode(images[:7]), tokenizer.encode(images[7:])]))


def test_no_images_give_no_tokens(network):
    tokenizer = ImageTokenizer(network)
    assert tokenizer.encode(np.empty((0, 32, 32, 3), np.uint8)).shape == (0, 16)


def test_decode_gives_uint8_pictures(network, images):
    tokenizer = ImageTokenizer(network)
    pictures = tokenizer.decode(tokenizer.encode(images))
    assert pictures.dtype == torch.uint8
    assert pictures.shape == images.shape


@pytest.mark.parametrize(
    "name", ["patch_embedding.weight", "codebook.embedding", "encoder.0.self_norm.bias", "to_code.bias"]
)
def test_each_tensor_that_decides_a_token_changes_the_fingerprint(network, name):
    before = ImageTokenizer(network).fingerprint
    with torch.no_grad():
        network.state_dict()[name].flatten()[0] += 1e-6
    assert ImageTokenizer(network).fingerprint != before


def test_the_decoder_may_change_under_one_fingerprint(network):
    before = ImageTokenizer(network).fingerprint
    with torch.no_grad():
        network.state_dict()["decoder_head.3.bias"] += 1
    assert ImageTokenizer(network).fingerprint == before


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 32, 32, 3), np.float32), np.zeros((32, 32, 3), np.uint8)],
)
def test_images_of_another_size_or_type_are_refused(network, images):
    with pytest.raises(TokenizerError, match=r"images: expected uint8 \(B, 32, 32, 3\), found"):
        ImageTokenizer(network).encode(images)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_whose_latents_are_not_finite_are_refused(network, images, monkeypatch, value):
    tokenizer = ImageTokenizer(network)
    encode = tokenizer._encoder

    def overflow(inputs: Tensor) -> Tensor:
        latents = encode(inputs).clone()
        latents[2, 3, 0] = value
        return latents

    monkeypatch.setattr(tokenizer, "_encoder", overflow)
    tokenizer.batch_size = 4
    with pytest.raises(
        TokenizerError,
        match=r"^vit_vqgan in float32: expected finite latents, found none such for 1 of 4 images; use execution.prec",
    ):
        tokenizer.encode(images[:4])


def test_all_that_a_tokenizer_multiplies_is_float32_on_a_gpu(network, images, monkeypatch):
    asked, inside = [], []

    @contextmanager
    def switch(execution: Execution, tf32: bool) -> Iterator[None]:
        inside.append(tf32)
        yield
        inside.pop()

    def watched(function):
        def call(*arguments):
            asked.append((function.__name__, list(inside)))
            return function(*arguments)

        return call

    monkeypatch.setattr(tokenizer_module, "float32_matmuls", switch)
    for name in ("latents", "quantize", "decode"):
        monkeypatch.setattr(network, name, watched(getattr(network, name)))
    tokenizer = ImageTokenizer(network)
    tokenizer.decode(tokenizer.encode(images))
    tokenizer.reconstruct_in_range(images, (-1.0, 1.0))
    assert {name for name, _ in asked} == {"latents", "quantize", "decode"}
    assert all(switches == [False] for _, switches in asked)


def test_tokens_of_another_tokenizer_are_refused(network):
    tokenizer = ImageTokenizer(network)
    with pytest.raises(TokenizerError, match="tokens: expected 0 to 63, found 0 to 64"):
        tokenizer.decode(np.array([[0] * 15 + [64]]))
    with pytest.raises(TokenizerError, match=r"tokens: expected \(B, 16\), found \(1, 4\)"):
        tokenizer.decode(np.zeros((1, 4), np.int64))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="expected a tokenizer file, found none"):
        load_tokenizer(str(tmp_path / "none"))


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"not safetensors at all")
    with pytest.raises(CheckpointError, match="expected a torch, safetensors, msgpack or npy file, found a file that"):
        load_tokenizer(str(tmp_path / "x"))


SMALL_HALF = {"num_layers": 1, "num_heads": 1, "width": 4, "hidden": 4}
HEADERS = {
    "large codebook": ({"shape": {"codebook_size": 1 << 40}}, r"patch_embedding.weight of shape none where its header"),
    "endless codebook": ({"shape": {"codebook_size": 10**30}}, "randn.*Overflow"),
    "many layers": ({"shape": {"encoder": SMALL_HALF | {"num_layers": 10**9}}}, "a header of 1000000000 layers and"),
    "many positions": ({"shape": {"image_side": 1 << 20, "positions": "rotary"}}, "and 17179869184 positions"),
    "no half": ({"shape": {"encoder": 5}}, "architecture.encoder: expected a table or one of small, base, large"),
    "no shape": ({}, "'shape'"),
    "a list": ([1], "a list in place of a mapping"),
    "nothing": (None, "a NoneType in place of a mapping"),
    "control characters": ({"kind": "\x1b[31m\n"}, r"kind .x1b\[31m; check"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_does_not_fit_is_refused_before_anything_is_allocated(tmp_path, name):
    header, message = HEADERS[name]
    header = {"kind": "vit_vqgan"} | header if isinstance(header, dict) else header
    path = str(tmp_path / "own.safetensors")
    save_file({"x": torch.zeros(1)}, path, {"parti": json.dumps(header)})
    with pytest.raises(TokenizerError, match=f"own.safetensors: expected a tokenizer of ours, found .*{message}"):
        load_tokenizer(path)


def test_a_header_too_deep_to_be_read_is_refused(tmp_path):
    path = tmp_path / "own.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"parti": "[" * 200_000})
    with pytest.raises(TokenizerError, match="found values too deep inside each other; check the file"):
        load_tokenizer(str(path))
    header = b'{"a":' + b"[" * 200_000
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="expected a whole checkpoint, found Error while deserializing header"):
        load_tokenizer(str(path))


def test_weights_that_were_changed_after_saving_are_refused(network, tmp_path):
    path = tmp_path / "tokenizer.safetensors"
    save_tokenizer(network, str(path))
    content = bytearray(path.read_bytes())
    header = struct.unpack("<Q", content[:8])[0]
    begin, _ = json.loads(content[8 : 8 + header])["codebook.embedding"]["data_offsets"]
    content[8 + header + begin] ^= 1
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"expected fingerprint .* the weights are not those that were saved"):
        load_tokenizer(str(path))
