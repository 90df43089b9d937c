import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_checkpoints import make_vit, nearest, noise_images, noise_pixels, vit_latents, vit_pixels

from model.tokenizers import Choices, load_tokenizer
from parti_data.errors import TokenizerError

PARAMETERS = {
    "image_key": "image", "image_size": 32, "patch_size": 8,
    "encoder": {"dim": 64, "depth": 2, "heads": 2, "mlp_dim": 48},
    "decoder": {"dim": 32, "depth": 2, "heads": 1, "mlp_dim": 48},
    "quantizer": {"embed_dim": 6, "n_embed": 40},
}  # fmt: skip


def save(tmp_path, tensors: dict) -> str:
    path = str(tmp_path / "imagenet_vitvq_small.ckpt")
    torch.save({"state_dict": tensors | {"loss.logits_laplace.x": torch.ones(1)}, "epoch": 1}, path)
    return path


def config_file(tmp_path, **changes) -> str:
    parameters = json.loads(json.dumps(PARAMETERS))
    for name, value in changes.items():
        if isinstance(value, dict):
            parameters[name] |= value
        else:
            parameters[name] = value
    path = tmp_path / "project.yaml"
    path.write_text(json.dumps({"model": {"target": "enhancing.x.ViTVQ", "params": parameters}}))
    return str(path)


def normalised(tensors: dict) -> torch.Tensor:
    return F.normalize(tensors["quantizer.embedding.weight"].double(), dim=-1)


def check_decode(tokenizer, tokens, tensors, codes, num_heads):
    images = (255 * vit_pixels(tensors, codes, num_heads).clamp(0, 1)).permute(0, 2, 3, 1).numpy()
    assert np.abs(tokenizer.decode(tokens).numpy() - images).max() < 0.51


def test_tokens_and_pixels_are_those_of_the_reference(tmp_path):
    tensors = make_vit()
    tokenizer = load_tokenizer(save(tmp_path, tensors))
    tokens = tokenizer.encode(noise_images())
    expected = nearest(vit_latents(tensors, noise_pixels(), 2), tensors["quantizer.embedding.weight"], normalise=True)
    assert torch.equal(tokens, expected)
    assert len(tokens.unique()) > 15
    check_decode(tokenizer, tokens, tensors, normalised(tensors)[tokens], 1)
    assert tokenizer.spec == ("enhancing", 40, 4, 32, (0.0, 1.0), "squash", 1, False)
    assert load_tokenizer(save(tmp_path, tensors), config_file(tmp_path)).fingerprint == tokenizer.fingerprint


def test_a_single_head_as_wide_as_the_network_has_no_projection(tmp_path):
    tensors = make_vit(widths=(64, 64), heads=(1, 1))
    assert not [name for name in tensors if "to_out" in name]
    tokenizer = load_tokenizer(save(tmp_path, tensors))
    tokens = tokenizer.encode(noise_images())
    expected = nearest(vit_latents(tensors, noise_pixels(), 1), tensors["quantizer.embedding.weight"], normalise=True)
    assert torch.equal(tokens, expected)
    check_decode(tokenizer, tokens, tensors, normalised(tensors)[tokens], 1)
    config = config_file(tmp_path, encoder={"heads": 1}, decoder={"dim": 64, "heads": 1})
    assert load_tokenizer(save(tmp_path, tensors), config).fingerprint == tokenizer.fingerprint


def test_heads_of_another_width_take_the_config(tmp_path):
    tensors = make_vit(heads=(4, 4), head_width=16)
    narrow = {"heads": 4, "dim_head": 16}
    tokenizer = load_tokenizer(save(tmp_path, tensors), config_file(tmp_path, encoder=narrow, decoder=narrow))
    latents = vit_latents(tensors, noise_pixels(), 4)
    tokens = tokenizer.encode(noise_images())
    assert torch.equal(tokens, nearest(latents, tensors["quantizer.embedding.weight"], normalise=True))
    check_decode(tokenizer, tokens, tensors, normalised(tensors)[tokens], 4)


def test_a_residual_is_quantized_as_often_as_the_config_says(tmp_path):
    tensors = make_vit()
    config = config_file(tmp_path, quantizer={"use_residual": True, "num_quantizers": 3})
    tokenizer = load_tokenizer(save(tmp_path, tensors), config)
    left, found, codes = vit_latents(tensors, noise_pixels(), 2), [], normalised(tensors)
    for _ in range(3):
        found.append(nearest(left, tensors["quantizer.embedding.weight"], normalise=True))
        left = left - codes[found[-1]]
    expected = torch.stack(found, -1)
    tokens = tokenizer.encode(noise_images())
    assert torch.equal(tokens, expected.flatten(1))
    assert (tokenizer.spec.num_quantizers, tokenizer.spec.num_tokens, tokens.shape[1]) == (3, 48, 48)
    assert not torch.equal(found[0], found[1])
    check_decode(tokenizer, tokens, tensors, codes[expected].sum(2), 1)
    assert tokenizer.fingerprint != load_tokenizer(save(tmp_path, tensors), config_file(tmp_path)).fingerprint


