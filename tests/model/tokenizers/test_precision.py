import numpy as np
import pytest
import torch

from model.tokenizers import Execution, ImageTokenizer, measure_precision
from model.tokenizers.vit_vqgan import TransformerSize, ViTVQGAN, ViTVQGANShape

BFLOAT16 = Execution(precision="bfloat16")
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
    return np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)


def test_the_record_does_not_differ_from_itself(network, images):
    measure = measure_precision(ImageTokenizer(network), images)
    assert (measure.differing_tokens, measure.differing_rows) == (0, 0)
    assert len(measure.record.unique()) > 10


def test_bf16_changes_a_few_tokens_and_leaves_the_network_as_it_was(network, images):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure = measure_precision(ImageTokenizer(network, BFLOAT16), images)
    assert 0 < measure.differing_tokens < 0.1
    assert measure.differing_tokens < measure.differing_rows < 1
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.dtype == torch.float32


def test_shares_are_counted_by_token_and_by_image(network, images):
    measure = measure_precision(ImageTokenizer(network), images[:4])
    tokens = measure.record.clone()
    tokens[1, :2] += 1
    changed = measure._replace(tokens=tokens)
    assert (changed.differing_tokens, changed.differing_rows) == (2 / 64, 1 / 4)


def test_no_images_differ_in_nothing(network, images):
    measure = measure_precision(ImageTokenizer(network, BFLOAT16), images[:0])
    assert (measure.differing_tokens, measure.differing_rows) == (0, 0)
