import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.one_dnn import Linear, PackedLinear, PackedPointwise, is_fast, pack, product

pytestmark = pytest.mark.skipif(not is_fast(torch.float32), reason="torch was built without oneDNN")
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", CLOSE)
@torch.no_grad()
def test_a_product_is_that_of_a_linear_layer(dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 50, 20).to(dtype), torch.randn(30, 20).to(dtype)
    torch.testing.assert_close(product(x, weight), F.linear(x, weight), rtol=CLOSE[dtype], atol=CLOSE[dtype])


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("activation", [nn.GELU(), nn.Tanh(), nn.ReLU(), nn.GELU(approximate="tanh"), nn.Softplus()])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_packed_sequence_gives_what_it_gave(dtype, activation, bias):
    if not is_fast(dtype):
        pytest.skip(f"oneDNN has no {dtype} on this processor")
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(20, 40, bias=bias), activation, nn.Linear(40, 10)).to(dtype)
    x = torch.randn(2, 33, 20).to(dtype)
    wanted = layers(x)
    pack(layers)
    assert isinstance(layers[0], PackedLinear)
    torch.testing.assert_close(layers(x), wanted, rtol=CLOSE[dtype], atol=CLOSE[dtype])


def test_only_activations_that_one_dnn_has_are_taken_along():
    layers = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2), nn.GELU(approximate="tanh"))
    pack(layers)
    assert [type(layer) for layer in layers] == [PackedLinear, nn.Identity, PackedLinear, nn.GELU]


@torch.no_grad()
def test_convolutions_of_one_pixel_are_packed_and_others_are_not():
    torch.manual_seed(0)
    layers = nn.ModuleDict({"narrow": nn.Conv2d(8, 16, 1), "wide": nn.Conv2d(16, 4, 3, padding=1)})
    images = torch.randn(2, 8, 6, 5)
    wanted = layers["wide"](layers["narrow"](images))
    pack(layers)
    assert [type(layer) for layer in layers.values()] == [PackedPointwise, nn.Conv2d]
    torch.testing.assert_close(layers["wide"](layers["narrow"](images)), wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setattr("model.one_dnn._LEAST_PRODUCTS", 0)
    torch.manual_seed(0)
    return Linear(20, 30)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_a_linear_layer_are_those_in_float64(linear, bias):
    linear.bias = linear.bias if bias else None
    x, grad = torch.randn(3, 50, 20, requires_grad=True), torch.randn(3, 50, 30)
    inputs = [x, *linear.parameters()]
    assert linear(x).grad_fn.name() == "_ProductBackward"
    found = [linear(x), *torch.autograd.grad(linear(x), inputs, grad)]
    doubles = [value.detach().double().requires_grad_() for value in inputs]
    wanted = F.linear(*doubles)
    for mine, its in zip(found, [wanted, *torch.autograd.grad(wanted, doubles, grad.double())], strict=True):
        torch.testing.assert_close(mine.double(), its, rtol=1e-5, atol=1e-5)


def test_gradients_of_gradients_are_refused(linear):
    x = torch.randn(2, 20, requires_grad=True)
    (grad,) = torch.autograd.grad(linear(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_a_linear_layer_is_torchs_where_that_has_reasons(linear, monkeypatch):
    x = torch.randn(2, 20)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x).dtype == torch.bfloat16
    assert linear.to("meta")(x.to("meta")).shape == (2, 30)
    monkeypatch.setattr("model.one_dnn._LEAST_PRODUCTS", 2 * 20 * 30 + 1)
    assert Linear(20, 30)(x).grad_fn.name() == "AddmmBackward0"
