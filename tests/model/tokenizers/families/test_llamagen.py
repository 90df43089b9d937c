import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_checkpoints import (
    LLAMAGEN,
    TRANSFORMERS,
    Autoencoder,
    make_autoencoder,
    nearest,
    noise_images,
    noise_pixels,
)
from safetensors.torch import save_file

from model.tokenizers import Choices, load_tokenizer
from parti_data.errors import TokenizerError

ARGUMENTS = {
    "codebook_size": 48, "codebook_embed_dim": 4, "codebook_l2_norm": True, "encoder_ch_mult": [1, 1, 2],
    "decoder_ch_mult": [1, 1, 2], "z_channels": 8, "ch": 32, "dropout_p": 0.0,
}  # fmt: skip
SIDE = Choices(image_side=32)


def make(names=LLAMAGEN) -> Autoencoder:
    return make_autoencoder(names, mult=(1, 1, 2), attention_levels=(2,))


def expected_tokens(net: Autoencoder, normalise: bool = True) -> torch.Tensor:
    return nearest(net.latents(2 * noise_pixels() - 1), net.tensors["quantize.embedding.weight"], normalise)


def save(tmp_path, tensors: dict) -> str:
    path = str(tmp_path / "vq_ds16_c2i.pt")
    torch.save({"model": tensors | {"quantize.codebook_used": torch.zeros(65_536)}}, path)
    return path


def config_file(tmp_path, values: dict) -> str:
    (tmp_path / "arguments.json").write_text(json.dumps(values))
    return str(tmp_path / "arguments.json")


def test_tokens_and_pixels_are_those_of_the_reference(tmp_path):
    net = make()
    tokenizer = load_tokenizer(save(tmp_path, net.tensors), choices=SIDE)
    tokens = tokenizer.encode(noise_images())
    assert torch.equal(tokens, expected_tokens(net))
    assert not torch.equal(tokens, expected_tokens(net, normalise=False))
    codes = F.normalize(net.tensors["quantize.embedding.weight"].double(), dim=-1)[tokens]
    pixels = (255 * ((net.pixels(codes) + 1) / 2).clamp(0, 1)).permute(0, 2, 3, 1).numpy()
    assert np.abs(tokenizer.decode(tokens).numpy() - pixels).max() < 0.51
    assert tokenizer.spec[:6] == ("llamagen", 48, 8, 32, (-1.0, 1.0), "adm")


def test_its_arguments_say_what_the_tensors_do(tmp_path):
    path = save(tmp_path, make().tensors)
    told = load_tokenizer(path, config_file(tmp_path, ARGUMENTS), choices=SIDE)
    assert told.fingerprint == load_tokenizer(path, choices=SIDE).fingerprint


def test_codes_that_are_not_normalised_take_the_arguments_that_say_so(tmp_path):
    net = make()
    config = config_file(tmp_path, ARGUMENTS | {"codebook_l2_norm": False})
    tokenizer = load_tokenizer(save(tmp_path, net.tensors), config, choices=SIDE)
    assert torch.equal(tokenizer.encode(noise_images()), expected_tokens(net, normalise=False))


