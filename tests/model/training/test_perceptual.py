import pytest
import torch

from model.training.perceptual import load_perceptual
from parti_data.errors import CheckpointError, ConfigError

PLACES = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
    17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512),
}  # fmt: skip


@pytest.fixture(scope="module")
def state():
    generator, state = torch.Generator().manual_seed(0), {}
    for place, (inner, outer) in PLACES.items():
        state[f"features.{place}.weight"] = torch.randn(outer, inner, 3, 3, generator=generator) / (4.5 * inner) ** 0.5
        state[f"features.{place}.bias"] = torch.zeros(outer)
    return state


@pytest.fixture(scope="module")
def vgg_file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(state, path)
    return str(path)


def test_a_picture_is_nearer_to_itself_dimmed_than_to_another(vgg_file):
    distance = load_perceptual(vgg_file)
    images, others = torch.rand(2, 2, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    assert distance(images, images).item() == 0
    assert 0 < distance(0.9 * images, images) < distance(others, images) < 2


def test_gradients_reach_the_first_images_alone_and_black_ones_have_finite_ones(vgg_file):
    distance = load_perceptual(vgg_file)
    images, others = torch.zeros(1, 16, 16, 3, requires_grad=True), torch.rand(1, 16, 16, 3, requires_grad=True)
    distance(images, others).backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad.abs().sum() > 0
    assert others.grad is None
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_the_distance_is_in_float32_under_autocast(vgg_file):
    distance = load_perceptual(vgg_file)
    images = torch.rand(1, 16, 16, 3)
    wanted = distance(images + 1e-3, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(images + 1e-3, images), wanted)


def test_pictures_too_small_for_four_poolings_are_refused(vgg_file):
    with pytest.raises(ConfigError, match="perceptual term: expected images of at least 16 px, found 8"):
        load_perceptual(vgg_file)(torch.rand(1, 8, 8, 3), torch.rand(1, 8, 8, 3))


def test_the_first_tensor_that_differs_is_named(state, tmp_path):
    path = str(tmp_path / "vgg.pth")
    torch.save({**state, "features.5.weight": torch.zeros(128, 64, 1, 1)}, path)
    with pytest.raises(CheckpointError, match=r"expected features.5.weight \(128, 64, 3, 3\), found \(128, 64, 1, 1\)"):
        load_perceptual(path)
    torch.save({name: tensor for name, tensor in state.items() if name != "features.28.bias"}, path)
    with pytest.raises(CheckpointError, match=r"expected features.28.bias \(512,\), found none; take vgg16-397923af"):
        load_perceptual(path)


def test_linear_weights_of_another_network_are_refused(vgg_file, tmp_path):
    path = str(tmp_path / "alex.pth")
    torch.save(
        {"lin0.model.1.weight": torch.zeros(1, 64, 1, 1), "lin1.model.1.weight": torch.zeros(1, 192, 1, 1)}, path
    )
    with pytest.raises(CheckpointError, match=r"expected lin1.model.1.weight \(1, 128, 1, 1\), found \(1, 192, 1, 1\)"):
        load_perceptual(vgg_file, path)


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.pth: expected a checkpoint, found no file"):
        load_perceptual(str(tmp_path / "none.pth"))
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth: expected .*features"):
        load_perceptual(str(tmp_path / "other.pth"))
