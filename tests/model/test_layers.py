import math

import numpy as np
import pytest
import torch

from model.layers import BlockShape, CrossAttention, FeedForward, HeadNorm, SelfAttention, make_norm, positions_2d

SHAPE = BlockShape(16, 24, 4, "relu")


def test_cross_attention_does_not_see_masked_positions():
    torch.manual_seed(3)
    layer, x, context = CrossAttention(SHAPE), torch.randn(1, 3, 16), torch.randn(1, 5, 16)
    mask = torch.tensor([True, True, True, False, False])[None, None, None]
    changed = context.clone()
    changed[:, 3:] = 100.0
    assert torch.equal(layer(x, context, mask), layer(x, changed, mask))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_cross_attention_takes_a_context_or_its_projection(qk_norm):
    torch.manual_seed(4)
    layer = CrossAttention(BlockShape(16, 24, 4, "relu", qk_norm=qk_norm))
    x, context = torch.randn(1, 3, 16), torch.randn(1, 5, 16)
    assert torch.equal(layer(x, context), layer(x, layer.project(context)))


def test_positions_are_in_raster_order():
    rows, columns = torch.tensor([[10.0], [20.0]]), torch.tensor([[1.0], [2.0]])
    assert positions_2d(rows, columns).flatten().tolist() == [11, 12, 21, 22]


def activation(kind, x):
    if kind == "relu":
        return np.maximum(x, 0)
    if kind in ("gelu", "geglu"):
        return x * (1 + np.vectorize(math.erf)(x / 2**0.5)) / 2
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("kind", ["relu", "gelu", "geglu", "swiglu"])
@pytest.mark.parametrize("biases", [True, False])
def test_a_feed_forward_equals_its_formula_in_float64(kind, biases):
    torch.manual_seed(5)
    layer, x = FeedForward(BlockShape(16, 24, 4, kind, biases)).double(), torch.randn(7, 16, dtype=torch.float64)
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    assert set(weights) == {"0.weight", "2.weight"} | ({"0.bias", "2.bias"} if biases else set())
    first = x.numpy() @ weights["0.weight"].T + weights.get("0.bias", 0)
    hidden = activation(kind, first[:, :24]) * (first[:, 24:] if kind in ("geglu", "swiglu") else 1)
    wanted = hidden @ weights["2.weight"].T + weights.get("2.bias", 0)
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, atol=1e-12)


def test_norms_equal_their_formulas_in_float64():
    x = torch.randn(5, 16, dtype=torch.float64)
    root = np.sqrt((x.numpy() ** 2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(make_norm("rms", 16).double()(x).detach(), x.numpy() / root, atol=1e-12)
    centred = x.numpy() - x.numpy().mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(make_norm("layer", 16).double()(x).detach(), centred / deviation, atol=1e-12)


def test_heads_are_normed_in_the_weights_precision_and_given_back_in_their_own():
    norm, x = HeadNorm(8), torch.randn(2, 3, 5, 8).bfloat16()
    with torch.no_grad():
        norm.weight.mul_(2)
    wanted = x.float() / (x.float().square().mean(-1, keepdim=True) + 1e-6).sqrt() * 2
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x), wanted.bfloat16())


def test_normed_queries_and_keys_leave_scores_the_size_of_the_input_aside():
    torch.manual_seed(6)
    layer, x = SelfAttention(BlockShape(16, 24, 4, "relu", qk_norm=True)), torch.randn(1, 6, 16)
    with torch.no_grad():
        layer.to_qkv.weight[32:] = torch.eye(16)  # values that are the input
        torch.testing.assert_close(layer(100 * x), 100 * layer(x), rtol=1e-4, atol=1e-3)
