import torch

from model.tokenizers.patches import from_patches, to_patches


def test_patches_are_cut_in_raster_order():
    image = torch.arange(32 * 32 * 3).reshape(1, 32, 32, 3)
    patches = to_patches(image, 8)
    assert patches.shape == (1, 16, 8 * 8 * 3)
    assert torch.equal(patches[0, 6].reshape(8, 8, 3), image[0, 8:16, 16:24])


def test_from_patches_undoes_to_patches():
    images = torch.rand(2, 32, 32, 3)
    assert torch.equal(from_patches(to_patches(images, 8), 8), images)
