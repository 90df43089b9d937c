"""Architectures of the published models, built without memory, have as many weights as their projects say."""

import pytest
import torch

from model.tokenizers.families.convolutional import ConvolutionalShape
from model.tokenizers.families.enhancing import EnhancingShape, EnhancingViTVQ, TransformerShape
from model.tokenizers.families.vqgan import Autoencoder


def millions(network: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@pytest.mark.parametrize(
    ("mult", "attention", "z", "code_width", "codes", "expected"),
    [
        ((1, 1, 2, 2, 4), (4,), 256, 8, 16_384, 71.9),  # LlamaGen VQ-16: 72 million
        ((1, 2, 2, 4), (3,), 256, 8, 16_384, 70.0),  # LlamaGen VQ-8: 70 million
        ((1, 2, 4), (), 3, 3, 8192, 55.3),  # latent diffusion's vq-f4: 55.32 million
    ],
)
def test_convolutional_models(mult, attention, z, code_width, codes, expected):
    shape = ConvolutionalShape(128, tuple(128 * m for m in mult), 2, attention, z, code_width, codes)
    with torch.device("meta"):
        assert millions(Autoencoder(shape, "cosine")) == pytest.approx(expected, abs=0.5)


def test_the_16384_codes_of_taming_are_343_tensors():
    shape = ConvolutionalShape(128, (128, 128, 256, 256, 512), 2, (4,), 256, 256, 16_384)
    with torch.device("meta"):
        assert len(Autoencoder(shape, "euclid").state_dict()) == 343


def test_the_keys_of_enhancings_base_model():
    half = TransformerShape(768, 3072, 12, 12)
    with torch.device("meta"):
        tensors = EnhancingViTVQ(EnhancingShape(256, 8, half, half, 8192, 32)).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes["encoder.to_patch_embedding.0.weight"] == (768, 3, 8, 8)
    assert shapes["encoder.en_pos_embedding"] == (1, 1024, 768)
    assert shapes["encoder.transformer.layers.11.0.fn.to_qkv.weight"] == (2304, 768)
    assert shapes["encoder.transformer.layers.11.1.fn.net.2.weight"] == (768, 3072)
    assert shapes["decoder.to_pixel.1.weight"] == (768, 3, 8, 8)
    assert shapes["quantizer.embedding.weight"] == (8192, 32)
