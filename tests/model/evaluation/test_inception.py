import pytest
import torch
import torch.nn.functional as F

from model.evaluation.inception import (
    NUM_CLASSES,
    BlockA,
    BlockC,
    BlockE,
    Inception,
    average_pool,
    largest_pool,
    load_inception,
)
from parti_data.errors import CheckpointError

SHAPES = {
    "Conv2d_1a_3x3": (32, 149), "Conv2d_2a_3x3": (32, 147), "Conv2d_2b_3x3": (64, 147), "Conv2d_3b_1x1": (80, 73),
    "Conv2d_4a_3x3": (192, 71), "Mixed_5b": (256, 35), "Mixed_5c": (288, 35), "Mixed_5d": (288, 35),
    "Mixed_6a": (768, 17), "Mixed_6b": (768, 17), "Mixed_6c": (768, 17), "Mixed_6d": (768, 17), "Mixed_6e": (768, 17),
    "Mixed_7a": (1280, 8), "Mixed_7b": (2048, 8), "Mixed_7c": (2048, 8),
}  # fmt: skip
"""Channels and side after each stage. Source: arXiv 1512.00567, table 1, and torchvision's comments."""
TORCHVISION, AUXILIARY, CLASSES = 27_161_264, 3_326_696, 1000
"""Parameters of torchvision's Inception v3, as its documentation counts them, and of the branch that FID's has not."""


