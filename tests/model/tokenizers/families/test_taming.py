import json

import numpy as np
import pytest
import torch
from published_checkpoints import (
    Autoencoder,
    Maker,
    conv,
    doubled,
    make_autoencoder,
    nearest,
    noise_images,
    noise_pixels,
    to_flax,
)
from safetensors.torch import save_file

from model.tokenizers import Choices, load_tokenizer
from parti_data.errors import TokenizerError

FORMS = {
    "as f16": {"mult": (1, 2, 2), "attention_levels": (2,)},
    "without attention": {"mult": (1, 2), "attention_levels": ()},
    "without any attention": {"mult": (1, 2), "attention_levels": (), "middle_attention": False},
    "attention at a finer level": {"mult": (1, 2), "attention_levels": (0, 1)},
    "mean of four": {"mult": (1, 1, 2), "attention_levels": (1,), "resamples": False},
}
CONFIG = {
    "model": {
        "target": "taming.models.vqgan.VQModel",
        "params": {
            "embed_dim": 4,
            "n_embed": 48,
            "lossconfig": {"target": "x"},
            "ddconfig": {
                "double_z": False, "z_channels": 8, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32,
                "ch_mult": [1, 2], "num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0,
            },
        },
    }
}  # fmt: skip


def symmetric() -> torch.Tensor:
    return 2 * noise_pixels() - 1


def expected_tokens(net: Autoencoder, pixels: torch.Tensor, nested: bool = False) -> torch.Tensor:
    return nearest(net.latents(pixels, nested), net.tensors["quantize.embedding.weight"])


def expected_bytes(net: Autoencoder, tokens: torch.Tensor, is_unit: bool = False, nested: bool = False) -> np.ndarray:
    pixels = net.pixels(net.tensors["quantize.embedding.weight"].double()[tokens], nested)
    pixels = pixels if is_unit else (pixels + 1) / 2
    return (255 * pixels.clamp(0, 1)).permute(0, 2, 3, 1).numpy()


def save(tmp_path, tensors: dict, name: str = "model.ckpt") -> str:
    path = str(tmp_path / name)
    losses = {
        "loss.discriminator.main.0.weight": torch.zeros(2),
        "loss.perceptual_loss.lin0.model.1.weight": torch.ones(1),
    }
    torch.save({"state_dict": tensors | losses, "global_step": 7}, path)
    return path


def config_file(tmp_path, **changes) -> str:
    config = json.loads(json.dumps(CONFIG))
    for name, value in changes.items():
        place = config["model"] if name == "target" else config["model"]["params"]
        place = place["ddconfig"] if name in place.get("ddconfig", {}) or name == "attn_type" else place
        place[name] = value
    path = tmp_path / "project.yaml"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize("form", FORMS)
