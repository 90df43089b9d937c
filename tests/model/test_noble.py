"""NOBLE's branch against its formula, in float64 and without torch's layers, and against what is published of it."""

import numpy as np
import pytest
import torch
from torch import nn

from model.layers import Block, BlockShape, initialise, make_linear
from model.noble import NobleBranch, NobleLinear, NobleShape
from model.one_dnn import Linear
from model.sampling.decoding import DecodingExecution, prepare

CODE, PAPER = NobleShape.PRESETS["code"], NobleShape.PRESETS["paper"]
PRESETS = pytest.mark.parametrize("shape", [CODE, PAPER], ids=["code", "paper"])


def plain_branch(x: np.ndarray, weights: dict[str, np.ndarray], part: int) -> np.ndarray:
    """cos(w2 * (M cos(w1 * h + p1)) + p2) W_up of rows x, a number after the other, for one of the layer's parts."""
    m, up = weights[f"mixing.{part}.weight"], weights[f"up.{part}.weight"]
    rank, rows = len(m), []
    mine = range(part * rank, (part + 1) * rank)
    down_bias = weights.get("down.bias", np.zeros((part + 1) * rank))
    w1, p1, w2, p2 = (weights[f"{at}.{what}"] for at in ("first", "second") for what in ("frequency", "phase"))
    for row in x:
        h = [weights["down.weight"][k] @ row + down_bias[k] for k in mine]
        inner = np.array([np.cos(w1[k] * value + p1[k]) for k, value in zip(mine, h, strict=True)])
        mixed = m @ inner + weights.get(f"mixing.{part}.bias", 0.0)
        rows.append(up @ np.array([np.cos(w2[k] * value + p2[k]) for k, value in zip(mine, mixed, strict=True)]))
    return np.array(rows)


