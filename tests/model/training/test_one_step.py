"""One step's losses against networks written anew in numpy, in float64, from the papers: every term to 1e-5."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf, expit, log1p

from model.tokenizers.vit_vqgan import TransformerSize, ViTVQGAN, ViTVQGANShape
from model.training.adversarial import AdversarialSettings, adversarial_term, discriminator_losses
from model.training.discriminator import Discriminator, DiscriminatorSize
from model.training.perceptual import load_perceptual
from model.training.reconstruction_losses import LossWeights, reconstruction_losses

SIDE, PATCH, BATCH = 16, 4, 4
GRID = SIDE // PATCH
ENCODER, DECODER = TransformerSize(2, 2, 16, 24), TransformerSize(1, 3, 24, 40)
VGG = {  # channels of VGG16's convolutions, by their place in torchvision's list
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
    17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512),
}  # fmt: skip
LOOKED_AT = {2: 64, 7: 128, 14: 256, 21: 512, 28: 512}
DISCRIMINATOR = DiscriminatorSize(channel_base=96, channel_max=10)


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


# the network


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def layer_norm(x, w, name):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def turned(x, place):
    """x (B, I, D/H): pairs of numbers as complex ones, turned by row (first half) and column."""
    quarter = x.shape[-1] // 4
    frequencies = 100.0 ** -(np.arange(quarter) / quarter)
    parts = [x[..., n * quarter : (n + 1) * quarter] for n in range(4)]
    by_row = (parts[0] + 1j * parts[1]) * np.exp(1j * np.outer(place // GRID, frequencies))
    by_column = (parts[2] + 1j * parts[3]) * np.exp(1j * np.outer(place % GRID, frequencies))
    return np.concatenate([by_row.real, by_row.imag, by_column.real, by_column.imag], -1)


def attention(x, w, name, num_heads, is_rotary):
    width = x.shape[-1]
    queries, keys, values = np.split(x @ w[f"{name}.to_qkv.weight"].T, 3, axis=-1)
    heads = []
    for part in np.split(np.arange(width), num_heads):
        q, k = queries[..., part], keys[..., part]
        if is_rotary:
            place = np.arange(GRID**2)
            q, k = turned(q, place), turned(k, place)
        scores = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(len(part)))
        heads.append(scores / scores.sum(-1, keepdims=True) @ values[..., part])
    return np.concatenate(heads, -1) @ w[f"{name}.to_out.weight"].T


def sincos(width):
    table = np.empty((GRID**2, width))
    for position in range(GRID**2):
        for n in range(width // 4):
            frequency = 10_000.0 ** (-n / (width / 4))
            row, column = position // GRID * frequency, position % GRID * frequency
            quarters = (math.sin(column), math.cos(column), math.sin(row), math.cos(row))
            table[position, [n + quarter * width // 4 for quarter in range(4)]] = quarters
    return table


def transformer(x, w, name, size, positions):
    if positions == "learned":
        x = x + w[f"{name}_positions.table"]
    if positions == "sincos":
        x = x + sincos(size.width)
    for layer in range(size.num_layers):
        block = f"{name}.{layer}"
        normed = layer_norm(x, w, f"{block}.self_norm")
        x = x + attention(normed, w, f"{block}.self_attention", size.num_heads, positions == "rotary")
        hidden = linear(layer_norm(x, w, f"{block}.feed_forward_norm"), w, f"{block}.feed_forward.0")
        x = x + linear(hidden * 0.5 * (1 + erf(hidden / math.sqrt(2))), w, f"{block}.feed_forward.2")
    head = f"{name}_head"
    return linear(np.tanh(linear(layer_norm(x, w, f"{head}.0"), w, f"{head}.1")), w, f"{head}.3")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def tokenizer_reference(model, images):
    """Everything from images to the output of the decoder, patch by patch."""
    w = {name: array(tensor) for name, tensor in model.state_dict().items()}
    cut = [
        images[:, PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)].reshape(len(images), -1)
        for row in range(GRID) for column in range(GRID)
    ]  # fmt: skip
    positions = model.shape.positions
    x = linear(2 * np.stack(cut, 1) - 1, w, "patch_embedding")
    z = unit(linear(transformer(x, w, "encoder", ENCODER, positions), w, "to_code"))
    e = unit(w["codebook.embedding"])
    tokens = ((z[:, :, None] - e) ** 2).sum(-1).argmin(-1)
    patches = transformer(linear(e[tokens], w, "from_code"), w, "decoder", DECODER, positions)
    pictures = np.empty((len(images), SIDE, SIDE, patches.shape[-1] // PATCH**2))
    half = PATCH**2 * 3
    for position in range(GRID**2):
        row, column = PATCH * (position // GRID), PATCH * (position % GRID)
        square = [
            patches[:, position, n : n + half].reshape(-1, PATCH, PATCH, 3) for n in range(0, patches.shape[-1], half)
        ]
        pictures[:, row : row + PATCH, column : column + PATCH] = np.concatenate(square, -1)
    vq = ((e[tokens] - z) ** 2).mean()
    return tokens, vq + 0.25 * vq, pictures


# VGG16 and the discriminator


def convolve(x, kernel, bias=0.0, stride=1, padding=0):
    """x (N, C, H, W), kernel (outer, inner, h, w)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.tensordot(windows, kernel, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2) + np.reshape(
        bias, (-1, 1, 1)
    )


