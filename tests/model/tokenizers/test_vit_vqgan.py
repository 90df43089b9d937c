import math

import numpy as np
import pytest
import torch

from model.tokenizers.vit_vqgan import (
    Codebook,
    LossWeights,
    ViTVQGAN,
    ViTVQGANShape,
    from_patches,
    logit_laplace_loss,
    squeeze_pixels,
    to_patches,
    unsqueeze_pixels,
)

TINY = ViTVQGANShape(
    image_side=32, patch_side=8, width=32, hidden=64, num_encoder_layers=1, num_decoder_layers=2, num_heads=2,
    codebook_size=64, code_width=8,
)  # fmt: skip


def test_patches_are_cut_in_raster_order():
    image = torch.arange(32 * 32 * 3).reshape(1, 32, 32, 3)
    patches = to_patches(image, 8)
    assert patches.shape == (1, 16, 8 * 8 * 3)
    assert torch.equal(patches[0, 6].reshape(8, 8, 3), image[0, 8:16, 16:24])


def test_from_patches_undoes_to_patches():
    images = torch.rand(2, 32, 32, 3)
    assert torch.equal(from_patches(to_patches(images, 8), 8), images)


def test_the_codes_gradient_is_the_same_in_every_run_on_two_threads():
    torch.manual_seed(0)
    codebook, tokens, slope = Codebook(256, 16), torch.randint(256, (64, 64)), torch.randn(64, 64, 16)
    threads, gradients = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        for _ in range(6):
            (gradient,) = torch.autograd.grad((codebook.lookup(tokens) * slope).sum(), codebook.embedding)
            gradients.append(gradient)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_the_codebook_picks_the_nearest_code_by_cosine():
    torch.manual_seed(0)
    codebook, latents = Codebook(64, 8), torch.randn(2, 5, 8)
    codes = codebook.embedding.detach().double().numpy()
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    wanted = (latents.double().numpy() @ codes.T).argmax(-1)
    assert codebook.nearest(latents).numpy().tolist() == wanted.tolist()


def test_equal_codes_go_to_the_lowest_index():
    codebook = Codebook(8, 4)
    with torch.no_grad():
        codebook.embedding.copy_(torch.ones(8, 4))
    assert codebook.nearest(torch.ones(1, 3, 4)).tolist() == [[0, 0, 0]]


def test_the_quantizer_stays_in_float32_under_autocast():
    torch.manual_seed(1)
    codebook, latents = Codebook(512, 8), torch.randn(4, 64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codebook.nearest(latents), codebook.nearest(latents.float()))
        found = codebook.nearest(latents)
    assert torch.equal(found, codebook.nearest(latents))


def test_gradients_pass_straight_through_the_codebook():
    torch.manual_seed(2)
    codebook, latents = Codebook(16, 4), torch.randn(1, 3, 4, requires_grad=True)
    weights = torch.randn(1, 3, 4)
    (codebook(latents).codes * weights).sum().backward()
    reference = latents.detach().clone().requires_grad_()
    (torch.nn.functional.normalize(reference, dim=-1) * weights).sum().backward()
    torch.testing.assert_close(latents.grad, reference.grad)


def test_losses_equal_a_float64_reference():
    torch.manual_seed(3)
    model, images = ViTVQGAN(TINY), torch.rand(2, 32, 32, 3)
    weights = LossWeights(vq=0.7, l2=1.3, logit_laplace=0.2)
    terms = model.losses(images, weights).terms
    z = model.latents(images).detach().double().numpy()
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    e = model.codebook.embedding.detach().double().numpy()
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    codes = e[(z @ e.T).argmax(-1)]
    vq = ((codes - z) ** 2).mean() * 1.25
    mean, log_scale = (part.detach().double().numpy() for part in model.logit_laplace(torch.from_numpy(codes).float()))
    x = images.double().numpy()
    l2 = (((1 / (1 + np.exp(-mean))) - 0.1) / 0.8 - x) ** 2
    y = 0.8 * x + 0.1
    density = np.exp(-np.abs(np.log(y / (1 - y)) - mean) / np.exp(log_scale)) / (2 * np.exp(log_scale) * y * (1 - y))
    assert terms["vq"].item() == pytest.approx(vq, abs=1e-5)
    assert terms["l2"].item() == pytest.approx(l2.mean(), abs=1e-5)
    assert terms["logit_laplace"].item() == pytest.approx(-np.log(density).mean(), abs=1e-5)
    total = 0.7 * vq + 1.3 * l2.mean() - 0.2 * np.log(density).mean()
    assert terms["total"].item() == pytest.approx(total, abs=1e-5)


def test_the_logit_laplace_density_integrates_to_one():
    x = torch.linspace(0.0005, 0.9995, 200_001, dtype=torch.float64)
    mean, log_scale = torch.full_like(x, 0.3), torch.full_like(x, math.log(0.5))
    images = (x - 0.1) / 0.8
    per_pixel = torch.stack([logit_laplace_loss(i, mean[0], log_scale[0]) for i in images[::2000]])
    density = torch.exp(-(torch.abs(torch.logit(x) - mean) / 0.5)) / (2 * 0.5 * x * (1 - x))
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=2e-3)
    torch.testing.assert_close(torch.exp(-per_pixel), density[::2000], atol=1e-9, rtol=1e-9)


def test_unsqueeze_undoes_squeeze():
    pixels = torch.rand(100, dtype=torch.float64)
    torch.testing.assert_close(unsqueeze_pixels(squeeze_pixels(pixels)), pixels)


def test_encode_and_decode_have_the_stated_shapes():
    torch.manual_seed(4)
    model = ViTVQGAN(TINY)
    tokens = model.encode(torch.rand(3, 32, 32, 3))
    assert tokens.shape == (3, 16)
    assert tokens.dtype == torch.int64
    pixels = model.decode(tokens).detach()
    assert pixels.shape == (3, 32, 32, 3)
    assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1


def test_codes_start_at_latents_that_lie_far_apart():
    codebook, generator = Codebook(4, 2), torch.Generator().manual_seed(0)
    corners = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    codebook.initialise(corners.repeat(50, 1) * 3, generator)
    assert {tuple(code) for code in codebook.embedding.detach().round().int().tolist()} == {
        (1, 0),
        (0, 1),
        (-1, 0),
        (0, -1),
    }


def test_restarted_codes_move_to_latents_that_are_badly_served():
    codebook = Codebook(3, 2)
    with torch.no_grad():
        codebook.embedding.copy_(torch.tensor([[1.0, 0], [1, 0], [1, 0]]))
    latents = torch.tensor([[1.0, 0]] * 50 + [[-1.0, 0]])
    codebook.restart(torch.tensor([2]), latents, torch.Generator().manual_seed(0))
    assert codebook.embedding[2].tolist() == [-1, 0]
    assert codebook.embedding[:2].tolist() == [[1, 0], [1, 0]]
