import json
import os
import pickle
from typing import get_args

import numpy as np
import pytest
import torch
from published_checkpoints import make_autoencoder, make_dvae, make_vit, noise_images, to_flax
from pydantic import ValidationError
from safetensors.torch import save_file

from model.tokenizers import Choices, Reading, load_tokenizer, open_tokenizer, save_tokenizer, tokenizer_files
from model.tokenizers.families import FAMILIES
from model.tokenizers.vit_vqgan import TransformerSize, ViTVQGAN, ViTVQGANShape
from parti_data.errors import CheckpointError, TokenizerError

TINY = ViTVQGANShape(
    image_side=32, patch_side=8, codebook_size=64, code_width=8, positions="rotary",
    encoder=TransformerSize(num_layers=1, num_heads=2, width=32, hidden=64),
    decoder=TransformerSize(num_layers=1, num_heads=2, width=32, hidden=64),
)  # fmt: skip


def write_zip(path):
    torch.save({"state_dict": make_autoencoder().tensors}, path)


def write_legacy(path):
    torch.save({"state_dict": make_autoencoder().tensors}, path, _use_new_zipfile_serialization=False)


def write_safetensors(path):
    save_file(make_autoencoder().tensors, path)


def write_msgpack(path):
    path.write_bytes(to_flax(make_autoencoder().tensors))


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_safetensors, write_msgpack])
def test_the_container_is_told_by_the_file_not_by_its_name(tmp_path, write):
    write(tmp_path / "weights")
    tokenizer = load_tokenizer(str(tmp_path / "weights"), choices=Choices(image_side=32, pixel_range="symmetric"))
    assert tokenizer.spec.name == "taming"
    write_zip(tmp_path / "zip")
    record = load_tokenizer(str(tmp_path / "zip"), choices=Choices(image_side=32))
    assert torch.equal(tokenizer.encode(noise_images()), record.encode(noise_images()))


def test_the_kind_may_be_given_and_then_decides(tmp_path):
    torch.save(make_vit(), tmp_path / "vit.ckpt")
    assert load_tokenizer(str(tmp_path / "vit.ckpt"), kind="enhancing").spec.name == "enhancing"
    with pytest.raises(TokenizerError, match="expected a tensor encoder.conv_in.weight, found none; use the kind and"):
        load_tokenizer(str(tmp_path / "vit.ckpt"), kind="taming")
    with pytest.raises(TokenizerError, match="expected a kind among enhancing, llamagen, .*, found vqgan"):
        load_tokenizer(str(tmp_path / "vit.ckpt"), kind="vqgan")


def test_a_file_of_no_known_kind_is_refused_with_the_names_in_it(tmp_path):
    save_file({f"layer.{n}.weight": torch.ones(2) for n in range(9)}, tmp_path / "x.safetensors")
    expected = (
        "x.safetensors: expected a tokenizer of ours or one of enhancing, llamagen, taming, openai_dvae, igpt, found "
        "tensors layer.0.weight, .*, layer.4.weight, …; give kind, or prefix where it lies inside a larger model$"
    )
    with pytest.raises(TokenizerError, match=expected):
        load_tokenizer(str(tmp_path / "x.safetensors"))