def perceptual_reference(images, others, vgg, linear_weights):
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((np.concatenate([images, others]) - mean) / std).transpose(0, 3, 1, 2)
    distance, index = 0.0, 0
    for place in VGG:
        if place in (5, 10, 17, 24):
            x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).max((3, 5))
        x = np.maximum(convolve(x, vgg[f"features.{place}.weight"], vgg[f"features.{place}.bias"], padding=1), 0)
        if place in LOOKED_AT:
            features = x / np.sqrt((x**2).sum(1, keepdims=True))
            squares = (features[: len(images)] - features[len(images) :]) ** 2
            weights = np.full(x.shape[1], 0.2) if linear_weights is None else linear_weights[index]
            distance += (squares * weights[:, None, None]).sum(1).mean()
            index += 1
    return distance


def leaky(x):
    return np.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def discriminator_reference(w, images):
    """Scores (N, B) of N batches of images (N, B, S, S, 3)."""
    count, batch = images.shape[:2]

    def scaled(name, x, stride=1, padding=0):
        kernel = w[f"{name}.weight"] / math.sqrt(np.prod(w[f"{name}.weight"].shape[1:]))
        return convolve(x, kernel, w.get(f"{name}.bias", 0.0), stride, padding)

    def blurred(x, padding):
        line = np.array([1, 3, 3, 1]) / 8
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        for axis in (2, 3):
            x = np.lib.stride_tricks.sliding_window_view(x, 4, axis=axis) @ line
        return x

    x = leaky(scaled("from_rgb", (2 * images.reshape(-1, SIDE, SIDE, 3) - 1).transpose(0, 3, 1, 2)))
    for block in range(int(math.log2(SIDE)) - 2):
        name = f"blocks.{block}"
        y = leaky(scaled(f"{name}.first", x, padding=1))
        y = leaky(scaled(f"{name}.second", blurred(y, 2), stride=2))
        x = (y + scaled(f"{name}.skip", blurred(x, 1)[:, :, ::2, ::2])) / math.sqrt(2)
    group = {2: 2, 6: 3, 8: 4}[batch]
    groups = x.reshape(count, group, batch // group, *x.shape[1:])
    deviation = np.sqrt(groups.var(1) + 1e-8).mean((2, 3, 4))  # (N, B / group)
    feature = np.broadcast_to(deviation[:, None], (count, group, batch // group)).reshape(-1, 1, 1, 1)
    x = np.concatenate([x, np.broadcast_to(feature, (len(x), 1, 4, 4))], 1)
    x = leaky(scaled("last_convolution", x, padding=1)).reshape(count * batch, -1)
    for name in ("hidden", "score"):
        weight = w[f"{name}.weight"]
        x = x @ weight.T / math.sqrt(weight.shape[1]) + w[f"{name}.bias"]
        x = leaky(x) if name == "hidden" else x
    return x.reshape(count, batch)


def r1_reference(w, images, gamma):
    """By differences, in each number of each image in [-1, 1]."""
    step, total = 1e-6, 0.0
    for numbers in np.array_split(np.arange(images.size), 24):
        moved = np.zeros((len(numbers), images.size))
        moved[np.arange(len(numbers)), numbers] = step / 2  # in [0, 1] half of a step in [-1, 1]
        moved = moved.reshape(-1, *images.shape)
        change = discriminator_reference(w, images + moved).sum(1) - discriminator_reference(w, images - moved).sum(1)
        total += ((change / (2 * step)) ** 2).sum()
    return gamma / 2 * total / len(images)


# the tests


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """A file as torchvision's, one as LPIPS', and what is in them."""
    generator = torch.Generator().manual_seed(5)
    state = {"classifier.0.bias": torch.zeros(3)}
    for place, (inner, outer) in VGG.items():
        state[f"features.{place}.weight"] = torch.randn(outer, inner, 3, 3, generator=generator) / math.sqrt(
            4.5 * inner
        )
        state[f"features.{place}.bias"] = 0.1 * torch.randn(outer, generator=generator)
    linear_state = {
        f"lin{index}.model.1.weight": torch.rand(1, channels, 1, 1, generator=generator)
        for index, channels in enumerate(LOOKED_AT.values())
    }
    folder = tmp_path_factory.mktemp("vgg")
    torch.save(state, folder / "vgg16.pth")
    torch.save(linear_state, folder / "lpips.pth")
    reference = {name: array(tensor) for name, tensor in state.items()}
    return folder, reference, [array(tensor).flatten() for tensor in linear_state.values()]


def make_tokenizer(positions, output) -> tuple[ViTVQGAN, torch.Tensor]:
    torch.manual_seed(6)
    shape = ViTVQGANShape(SIDE, PATCH, ENCODER, DECODER, 32, 6, positions, output)
    model, images = ViTVQGAN(shape), torch.rand(BATCH, SIDE, SIDE, 3)
    with torch.no_grad():  # nothing keeps a value that hides a mistake
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model, images


@pytest.mark.parametrize(
    ("positions", "output"), [("learned", "logit_laplace"), ("sincos", "rgb"), ("rotary", "logit_laplace")]
)
def test_every_term_of_the_tokenizers_loss_equals_the_reference(positions, output, vgg):
    folder, vgg_weights, linear_weights = vgg
    model, images = make_tokenizer(positions, output)
    lpips = str(folder / "lpips.pth") if positions == "rotary" else ""
    weights = LossWeights(vq=0.7, l2=1.3, logit_laplace=0.2, perceptual=0.6, lowest_log_scale=-0.1)
    found = model(images)
    terms = reconstruction_losses(images, found, weights, load_perceptual(str(folder / "vgg16.pth"), lpips))
    tokens, vq, pictures = tokenizer_reference(model, array(images))
    assert found.tokens.tolist() == tokens.tolist()
    x, wanted = array(images), {"vq": vq}
    total = 0.7 * vq
    if output == "logit_laplace":
        mean, log_scale = pictures[..., :3], np.maximum(pictures[..., 3:], -0.1)
        y, scale = 0.8 * x + 0.1, np.exp(log_scale)
        density = np.exp(-np.abs(np.log(y / (1 - y)) - mean) / scale) / (2 * scale * y * (1 - y))
        wanted["logit_laplace"] = -np.log(density).mean()
        total += 0.2 * wanted["logit_laplace"]
        pictures = (expit(mean) - 0.1) / 0.8
    wanted["l2"] = ((pictures - x) ** 2).mean()
    wanted["perceptual"] = perceptual_reference(pictures, x, vgg_weights, linear_weights if lpips else None)
    wanted["total"] = total + 1.3 * wanted["l2"] + 0.6 * wanted["perceptual"]
    assert terms.keys() == wanted.keys()
    for name, value in wanted.items():
        assert terms[name].item() == pytest.approx(value, abs=1e-5), name
    np.testing.assert_allclose(array(found.images), pictures, atol=1e-5)


@pytest.fixture(scope="module")
def discriminator() -> Discriminator:
    torch.manual_seed(7)
    discriminator = Discriminator(SIDE, DISCRIMINATOR)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return discriminator


@pytest.mark.parametrize("batch", [2, 6, 8])
def test_the_discriminators_scores_equal_the_reference(discriminator, batch):
    images = torch.rand(batch, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(8))
    w = {name: array(tensor) for name, tensor in discriminator.state_dict().items()}
    wanted = discriminator_reference(w, array(images)[None])[0]
    np.testing.assert_allclose(array(discriminator(images)), wanted, atol=1e-5)


@pytest.mark.parametrize("gan_loss", ["logistic", "hinge"])
def test_every_adversarial_term_equals_the_reference(discriminator, gan_loss):
    generator = torch.Generator().manual_seed(9)
    images, fakes = (torch.rand(2, SIDE, SIDE, 3, generator=generator) for _ in range(2))
    fakes = 1.5 * fakes - 0.2
    settings = AdversarialSettings(gan_loss=gan_loss, r1_gamma=3.0, r1_every=4, size=DISCRIMINATOR)
    terms = discriminator_losses(discriminator, images, fakes, settings, step=8)
    terms["generator"] = adversarial_term(discriminator, fakes, settings)
    w = {name: array(tensor) for name, tensor in discriminator.state_dict().items()}
    real, fake = discriminator_reference(w, np.stack([array(images), array(fakes)]))
    wanted = {"real_score": real.mean(), "fake_score": fake.mean(), "r1": r1_reference(w, array(images), 3.0)}
    if gan_loss == "logistic":
        wanted["generator"] = log1p(np.exp(-fake)).mean()
        wanted["discriminator"] = log1p(np.exp(-real)).mean() + log1p(np.exp(fake)).mean()
    else:
        wanted["generator"] = -fake.mean()
        wanted["discriminator"] = (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()) / 2
    wanted["total"] = wanted["discriminator"] + 4 * wanted["r1"]
    assert terms.keys() == wanted.keys()
    for name, value in wanted.items():
        assert terms[name].item() == pytest.approx(value, abs=1e-5), name
    assert wanted["r1"] > 0.01