def test_tokens_and_pixels_are_those_of_the_reference(tmp_path, form):
    net = make_autoencoder(**FORMS[form])
    tokenizer = load_tokenizer(save(tmp_path, net.tensors), choices=Choices(image_side=32))
    tokens = tokenizer.encode(noise_images())
    assert torch.equal(tokens, expected_tokens(net, symmetric()))
    assert len(tokens.unique()) > 12
    assert np.abs(tokenizer.decode(tokens).numpy() - expected_bytes(net, tokens)).max() < 0.51
    assert tokenizer.spec[:4] == ("taming", 48, 32 // 2 ** (net.num_levels - 1), 32)


def test_gumbel_takes_the_likeliest_code(tmp_path):
    net, make = make_autoencoder(), Maker(2)
    tensors = dict(net.tensors)
    make.layer("quantize.proj", 48, 4, 1, 1)
    tensors |= make.tensors | {"quantize.embed.weight": tensors.pop("quantize.embedding.weight")}
    tokenizer = load_tokenizer(save(tmp_path, tensors), choices=Choices(image_side=32))
    tokens = tokenizer.encode(noise_images())
    latents = net.latents(symmetric()).transpose(1, 2)[..., None]
    assert torch.equal(tokens, conv(doubled(tensors), "quantize.proj", latents, pad=0)[..., 0].argmax(1))
    assert len(tokens.unique()) > 5
    decoded = net.pixels(tensors["quantize.embed.weight"].double()[tokens])
    images = (255 * ((decoded + 1) / 2).clamp(0, 1)).permute(0, 2, 3, 1).numpy()
    assert np.abs(tokenizer.decode(tokens).numpy() - images).max() < 0.51


def test_a_config_says_what_the_tensors_do(tmp_path):
    net = make_autoencoder()
    path = save(tmp_path, net.tensors)
    told = load_tokenizer(path, config_file(tmp_path))
    assert told.fingerprint == load_tokenizer(path, choices=Choices(image_side=32)).fingerprint
    assert told.spec.image_side == 32
    assert load_tokenizer(path).spec.image_side == 256


def test_dalle_minis_unit_range_is_a_choice_in_torch_and_the_default_in_flax(tmp_path):
    net = make_autoencoder(mult=(1, 2, 2), attention_levels=(2,))
    net.tensors["quantize.embedding.weight"] = 1.1 * net.tensors["quantize.embedding.weight"]
    flax = tmp_path / "flax_model.msgpack"
    flax.write_bytes(to_flax(net.tensors))
    in_torch = load_tokenizer(save(tmp_path, net.tensors), choices=Choices(image_side=32, pixel_range="unit"))
    in_flax = load_tokenizer(str(flax), choices=Choices(image_side=32))
    tokens = in_flax.encode(noise_images())
    assert torch.equal(tokens, expected_tokens(net, noise_pixels()))
    assert torch.equal(tokens, in_torch.encode(noise_images()))
    assert np.abs(in_flax.decode(tokens).numpy() - expected_bytes(net, tokens, is_unit=True)).max() < 0.51
    assert in_flax.fingerprint == in_torch.fingerprint
    assert in_flax.spec.resize_recipe == "resize_center"
    other = load_tokenizer(str(flax), choices=Choices(image_side=32, pixel_range="symmetric"))
    assert other.fingerprint != in_flax.fingerprint
    assert torch.equal(other.encode(noise_images()), expected_tokens(net, symmetric()))


def test_a_folder_of_flax_with_its_config_is_taken(tmp_path):
    net = make_autoencoder()
    (tmp_path / "flax_model.msgpack").write_bytes(to_flax(net.tensors))
    flat = CONFIG["model"]["params"]["ddconfig"] | {"n_embed": 48, "embed_dim": 4, "model_type": "VQGAN"}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.spec.image_side == 32
    assert torch.equal(tokenizer.encode(noise_images()), expected_tokens(net, noise_pixels()))
    flat["n_embed"] = 47
    (tmp_path / "config.json").write_text(json.dumps(flat))
    with pytest.raises(
        TokenizerError, match=r"expected quantize.embedding.embedding of shape \(47, 4\), found \(48, 4\)"
    ):
        load_tokenizer(str(tmp_path))


def test_vqgan_jaxs_order_of_attention_is_a_choice(tmp_path):
    net = make_autoencoder()
    path = save(tmp_path, net.tensors)
    tokenizer = load_tokenizer(path, choices=Choices(image_side=32, attention="nested"))
    tokens = tokenizer.encode(noise_images())
    assert torch.equal(tokens, expected_tokens(net, symmetric(), nested=True))
    assert not torch.equal(tokens, expected_tokens(net, symmetric()))
    assert tokenizer.fingerprint != load_tokenizer(path, choices=Choices(image_side=32)).fingerprint
    flax = tmp_path / "flax_model.msgpack"
    flax.write_bytes(to_flax(net.tensors))
    in_flax = load_tokenizer(str(flax), choices=Choices(image_side=32, attention="nested"))
    tokens = in_flax.encode(noise_images())
    assert torch.equal(tokens, expected_tokens(net, noise_pixels(), nested=True))
    decoded = in_flax.decode(tokens).numpy()
    assert np.abs(decoded - expected_bytes(net, tokens, is_unit=True, nested=True)).max() < 0.51
    assert np.abs(decoded - expected_bytes(net, tokens, is_unit=True)).max() > 2


def test_the_first_stage_of_a_larger_model_is_found(tmp_path):
    net = make_autoencoder()
    inside = {f"first_stage_model.{name}": tensor for name, tensor in net.tensors.items()}
    path = save(tmp_path, {"model.diffusion_model.out.weight": torch.ones(3)} | inside)
    tokenizer = load_tokenizer(path, choices=Choices(image_side=32))
    assert torch.equal(tokenizer.encode(noise_images()), expected_tokens(net, symmetric()))
    elsewhere = str(tmp_path / "other.safetensors")
    save_file({f"my.tokenizer.{name}": tensor for name, tensor in net.tensors.items()}, elsewhere)
    chosen = load_tokenizer(elsewhere, choices=Choices(image_side=32, prefix="my.tokenizer."))
    assert chosen.fingerprint == tokenizer.fingerprint


def test_averages_are_taken_where_they_are_chosen(tmp_path):
    net, other = make_autoencoder(), make_autoencoder()
    path = str(tmp_path / "vq.pt")
    changed = {name: tensor * 1.5 for name, tensor in net.tensors.items()}
    torch.save({"model": changed, "ema": net.tensors, "optimizer": {}}, path)
    default = load_tokenizer(path, choices=Choices(image_side=32))
    assert torch.equal(default.encode(noise_images()), expected_tokens(other, symmetric()))
    raw = load_tokenizer(path, choices=Choices(image_side=32, weights="model"))
    assert raw.fingerprint != default.fingerprint


def test_images_of_another_side_are_taken(tmp_path):
    net = make_autoencoder()
    tokenizer = load_tokenizer(save(tmp_path, net.tensors))
    images = noise_images(side=48)
    tokens = tokenizer.encode(images)
    assert tokens.shape == (5, 576)
    assert torch.equal(tokens, expected_tokens(net, 2 * noise_pixels(side=48) - 1))
    assert tokenizer.decode(tokens).shape == images.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ch_mult": [1, 1]},
            r"expected encoder.down.1.block.0.conv1.weight of shape \(32, 32, 3, 3\), found \(64, 32",
        ),
        (
            {"ch_mult": [1, 2, 2]},
            r"expected a tensor encoder.down.1.downsample.conv.weight of shape .*, found none; use",
        ),
        ({"attn_resolutions": []}, r"expected no tensor encoder.down.1.attn.0.norm.weight, found one of shape \(64,\)"),
        ({"attn_type": "none"}, r"expected no tensor encoder.down.1.attn.0.norm.weight, found one of shape"),
        (
            {"n_embed": 47},
            r"expected quantize.embedding.weight of shape \(47, 4\), found \(48, 4\); use the config that",
        ),
        ({"num_res_blocks": 1}, "expected no tensor encoder.down.0.block.1.norm1.weight"),
        (
            {"double_z": True},
            "expected double_z False, found True, which would be another encoder.conv_out.weight; taken",
        ),
        (
            {"in_channels": 4},
            "expected in_channels 3, found 4, which would be another encoder.conv_in.weight; taken are",
        ),
        ({"out_ch": 5}, "expected out_ch 3, found 5, which would be another decoder.conv_out.weight; taken are models"),
        ({"ch_mult": [1] * 3000}, "expected ch_mult to be readable, found Tuple should have at most 12 items"),
        ({"ch_mult": []}, "expected ch_mult to be readable, found Tuple should have at least 1 item"),
        (
            {"resolution": 2 * 10**9},
            "expected resolution to be readable, found Input should be less than or equal to 8",
        ),
        ({"ch": 32 * 10**30}, "expected ch to be readable, found Input should be less than or equal to"),
        ({"ch": 1 << 30, "ch_mult": [1 << 30] * 9}, "expected an architecture that can be, found "),
        ({"n_embed": 10**40}, "expected n_embed to be readable, found Input should be less than or equal to"),
        ({"target": "x.\ud800\x1b[31m"}, r"expected one of VQModel, .*, found \\ud800\\x1b\[31m; its tokens are"),
        ({"remap": "\n"}, r"expected a codebook used whole, found remap \\n; taken are models without"),
        ({"attn_type": "\n"}, r"expected attn_type vanilla or none, found \\n$"),
        ({"target": "taming.models.vqgan.GumbelVQ"}, "expected a tensor quantize.proj.weight of shape"),
        (
            {"target": "taming.models.lfqgan.IBQ"},
            "expected one of VQModel, .*, found IBQ; its tokens are chosen otherwise",
        ),
        ({"remap": "used.npy"}, "expected a codebook used whole, found remap used.npy; taken are models without"),
        ({"attn_type": "linear"}, "expected attn_type vanilla or none, found linear"),
        ({"ch": 24}, "expected an architecture that can be, found num_channels .* must be divisible by num_groups"),
        (
            {"ch": "many"},
            "expected ch to be readable, found Input should be a valid integer.*; use the config published",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_the_first_difference(tmp_path, changes, message):
    path = save(tmp_path, make_autoencoder().tensors)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(path, config_file(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder.conv_in.weight": torch.ones(())},
            r"expected a tensor encoder.conv_in.weight with 4 sides, found \(\)",
        ),
        (
            {"quantize.embedding.weight": torch.ones(5)},
            r"quantize.embedding.weight with 2 sides, found \(5,\); use the",
        ),
        (
            {f"encoder.down.{n}.block.0.conv1.weight": torch.zeros(32, 0) for n in range(13)},
            "expected at most 12 levels, found 13; give a tokenizer's weights",
        ),
        (
            {f"encoder.down.0.block.{n}.conv1.weight": torch.zeros(32, 0) for n in range(65)},
            "expected at most 64 blocks a level, found 65; give a tokenizer's weights",
        ),
        ({"encoder.evil\n\x1b": torch.ones(1)}, r"expected no tensor encoder.evil\\n\\x1b, found one of shape"),
    ],
)
def test_tensors_that_no_architecture_has_are_refused(tmp_path, changes, message):
    path = save(tmp_path, make_autoencoder().tensors | changes)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(path)