def test_names_in_a_file_are_shown_without_control_characters(tmp_path):
    save_file({"layer\n\x1b[31mevil": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(TokenizerError, match=r"found tensors layer\\n\\x1b\[31mevil, …"):
        load_tokenizer(str(tmp_path / "x.safetensors"))


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"expected one of model.safetensors, .*, found none; name the file in it"):
        load_tokenizer(str(tmp_path))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    tensors = make_autoencoder().tensors
    tensors["quant_conv.bias"] = torch.zeros(4, dtype=torch.int8)
    torch.save(tensors, tmp_path / "a.pt")
    with pytest.raises(
        TokenizerError, match=r"expected quant_conv.bias of floats, found torch.int8; take the weights as"
    ):
        load_tokenizer(str(tmp_path / "a.pt"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    tensors = make_autoencoder().tensors
    tensors["quant_conv.bias"][1] = value
    torch.save(tensors, tmp_path / "a.pt")
    with pytest.raises(
        TokenizerError, match=r"expected quant_conv.bias of finite numbers, found others; download it a"
    ):
        load_tokenizer(str(tmp_path / "a.pt"))
    network = ViTVQGAN(TINY)
    network.codebook.embedding.data[3, 0] = value
    save_tokenizer(network, str(tmp_path / "b"))
    with pytest.raises(
        TokenizerError, match=r"of ours, found codebook.embedding of numbers that are not finite; check"
    ):
        load_tokenizer(str(tmp_path / "b"))


class _Marker:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save(
        {"state_dict": make_autoencoder().tensors, "callbacks": _Marker(str(tmp_path / "ran"))}, tmp_path / "a.ckpt"
    )
    assert load_tokenizer(str(tmp_path / "a.ckpt")).spec.name == "taming"
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(_Marker(str(tmp_path / "ran"))))
    with pytest.raises(CheckpointError):
        load_tokenizer(str(tmp_path / "b.pkl"))
    assert not (tmp_path / "ran").exists()


def test_a_config_beside_the_file_is_used_where_it_has_the_familys_layout(tmp_path):
    torch.save(make_vit(), tmp_path / "model.ckpt")
    parameters = {
        "image_size": 32, "patch_size": 8, "encoder": {"dim": 64, "depth": 2, "heads": 2, "mlp_dim": 48},
        "decoder": {"dim": 32, "depth": 2, "heads": 1, "mlp_dim": 48},
        "quantizer": {"embed_dim": 6, "n_embed": 40, "use_residual": True, "num_quantizers": 2},
    }  # fmt: skip
    (tmp_path / "config.json").write_text('{"model_type": "llama", "n_embed": 3}')
    assert load_tokenizer(str(tmp_path)).spec.num_quantizers == 1
    (tmp_path / "config.yaml").write_text(json.dumps({"model": {"params": parameters}}))
    assert load_tokenizer(str(tmp_path)).spec.num_quantizers == 2
    assert load_tokenizer(str(tmp_path / "model.ckpt")).spec.num_quantizers == 2
    (tmp_path / "model.yaml").write_text(json.dumps({"model": {"params": parameters | {"image_size": 40}}}))
    with pytest.raises(TokenizerError, match="read by .*model.yaml: expected encoder.en_pos_embedding of shape"):
        load_tokenizer(str(tmp_path))


def test_a_config_of_another_family_is_refused(tmp_path):
    torch.save(make_vit(), tmp_path / "model.ckpt")
    (tmp_path / "other.yaml").write_text("ch_mult: [1]\nn_embed: 4")
    with pytest.raises(
        TokenizerError, match="other.yaml: expected a config of enhancing, found ch_mult, n_embed; give"
    ):
        load_tokenizer(str(tmp_path / "model.ckpt"), str(tmp_path / "other.yaml"))
    (tmp_path / "other.json").write_text('{"\\ud800\\n": 1}')
    with pytest.raises(TokenizerError, match=r"expected a config of enhancing, found \\ud800\\n; give"):
        load_tokenizer(str(tmp_path / "model.ckpt"), str(tmp_path / "other.json"))


def test_a_file_of_ours_takes_no_choices(tmp_path):
    path = str(tmp_path / "own.safetensors")
    torch.manual_seed(0)
    save_tokenizer(ViTVQGAN(TINY), path)
    assert load_tokenizer(path, kind="vit_vqgan").fingerprint == load_tokenizer(path).fingerprint
    for given in ({"kind": "taming"}, {"config": "x.yaml"}, {"choices": Choices(image_side=8)}):
        with pytest.raises(
            TokenizerError, match="expected no config, kind or choices for a tokenizer of ours, found some"
        ):
            load_tokenizer(path, **given)


def test_every_file_that_decides_is_listed(tmp_path):
    for name, tensors in zip(("encoder.pkl", "decoder.pkl"), make_dvae(), strict=True):
        torch.save(tensors, tmp_path / name)
    folder = str(tmp_path)
    assert tokenizer_files(folder, Reading()) == [f"{folder}/encoder.pkl", f"{folder}/decoder.pkl"]
    (tmp_path / "config.yaml").write_text("{}")
    assert tokenizer_files(f"{folder}/encoder.pkl", Reading())[2:] == [f"{folder}/config.yaml"]
    assert tokenizer_files(folder, Reading(config="c.yaml"))[2:] == ["c.yaml"]
    assert tokenizer_files(f"{folder}/none", Reading()) == [f"{folder}/none"]


def test_a_reading_says_what_load_tokenizer_is_told(tmp_path):
    write_zip(tmp_path / "model.ckpt")
    path = str(tmp_path / "model.ckpt")
    reading = Reading(kind="taming", image_side=64, pixel_range="unit", resize_recipe="adm")
    tokenizer = open_tokenizer(path, reading)
    assert tokenizer.spec[3:6] == (64, (0.0, 1.0), "adm")
    told = load_tokenizer(path, choices=Choices(image_side=64, pixel_range="unit", resize_recipe="adm"))
    assert told.fingerprint == tokenizer.fingerprint
    assert tokenizer.fingerprint != open_tokenizer(path, Reading(image_side=64, pixel_range="unit")).fingerprint


def test_a_config_may_name_every_kind_there_is():
    assert {family.name for family in FAMILIES} == set(get_args(Reading.model_fields["kind"].annotation)) - {""}


def test_a_side_beyond_all_pictures_is_refused():
    with pytest.raises(ValidationError, match="less than or equal to 8192"):
        Choices(image_side=2_000_000_000)


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValidationError, match="'crop' should be one of resize_center"):
        Choices(resize_recipe="crop")


def test_pixels_of_a_batch_come_channels_first(tmp_path):
    write_zip(tmp_path / "model.ckpt")
    fed = load_tokenizer(str(tmp_path / "model.ckpt"))._network.to_input(torch.from_numpy(noise_images()))
    assert fed.shape == (5, 3, 32, 32)
    expected = (noise_images().astype(np.float64) / 127.5 - 1).astype(np.float32)
    assert np.array_equal(fed.numpy(), expected.transpose(0, 3, 1, 2))