def randomise(network: torch.nn.Module) -> torch.nn.Module:
    """Batch norms that do something: statistics, weights and biases at random."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network() -> Inception:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomise(Inception())


def test_there_are_torchvisions_parameters_without_the_auxiliary_branch_and_with_eight_more_classes(network):
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == TORCHVISION - AUXILIARY + (NUM_CLASSES - CLASSES) * (2048 + 1)
    assert count == 23_850_960
    statistics = sum(b.numel() for name, b in network.named_buffers() if "running" in name)
    assert count + statistics == 23_885_392


def test_every_stage_has_the_published_shape_and_the_last_is_averaged_over_all_places(network):
    seen = {}
    hooks = [
        stage.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name, stage in network.named_children()
    ]
    features = network(torch.randint(0, 256, (1, 40, 40, 3), dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    assert {name: (out.shape[1], *set(out.shape[2:])) for name, out in seen.items()} == SHAPES
    torch.testing.assert_close(features, seen["Mixed_7c"].flatten(2).mean(2))
    torch.testing.assert_close(network.logits(features), features @ network.fc.weight.T)


def test_pictures_are_scaled_from_minus_one_to_one_and_enlarged_without_aligned_corners(network):
    seen = []
    hook = network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    picture = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    picture[0, :, 1] = 255
    network(picture)
    hook.remove()
    places = ((torch.arange(299) + 0.5) * 2 / 299 - 0.5).clamp(0, 1)
    torch.testing.assert_close(seen[0][0, 0, 7], 2 * places - 1, atol=1e-5, rtol=0)


def test_the_average_counts_only_what_lies_in_the_picture():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    pooled = average_pool(x)[0, 0]
    assert pooled[0, 0] == (0 + 1 + 4 + 5) / 4
    assert pooled[0, 1] == (0 + 1 + 2 + 4 + 5 + 6) / 6
    assert pooled[1, 2] == x[0, 0, :, 1:].mean()


def convolve(block: torch.nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    """Convolution, batch norm and ReLU in float64 from the named tensors alone; stride 1, the size kept."""
    state = {key: value.double() for key, value in block.state_dict().items() if key.startswith(f"{name}.")}
    weight = state[f"{name}.conv.weight"]
    x = F.conv2d(x, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2))
    mean, var, scale, shift = (
        state[f"{name}.bn.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return ((x - mean) / (var + 0.001).sqrt() * scale + shift).clamp(min=0)


def neighbourhoods(x: torch.Tensor) -> torch.Tensor:
    """The nine values about each place, NaN beyond the border."""
    padded = F.pad(x, (1, 1, 1, 1), value=float("nan"))
    height, width = x.shape[2:]
    return torch.stack([padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)])


def chain(block, x, *names):
    for name in names:
        x = convolve(block, name, x)
    return x


def expected(block: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a block gives, from its definition in torchvision with FID's pooling."""
    around = neighbourhoods(x)
    is_last = isinstance(block, BlockE) and block._pool is largest_pool
    pooled = around.nan_to_num(-1e9).amax(0) if is_last else around.nanmean(0)
    parts = [convolve(block, "branch1x1", x)]
    if isinstance(block, BlockA):
        parts.append(chain(block, x, "branch5x5_1", "branch5x5_2"))
        parts.append(chain(block, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
    elif isinstance(block, BlockC):
        parts.append(chain(block, x, "branch7x7_1", "branch7x7_2", "branch7x7_3"))
        parts.append(chain(block, x, *(f"branch7x7dbl_{number}" for number in range(1, 6))))
    else:
        small = convolve(block, "branch3x3_1", x)
        double = chain(block, x, "branch3x3dbl_1", "branch3x3dbl_2")
        parts += [convolve(block, f"branch3x3_2{side}", small) for side in "ab"]
        parts += [convolve(block, f"branch3x3dbl_3{side}", double) for side in "ab"]
    return torch.cat([*parts, convolve(block, "branch_pool", pooled)], 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BlockA(20, 32),
        lambda: BlockC(24, 16),
        lambda: BlockE(20, average_pool),
        lambda: BlockE(20, largest_pool),
    ],
)
def test_each_block_that_fid_changes_equals_its_definition(make):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        block = randomise(make())
        x = torch.rand(2, block.branch1x1.conv.in_channels, 6, 5) - 0.2
    torch.testing.assert_close(block(x).double(), expected(block, x.double()), atol=1e-4, rtol=1e-4)


def test_only_the_last_block_pools_by_maximum(network):
    assert network.Mixed_7b._pool is average_pool
    assert network.Mixed_7c._pool is largest_pool


def test_strips_lie_as_torchvision_has_them(network):
    kernels = {name: tuple(module.kernel_size) for name, module in network.named_modules() if name.endswith(".conv")}
    assert kernels["Mixed_6b.branch7x7_2.conv"] == (1, 7)
    assert kernels["Mixed_6b.branch7x7dbl_2.conv"] == (7, 1)
    assert kernels["Mixed_7c.branch3x3_2a.conv"] == (1, 3)
    assert kernels["Mixed_7a.branch7x7x3_3.conv"] == (7, 1)


def test_weights_are_taken_by_name_with_or_without_the_counts_of_training(network, tmp_path):
    path = str(tmp_path / "weights.pth")
    state = network.state_dict()
    without_counts = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    torch.save(without_counts, path)
    loaded = load_inception(path)
    images = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    assert torch.equal(loaded(images), network(images))


def test_a_file_that_differs_is_refused_by_the_first_name(network, tmp_path):
    path = str(tmp_path / "weights.pth")
    stem = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("Conv2d_1a")}
    torch.save({**stem, "Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 5, 5)}, path)
    with pytest.raises(
        CheckpointError,
        match=r"expected Conv2d_1a_3x3.conv.weight \(32, 3, 3, 3\), found \(32, 3, 5, 5\); take pt_inc",
    ):
        load_inception(path)
    torch.save(stem, path)
    with pytest.raises(CheckpointError, match=r"expected Conv2d_2a_3x3.conv.weight \(32, 32, 3, 3\), found none; take"):
        load_inception(path)


def test_weights_of_more_than_inception_are_refused(network, tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.save({**network.state_dict(), "AuxLogits.fc.bias": torch.zeros(1008)}, path)
    with pytest.raises(CheckpointError, match="expected the weights of Inception alone, found AuxLogits.fc.bias; take"):
        load_inception(path)
