"""The trainable dVAE: its size, how it begins, its relaxation in float64, published weights in it, and its file."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_checkpoints import dvae_half, make_dvae, noise_images
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model.shapes import make_shape
from model.tokenizers import Choices, ImageTokenizer, load_tokenizer, save_tokenizer
from model.tokenizers.dvae import DVAE, DVAEShape
from model.weights import write_weights
from parti_data.errors import ConfigError, TokenizerError

TINY = DVAEShape(image_side=32, width=8, num_groups=3, num_blocks=2, codebook_size=24, code_width=12)
AS_OURS = Choices(image_side=32, resize_recipe="resize_center")


def make(shape: DVAEShape = TINY) -> DVAE:
    torch.manual_seed(4)
    return DVAE(shape)


def published() -> DVAE:
    encoder, decoder = make_dvae()
    network = make()
    named = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    network.both.load_state_dict(named | {f"decoder.{name}": tensor for name, tensor in decoder.items()})
    return network


def test_the_default_has_the_published_sizes():
    with torch.device("meta"):
        network = DVAE(DVAEShape())
    sizes = {name: tuple(tensor.shape) for name, tensor in network.both.state_dict().items()}
    assert sizes["encoder.blocks.input.w"] == (256, 3, 7, 7)
    assert sizes["encoder.blocks.output.conv.w"] == (8192, 2048, 1, 1)
    assert sizes["encoder.blocks.group_4.block_2.res_path.conv_1.w"] == (512, 2048, 3, 3)
    assert sizes["decoder.blocks.input.w"] == (128, 8192, 1, 1)
    assert sizes["decoder.blocks.group_1.block_1.id_path.w"] == (2048, 128, 1, 1)
    assert sizes["decoder.blocks.output.conv.w"] == (6, 256, 1, 1)
    assert network.spec[:6] == ("openai_dvae", 8192, 32, 256, (0.1, 0.9), "resize_center")


def test_weights_begin_normal_with_the_variance_of_their_inputs_and_biases_at_zero():
    for name, tensor in make(DVAEShape(image_side=16, width=64, num_groups=2, codebook_size=128)).state_dict().items():
        if name.endswith(".b"):
            assert not tensor.any(), name
        else:
            scaled = tensor.double().flatten() * math.sqrt(math.prod(tensor.shape[1:]))
            assert scaled.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * len(scaled))), name
            assert (scaled.abs() < 1).double().mean().item() == pytest.approx(0.683, abs=2 / math.sqrt(len(scaled)))


@pytest.mark.parametrize("temperature", [1.0, 1 / 16])
def test_what_becomes_of_images_equals_the_reference(temperature):
    encoder, decoder = make_dvae()
    images = torch.from_numpy(noise_images()).double() / 255
    noise = -torch.empty(len(images), 64, 24, dtype=torch.float64).exponential_().log()
    logits = dvae_half(encoder, 0.8 * images.permute(0, 3, 1, 2) + 0.1, lambda x: F.max_pool2d(x, 2))
    posterior = logits.flatten(2).transpose(1, 2).softmax(-1)
    weights = posterior * noise.exp()  # to the power of 1 / t and normalised: the Gumbel-softmax, written another way
    weights = (weights / weights.amax(-1, keepdim=True)) ** (1 / temperature)
    codes = (weights / weights.sum(-1, keepdim=True)).transpose(1, 2).reshape(-1, 24, 8, 8)
    statistics = dvae_half(decoder, codes, lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    found = published()(images.float(), noise.float(), torch.tensor(temperature))
    for mine, wanted in (
        (found.mean, statistics[:, :3].permute(0, 2, 3, 1)),
        (found.log_scale, statistics[:, 3:].permute(0, 2, 3, 1)),
        (found.log_posterior, posterior.log()),
    ):
        np.testing.assert_allclose(mine.detach().double(), wanted, atol=2e-5)


def test_in_bfloat16_both_ends_stay_float32():
    network, images = published(), torch.from_numpy(noise_images()).float() / 255
    seen = []
    for half in (network.both.encoder, network.both.decoder):
        for layer in (half.blocks["input"], half.last, half.blocks["group_2"]["block_1"].res_path["conv_2"]):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images, torch.zeros(len(images), 64, 24), torch.tensor(1.0))
    assert seen == [torch.float32, torch.bfloat16, torch.float32] * 2
    assert {tensor.dtype for tensor in found} == {torch.float32}


def test_published_weights_in_it_give_the_tokens_of_record(shared):
    folder = shared / "conformance/openai_dvae/small"
    named = {}
    for half in ("encoder", "decoder"):
        network = load_tokenizer(str(folder / "encoder.pkl"))._network.both
        named |= {name: tensor for name, tensor in network.state_dict().items() if name.startswith(half)}
    shape = DVAEShape(
        image_side=64, width=64, num_blocks=1, codebook_size=512, code_width=named["decoder.blocks.input.w"].shape[0]
    )
    trainable = DVAE(shape)
    trainable.both.load_state_dict(named)
    tokenizer = ImageTokenizer(trainable)
    assert np.array_equal(tokenizer.encode(np.load(folder / "images_u8.npy")), np.load(folder / "tokens.npy"))


def test_a_file_of_ours_says_all_and_its_tensors_have_the_published_names(tmp_path):
    network, path = published(), str(tmp_path / "own.safetensors")
    mark = save_tokenizer(network, path)
    tokenizer = load_tokenizer(path)
    assert tokenizer.fingerprint == mark == load_tokenizer(path, kind="openai_dvae").fingerprint
    assert tokenizer.spec == network.spec
    tokens = tokenizer.encode(noise_images())
    encoder = make_dvae()[0]
    pixels = 0.8 * torch.from_numpy(noise_images()).double().permute(0, 3, 1, 2) / 255 + 0.1
    assert torch.equal(tokens, dvae_half(encoder, pixels, lambda x: F.max_pool2d(x, 2)).argmax(1).flatten(1))
    save_file(load_file(path), tmp_path / "bare.safetensors")  # without the header, as another project would write it
    bare = load_tokenizer(str(tmp_path / "bare.safetensors"), choices=AS_OURS)
    assert bare.fingerprint == mark
    assert torch.equal(bare.decode(tokens), tokenizer.decode(tokens))
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {f"encoder.{n}" for n in encoder} | {f"decoder.{n}" for n in make_dvae()[1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": 25}, "encoder.blocks.output.conv.w of shape .* where its header tells of .25, 32, 1, 1."),
        ({"num_groups": 10**9}, "architecture.num_groups: expected 1 to 12, found 1000000000; change it"),
        ({"num_blocks": 65}, "architecture.num_blocks: expected 1 to 64, found 65; change it"),
        ({"image_side": 4096}, "a header of 6 layers and 1048576 positions"),
        ({"num_groups": 12, "num_blocks": 64, "image_side": 2048}, "a header of 768 layers and 1 positions"),
    ],
)
def test_a_header_that_asks_for_another_network_is_refused(tmp_path, changes, message):
    path = str(tmp_path / "own.safetensors")
    header = {"kind": "openai_dvae", "shape": asdict(TINY) | changes, "fingerprint": "ab"}
    write_weights(path, published().both, header)
    with pytest.raises(TokenizerError, match=f"expected a tokenizer of ours, found {message}"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_side": 60}, r"architecture\.image_side: expected a multiple of patch_side = 8, found 60"),
        ({"width": 6}, r"architecture\.width: expected a multiple of the narrowing within blocks = 4, found 6"),
        ({"num_groups": 0}, r"architecture\.num_groups: expected 1 to 12, found 0; change it"),
        ({"codebook_size": 1}, r"architecture\.codebook_size: expected at least 2, found 1"),
        ({"code_width": 0}, r"architecture\.code_width: expected at least 1, found 0"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        make_shape(DVAEShape, wrong)
