import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_checkpoints import dvae_half, make_dvae, noise_images, noise_pixels

from model.tokenizers import Choices, load_tokenizer
from parti_data.errors import TokenizerError

SIDE = Choices(image_side=32)


@pytest.fixture
def folder(tmp_path):
    for name, tensors in zip(("encoder.pkl", "decoder.pkl"), make_dvae(), strict=True):
        torch.save(tensors, tmp_path / name)
    return tmp_path


def test_tokens_and_pixels_are_those_of_the_reference(folder):
    encoder, decoder = make_dvae()
    tokenizer = load_tokenizer(str(folder), choices=SIDE)
    tokens = tokenizer.encode(noise_images())
    logits = dvae_half(encoder, 0.8 * noise_pixels() + 0.1, lambda x: F.max_pool2d(x, 2))
    assert torch.equal(tokens, logits.argmax(1).flatten(1))
    assert len(tokens.unique()) > 5
    codes = F.one_hot(tokens, 24).transpose(1, 2).unflatten(2, (8, 8))
    statistics = dvae_half(decoder, codes, lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    images = ((statistics[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1).permute(0, 2, 3, 1)
    assert np.abs(tokenizer.decode(tokens).numpy() - 255 * images.numpy()).max() < 0.51
    assert tokenizer.spec[:6] == ("openai_dvae", 24, 8, 32, (0.1, 0.9), "dalle")


def test_the_decoder_is_found_beside_the_encoder_and_has_no_say_in_the_fingerprint(folder):
    both = load_tokenizer(str(folder / "encoder.pkl"), choices=SIDE)
    tokens = both.encode(noise_images())
    both.decode(tokens)
    (folder / "decoder.pkl").unlink()
    alone = load_tokenizer(str(folder / "encoder.pkl"), choices=SIDE)
    assert torch.equal(alone.encode(noise_images()), tokens)
    assert alone.fingerprint == both.fingerprint
    assert (both.has_decoder, alone.has_decoder) == (True, False)
    with pytest.raises(
        TokenizerError, match="^decoder.pkl: expected beside encoder.pkl to decode, found none; put it there"
    ):
        alone.decode(tokens)


def test_a_decoder_alone_or_of_another_release_is_refused(folder):
    with pytest.raises(
        TokenizerError, match="expected encoder.pkl, found the decoder; it is read from beside the encoder"
    ):
        load_tokenizer(str(folder / "decoder.pkl"))
    torch.save(make_dvae(codes=25)[1], folder / "decoder.pkl")
    with pytest.raises(
        TokenizerError, match="expected a decoder of 24 codes, found 25; take both files of one release"
    ):
        load_tokenizer(str(folder))


def test_what_its_files_do_not_leave_open_is_refused(folder, tmp_path):
    with pytest.raises(TokenizerError, match="expected no pixel_range, found unit; its kind leaves no choice"):
        load_tokenizer(str(folder), choices=Choices(pixel_range="unit"))
    config = tmp_path / "other.yaml"
    config.write_text("image_size: 256")
    with pytest.raises(
        TokenizerError, match="expected a config of openai_dvae, found image_size; give the one published"
    ):
        load_tokenizer(str(folder), str(config))


def test_a_tensor_that_is_missing_is_named(folder):
    encoder = make_dvae()[0]
    del encoder["blocks.group_2.block_2.res_path.conv_3.b"]
    torch.save(encoder, folder / "encoder.pkl")
    missing = r"expected a tensor encoder.blocks.group_2.block_2.res_path.conv_3.b of shape \(4,\), found none"
    with pytest.raises(TokenizerError, match=missing):
        load_tokenizer(str(folder))