def test_janus_copy_is_found_inside_a_language_model(tmp_path):
    net = make()
    inside = {f"gen_vision_model.{name}": tensor for name, tensor in net.tensors.items()}
    path = str(tmp_path / "model.safetensors")
    save_file({"language_model.lm_head.weight": torch.ones(2, 2)} | inside, path)
    tokenizer = load_tokenizer(path)
    assert tokenizer.spec.image_side == 384
    assert torch.equal(tokenizer.encode(noise_images()), expected_tokens(net))
    alone = load_tokenizer(save(tmp_path, net.tensors), choices=SIDE)
    assert load_tokenizer(str(tmp_path), choices=SIDE).fingerprint == alone.fingerprint
    config = {"gen_vision_config": {"cls": "VQ-16", "params": {"image_token_size": 48, "n_embed": 4}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_tokenizer(str(tmp_path), choices=SIDE).fingerprint == alone.fingerprint
    config["gen_vision_config"]["params"]["n_embed"] = 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=r"expected quantize.embedding.weight of shape \(48, 8\), found \(48, 4\)"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("prefix", ["model.vqmodel.", ""])
def test_transformers_names_for_janus_are_taken(tmp_path, prefix):
    net, theirs = make(), make(TRANSFORMERS)
    path = str(tmp_path / "renamed.safetensors")
    save_file({f"{prefix}{name}": tensor.contiguous() for name, tensor in theirs.tensors.items()}, path)
    tokenizer = load_tokenizer(path, choices=SIDE)
    assert torch.equal(tokenizer.encode(noise_images()), expected_tokens(net))
    assert tokenizer.fingerprint == load_tokenizer(save(tmp_path, net.tensors), choices=SIDE).fingerprint
    tokens = tokenizer.encode(noise_images())
    assert torch.equal(tokenizer.decode(tokens), load_tokenizer(save(tmp_path, net.tensors)).decode(tokens))
    config = {
        "channel_multiplier": [1, 1, 2], "base_channels": 32, "latent_channels": 8, "num_embeddings": 48, "embed_dim": 4
    }  # fmt: skip
    told = load_tokenizer(path, config_file(tmp_path, {"model_type": "janus", "vq_config": config}), choices=SIDE)
    assert told.fingerprint == tokenizer.fingerprint


def test_weights_in_half_precision_are_run_in_float32(tmp_path):
    net = make()
    net.tensors = {name: tensor.bfloat16() for name, tensor in net.tensors.items()}
    path = str(tmp_path / "half.safetensors")
    save_file(net.tensors, path)
    tokenizer = load_tokenizer(path, choices=SIDE)
    assert {parameter.dtype for parameter in tokenizer._network.parameters()} == {torch.float32}
    assert torch.equal(tokenizer.encode(noise_images()), expected_tokens(net))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_size": 64}, r"expected quantize.embedding.weight of shape \(64, 4\), found \(48, 4\)"),
        ({"ch": 64}, r"expected encoder.conv_in.weight of shape \(64, 3, 3, 3\), found \(32, 3, 3, 3\)"),
        (
            {"encoder_ch_mult": [1, 2, 2]},
            r"expected encoder.conv_blocks.1.res.0.conv1.weight of shape \(64, 32, 3, 3\)",
        ),
        (
            {"encoder_ch_mult": [1, 1]},
            r"expected a tensor encoder.conv_blocks.1.attn.0.norm.weight of shape \(32,\), found",
        ),
        (
            {"decoder_ch_mult": [4, 9]},
            r"expected decoder.conv_in.weight of shape \(288, 8, 3, 3\), found \(64, 8, 3, 3\)",
        ),
        (
            {"decoder_ch_mult": [2, 1, 2]},
            r"expected decoder.conv_blocks.2.res.0.norm1.weight|expected decoder.conv_blocks.2.res.0.conv1.weight",
        ),
        ({"encoder_ch_mult": [1] * 13}, "expected encoder_ch_mult to be readable, found Tuple should have at most 12"),
        ({"num_res_blocks": 65}, "expected num_res_blocks to be readable, found Input should be less than or equal"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_the_files_own_name(tmp_path, changes, message):
    path = save(tmp_path, make().tensors)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(path, config_file(tmp_path, ARGUMENTS | changes))


def test_a_missing_tensor_is_told_by_the_files_own_name(tmp_path):
    tensors = make().tensors
    del tensors["decoder.mid.1.q.bias"], tensors["decoder.conv_blocks.0.res.2.conv2.bias"]
    with pytest.raises(TokenizerError, match=r"expected a tensor decoder.mid.1.q.bias of shape \(64,\), found none"):
        load_tokenizer(save(tmp_path, tensors))
    tensors = make().tensors
    del tensors["decoder.conv_blocks.0.res.2.conv2.bias"]
    with pytest.raises(
        TokenizerError, match=r"expected a tensor decoder.conv_blocks.0.res.2.conv2.bias of shape \(64,\)"
    ):
        load_tokenizer(save(tmp_path, tensors))
