"""Images as the patches of a grid, in raster order, and back."""

from torch import Tensor


def to_patches(images: Tensor, patch_side: int) -> Tensor:
    """Return patches (B, I, P * P * C) in raster order of images (B, S, S, C)."""
    rows = images.unflatten(2, (-1, patch_side)).unflatten(1, (-1, patch_side))
    return rows.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


def from_patches(patches: Tensor, patch_side: int) -> Tensor:
    """Undo `to_patches`."""
    grid_side = round(patches.shape[1] ** 0.5)
    grid = patches.unflatten(2, (patch_side, patch_side, -1)).unflatten(1, (grid_side, grid_side))
    return grid.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