def loosened(layer: nn.Module) -> nn.Module:
    """The layer with weights of which none is near 0, so that each counts."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


@PRESETS
@pytest.mark.parametrize("num_parts", [1, 3])
def test_a_layer_equals_its_formula_in_float64(shape, num_parts):
    torch.manual_seed(0)
    layer = loosened(NobleLinear(10, 12, True, shape, num_parts).double())
    x = torch.randn(5, 10, dtype=torch.float64)
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    plain = x.numpy() @ weights["main.weight"].T + weights["main.bias"]
    of_branch = {name.removeprefix("branch."): value for name, value in weights.items()}
    added = [plain_branch(x.numpy(), of_branch, part) for part in range(num_parts)]
    np.testing.assert_allclose(layer(x).detach().numpy(), plain + np.concatenate(added, 1), atol=1e-12)
    with torch.no_grad():
        np.testing.assert_allclose(layer(x).numpy(), plain + np.concatenate(added, 1), atol=1e-12)
    assert np.abs(added).mean() > 0.1


@PRESETS
def test_gradients_are_those_of_small_differences_in_float64(shape):
    torch.manual_seed(1)
    small = NobleShape(**{**vars(shape), "rank": 3})
    layer = loosened(NobleLinear(4, 6, True, small, 2).double())
    names = [name for name, _ in layer.named_parameters()]
    assert len(names) == (2 + 12 if shape is CODE else 2 + 9)

    def output(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (x, *layer.parameters()))


def published_overhead(width: int, rank: int) -> float:
    """Of queries, keys, values, outputs and a feed-forward of four times the width, counted by hand."""

    def branch(inputs, outputs):
        return inputs * rank + rank + 4 * rank + rank * rank + rank + rank * outputs

    added = 4 * branch(width, width) + branch(width, 4 * width) + branch(4 * width, width)
    return added / (12 * width**2)


@pytest.mark.parametrize(
    ("width", "rank", "percent"),
    [
        (512, 32, 9.6), (512, 64, 19.6), (768, 32, 6.4), (768, 64, 12.9), (1024, 32, 4.7), (1024, 64, 9.6),
        (2048, 64, 4.7), (2048, 128, 9.6), (4096, 128, 4.7),
    ],
)  # fmt: skip
def test_a_block_has_the_parameters_of_a_branch_for_every_projection(width, rank, percent):
    shape = BlockShape(width, 4 * width, 4, "relu", biases=False, noble=NobleShape(rank=rank))
    with torch.device("meta"):
        block = Block(shape)
    branches = [module for module in block.modules() if isinstance(module, NobleBranch)]
    added = sum(parameter.numel() for branch in branches for parameter in branch.parameters())
    assert sum(len(branch.up) for branch in branches) == 6
    assert added / (12 * width**2) == published_overhead(width, rank)
    assert 100 * published_overhead(width, rank) == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize(
    ("feed_forward", "wanted"), [("relu", [3, 1, 1, 2, 1, 1, 1]), ("swiglu", [3, 1, 1, 2, 1, 2, 1])]
)
def test_every_linear_layer_of_a_block_has_a_branch_for_each_matrix_in_it(feed_forward, wanted):
    """Queries, keys and values; outputs; the same of cross-attention; in and out, with a gate twice in."""
    block = Block(BlockShape(16, 24, 4, feed_forward, noble=NobleShape(rank=2)), has_context=True)
    layers = [module for module in block.modules() if isinstance(module, NobleLinear)]
    assert [len(layer.branch.up) for layer in layers] == wanted
    inside = {id(module) for layer in layers for module in layer.modules()}
    assert all(id(module) in inside for module in block.modules() if isinstance(module, nn.Linear))


def rms(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()


@PRESETS
@torch.no_grad()
def test_a_branch_adds_a_hundredth_at_the_start_whatever_it_reads(shape):
    """Its last matrix has the norm (sqrt(outputs) + sqrt(rank)) * 0.01 / sqrt(rank) at most, cosines sqrt(rank)."""
    torch.manual_seed(2)
    layer, plain = NobleLinear(512, 512, True, shape), Linear(512, 512)
    plain.load_state_dict(layer.main.state_dict())
    bound = 0.01 * (1 + (shape.rank / 512) ** 0.5)
    for size in (0.0, 0.1, 1.0, 100.0):
        x = size * torch.randn(64, 512)
        added = rms(layer(x) - plain(x))
        assert 0.1 * bound < added < 1.03 * bound  # the norm of a random matrix is that but for a little
    x = torch.randn(4096, 512)
    assert rms(plain(x)) == pytest.approx(0.5, rel=0.02)
    assert rms(layer(x) - plain(x)) < 0.03 * rms(plain(x))


@PRESETS
def test_a_branch_begins_as_published(shape):
    """Source: noble_simple.py for the code's, two readers of section 3.3 and appendix A for the paper's."""
    torch.manual_seed(3)
    branch, rank = NobleBranch(4096, 2048, shape, num_parts=2), shape.rank
    spread = {name.replace(".1.", "."): value.std().item() for name, value in branch.named_parameters()}
    assert spread["down.weight"] == pytest.approx(4096**-0.5, rel=0.02)
    assert spread["up.weight"] == pytest.approx(0.01 * rank**-0.5, rel=0.02)
    assert spread["mixing.weight"] == pytest.approx((0.5 if shape is CODE else 1.0) * rank**-0.5, rel=0.1)
    assert (branch.mixing[0].weight.abs().max() < (3 / rank) ** 0.5) == (shape is PAPER)  # as far as Xavier's reaches
    assert ("mixing.bias" in spread, "down.bias" in spread) == ((True, True) if shape is CODE else (False, False))
    if shape is CODE:
        assert not branch.down.bias.any()
        assert branch.mixing[0].bias.abs().max() < rank**-0.5
    for cosine in (branch.first, branch.second):
        assert 0.8 <= cosine.frequency.min() < 0.85 < 1.15 < cosine.frequency.max() <= 1.2
        assert 0.05 < cosine.phase.std() < 0.15


def test_weights_drawn_anew_leave_the_branches_and_are_half_of_plain_ones():
    plain, branched = (
        Block(BlockShape(64, 256, 4, "relu", noble=noble), has_context=True) for noble in (None, NobleShape(rank=4))
    )
    before = {name: value.clone() for name, value in branched.named_parameters()}
    for block in (plain, branched):
        torch.manual_seed(4)
        initialise(block, 6)
    drawn = dict(branched.named_parameters())
    for name, value in plain.named_parameters():
        mine = drawn.get(name, drawn.get(name.replace(".weight", ".main.weight")))
        assert value.dim() < 2 or torch.equal(mine, value / 2), name
    kept = [name for name in drawn if ".branch." in name]
    assert len(kept) == 7 * 6 + 10 * 3  # of each layer; of each of those that are in it
    assert all(torch.equal(drawn[name], before[name]) for name in kept)


def test_multipliers_go_by_the_smaller_side_over_the_rank():
    """16^0.4 and 16^0.5 in the code, 16^0.6 and 16^0.45 in the paper."""
    found = []
    for shape in (CODE, PAPER):
        told = NobleBranch(64 * shape.rank, 32 * shape.rank, shape, num_parts=2).lr_multipliers
        found.append((round(told["up.1.weight"], 2), round(told["mixing.0.weight"], 2)))
        assert told["down.weight"] == 1
    assert found == [(3.03, 4.0), (5.28, 3.48)]


@PRESETS
def test_a_branch_is_computed_in_float32_or_more_between_products_in_bfloat16(shape):
    """Its cosines; as a network trains, and as it decodes with matrices that are bfloat16."""
    torch.manual_seed(5)
    layer, seen = make_linear(BlockShape(32, 32, 1, "relu", noble=shape), 32, 96, num_parts=3), []
    x = torch.randn(7, 32)
    wanted = layer(x)
    layer.branch.second.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(x)
        torch.testing.assert_close(found.float(), wanted, atol=2e-2, rtol=2e-2)
        prepare(layer, DecodingExecution(precision="bfloat16"))  # type: ignore[arg-type]
    assert layer.main.weight.dtype == layer.branch.down.weight.dtype == torch.bfloat16
    assert seen == [torch.float32, torch.float32]
