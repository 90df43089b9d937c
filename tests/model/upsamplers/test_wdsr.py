"""The upsampler's network: its size, its shuffle, its first output, and one pass against numpy in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.shapes import make_shape
from model.upsamplers import WDSR, WDSRShape
from model.upsamplers.wdsr import Doubling
from parti_data.errors import ConfigError


def count(shape: WDSRShape) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in WDSR(shape).parameters())


@pytest.mark.parametrize(("scale", "millions"), [(2, 15), (4, 30)])
@pytest.mark.parametrize("blocks_at", ["each_side", "first_side"])
def test_the_paper_sizes_have_as_many_weights_as_derived_from_it(scale, millions, blocks_at):
    plain = WDSRShape(scale=scale, blocks_at=blocks_at, normalisation="none")
    doublings, width, hidden = plain.num_doublings, 128, 4 * 128
    blocks = doublings * 12 * (9 * width * hidden + hidden + 9 * hidden * width + width)
    doubling = doublings * (9 * width * 4 * width + 4 * width)
    ends = 9 * 3 * width + width + 9 * width * 3 + 3
    assert count(plain) == blocks + doubling + ends
    lengths = doublings * (12 * (hidden + width) + 4 * width) + width + 3  # one for each channel that comes out
    assert count(WDSRShape(scale=scale, blocks_at=blocks_at)) == blocks + doubling + ends + lengths
    assert round(count(plain) / 1e6) == round(count(WDSRShape(scale=scale)) / 1e6) == millions


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize(("blocks_at", "skip"), [("each_side", "bicubic"), ("first_side", "convolution")])
def test_pictures_of_any_side_come_out_as_much_larger(scale, blocks_at, skip):
    network = WDSR(WDSRShape(scale, num_blocks=1, width=4, expansion=2, blocks_at=blocks_at, skip=skip))
    for side in (3, 8):
        made = network(torch.rand(2, side, side, 3))
        assert made.shape == (2, scale * side, scale * side, 3)
        assert made.dtype == torch.float32


@pytest.mark.parametrize("normalisation", ["weight", "none"])
def test_the_first_output_is_bicubic_and_then_every_weight_learns(normalisation):
    network, images = WDSR(WDSRShape(4, 2, 8, 2, normalisation=normalisation)), torch.rand(2, 6, 6, 3)
    wanted = F.interpolate(images.movedim(-1, 1).double(), scale_factor=4, mode="bicubic").movedim(1, -1)
    assert torch.allclose(network(images).double(), wanted, atol=1e-6)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        (network(images) - 1).square().mean().backward()
        optimizer.step()
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.any()] == []


def test_a_channel_becomes_the_pixel_that_its_number_tells():
    doubling = Doubling(WDSRShape(width=3))
    x = torch.randn(2, 3, 4, 5)
    flat, made = doubling.convolution(x), doubling(x)
    for batch, channel, row, column in np.ndindex(2, 3, 8, 10):
        source = 4 * channel + 2 * (row % 2) + column % 2
        assert made[batch, channel, row, column] == flat[batch, source, row // 2, column // 2]


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x (B, H, W, C), padded with zeros; weight (outer, inner, K, K)."""
    size, (height, width) = weight.shape[-1], x.shape[1:3]
    padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    made = np.zeros((*x.shape[:3], len(weight))) + bias
    for row, column in np.ndindex(size, size):
        made += padded[:, row : row + height, column : column + width] @ weight[:, :, row, column].T
    return made


def shuffle(x: np.ndarray, scale: int) -> np.ndarray:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // scale**2, scale, scale).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, height * scale, width * scale, -1)


def reference(network: WDSR, images: np.ndarray) -> np.ndarray:
    """The whole network with a learned skip, in float64."""
    state = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}

    def layer(x: np.ndarray, name: str) -> np.ndarray:
        length, direction = (state[f"{name}.parametrizations.weight.original{n}"] for n in (0, 1))
        norm = np.sqrt((direction**2).sum((1, 2, 3), keepdims=True))
        return convolve(x, length * direction / norm, state[f"{name}.bias"])

    pixels = images - 0.5
    x = layer(pixels, "from_rgb")
    for stage, num_blocks in enumerate(network.shape.blocks_before):
        for block in range(num_blocks):
            inner = np.maximum(layer(x, f"stages.{stage}.{block}.widen"), 0)
            x = x + layer(inner, f"stages.{stage}.{block}.narrow")
        x = shuffle(layer(x, f"stages.{stage}.{num_blocks}.convolution"), 2)
    return layer(x, "to_rgb") + shuffle(layer(pixels, "skip"), network.shape.scale) + 0.5


@pytest.mark.parametrize("blocks_at", ["each_side", "first_side"])
def test_a_pass_equals_one_in_float64(blocks_at):
    torch.manual_seed(0)
    network = WDSR(WDSRShape(4, 2, 6, 3, blocks_at=blocks_at, skip="convolution"))
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # nothing silent
    images = torch.rand(2, 5, 5, 3)
    wanted = reference(network, images.double().numpy())
    assert np.abs(network(images).detach().double().numpy() - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"scale": 3}, r"architecture\.scale: expected one of \(2, 4, 8\), found 3; change it"),
        ({"num_blocks": 0}, r"architecture\.num_blocks: expected at least 1, found 0; raise it"),
        ({"skip": "nearest"}, r"architecture\.skip: expected one of bicubic, convolution, found 'nearest'"),
    ],
)
def test_architectures_that_cannot_be_are_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        make_shape(WDSRShape, table)