def test_codes_may_be_left_as_they_are(tmp_path):
    tensors = make_vit()
    tokenizer = load_tokenizer(save(tmp_path, tensors), config_file(tmp_path, quantizer={"use_norm": False}))
    latents = vit_latents(tensors, noise_pixels(), 2)
    tokens = tokenizer.encode(noise_images())
    assert torch.equal(tokens, nearest(latents, tensors["quantizer.embedding.weight"]))
    assert not torch.equal(tokens, nearest(latents, tensors["quantizer.embedding.weight"], normalise=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": {"dim": 96}},
            r"expected encoder.en_pos_embedding of shape \(1, 16, 96\), found \(1, 16, 64\); use",
        ),
        ({"encoder": {"heads": 3}}, r"expected encoder.transformer.layers.0.0.fn.to_qkv.weight of shape \(576, 64\)"),
        (
            {"decoder": {"depth": 3}},
            r"expected a tensor decoder.transformer.layers.2.0.norm.weight of shape \(32,\), found",
        ),
        (
            {"decoder": {"depth": 1}},
            r"expected no tensor decoder.transformer.layers.1.0.norm.weight, found one of shape",
        ),
        ({"image_size": 64}, r"expected encoder.en_pos_embedding of shape \(1, 64, 64\), found \(1, 16, 64\)"),
        (
            {"quantizer": {"n_embed": "x"}},
            r"project.yaml: expected quantizer.n_embed to be readable, found Input should",
        ),
        ({"image_size": 35}, "project.yaml: expected image_side a multiple of 8, found 35"),
        (
            {"image_size": 1 << 20},
            "expected image_size to be readable, found Input should be less than or equal to 8192",
        ),
        (
            {"quantizer": {"use_residual": True}},
            "project.yaml: expected num_quantizers beside use_residual, found none; say how often it is quantized",
        ),
        ({"encoder": {"heads": 1}}, "fn.to_qkv.weight of shape"),
        (
            {"encoder": {"depth": 10**9}},
            "expected encoder.depth to be readable, found Input should be less than or equal",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_the_first_difference(tmp_path, changes, message):
    path = save(tmp_path, make_vit())
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(path, config_file(tmp_path, **changes))


def test_another_image_side_is_refused(tmp_path):
    path = save(tmp_path, make_vit())
    with pytest.raises(TokenizerError, match="expected image_side 32, for which its positions are, found 64"):
        load_tokenizer(path, choices=Choices(image_side=64))


def test_what_the_tensors_do_not_tell_is_asked_for(tmp_path):
    with pytest.raises(TokenizerError, match="expected heads 64 wide, found 48 together; give the config"):
        load_tokenizer(save(tmp_path, make_vit(heads=(3, 3), head_width=16)))
    tensors = make_vit()
    tensors["encoder.en_pos_embedding"] = tensors["encoder.en_pos_embedding"][:, :15]
    with pytest.raises(TokenizerError, match="expected positions of a square grid, found 15"):
        load_tokenizer(save(tmp_path, tensors))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("quantizer.embedding.weight", torch.ones(5), r"quantizer.embedding.weight with 2 sides, found \(5,\)"),
        (
            "encoder.to_patch_embedding.0.weight",
            torch.ones(()),
            r"to_patch_embedding.0.weight with 4 sides, found \(\)",
        ),
        (
            "encoder.to_patch_embedding.0.weight",
            torch.ones(64, 3, 8, 0),
            r"with 4 sides, found \(64, 3, 8, 0\); use the",
        ),
    ],
)
def test_tensors_that_no_architecture_has_are_refused(tmp_path, name, tensor, message):
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(save(tmp_path, make_vit() | {name: tensor}))


def test_layers_without_end_are_refused_before_they_are_built(tmp_path):
    layers = {f"encoder.transformer.layers.{n}.0.fn.to_qkv.weight": torch.zeros(384, 64) for n in range(257)}
    with pytest.raises(
        TokenizerError, match="expected at most 256 layers of the encoder, found 257; give a tokenizer's"
    ):
        load_tokenizer(save(tmp_path, make_vit() | layers))


def test_the_decoder_has_no_say_in_the_fingerprint(tmp_path):
    tensors = make_vit()
    before = load_tokenizer(save(tmp_path, tensors)).fingerprint
    for name, changes in (("decoder.to_pixel.1.bias", False), ("post_quant.bias", False), ("pre_quant.bias", True)):
        tensors[name] = tensors[name] + 1e-3
        assert (load_tokenizer(save(tmp_path, tensors)).fingerprint != before) is changes