def test_weights_that_processes_trained_together_are_found(tmp_path):
    net = make_autoencoder()
    path = save(tmp_path, {f"module.{name}": tensor for name, tensor in net.tensors.items()})
    tokenizer = load_tokenizer(path, choices=Choices(image_side=32))
    assert torch.equal(tokenizer.encode(noise_images()), expected_tokens(net, symmetric()))


def test_remapped_codes_are_refused(tmp_path):
    path = save(tmp_path, make_autoencoder().tensors | {"quantize.used": torch.arange(4)})
    with pytest.raises(
        TokenizerError, match="expected a codebook used whole, found remapped codes; taken are models with"
    ):
        load_tokenizer(path)


def test_a_side_that_patches_do_not_cover_is_refused(tmp_path):
    path = save(tmp_path, make_autoencoder().tensors)
    with pytest.raises(TokenizerError, match="expected image_side a multiple of 2, found 33"):
        load_tokenizer(path, choices=Choices(image_side=33))


def test_the_decoder_has_no_say_in_the_fingerprint(tmp_path):
    net = make_autoencoder()
    before = load_tokenizer(save(tmp_path, net.tensors)).fingerprint
    for name, changes in (("decoder.conv_in.bias", False), ("post_quant_conv.bias", False), ("quant_conv.bias", True)):
        net.tensors[name] = net.tensors[name] + 1e-3
        assert (load_tokenizer(save(tmp_path, net.tensors)).fingerprint != before) is changes
