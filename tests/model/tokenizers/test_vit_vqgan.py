import torch

from model.tokenizers.vit_vqgan import TransformerSize, ViTVQGAN, ViTVQGANShape

TINY = ViTVQGANShape(
    image_side=32, patch_side=8, codebook_size=64, code_width=8, positions="rotary",
    encoder=TransformerSize(num_layers=1, num_heads=2, width=32, hidden=64),
    decoder=TransformerSize(num_layers=2, num_heads=2, width=32, hidden=64),
)  # fmt: skip


def test_encode_and_decode_have_the_stated_shapes():
    torch.manual_seed(4)
    model = ViTVQGAN(TINY)
    tokens = model.encode(torch.rand(3, 32, 32, 3))
    assert tokens.shape == (3, 16)
    assert tokens.dtype == torch.int64
    pixels = model.decode(tokens).detach()
    assert pixels.shape == (3, 32, 32, 3)
    assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1
