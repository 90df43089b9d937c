"""How different two images look: the distance of their features in VGG16, as the user's file has them.

Source: LPIPS, arXiv 1801.03924, with its linear weights where they are given; without, every channel counts the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.checkpoints import open_checkpoint
from parti_data.errors import CheckpointError, ConfigError

LEAST_SIDE = 16
"""Below, nothing is left after VGG16's fourth pooling."""
_STAGES = (((0, 3, 64), (2, 64, 64)), ((5, 64, 128), (7, 128, 128)),
           ((10, 128, 256), (12, 256, 256), (14, 256, 256)), ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
           ((24, 512, 512), (26, 512, 512), (28, 512, 512)))  # fmt: skip
"""Index in torchvision's `features`, channels in and out of each convolution up to relu5_3; pooling lies between."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, with which VGG16 was trained."""


class PerceptualDistance(nn.Module):
    """A frozen VGG16; gradients reach the images alone."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: dict[str, Tensor], channel_weights: list[Tensor]):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(inner, outer, 3, padding=1) for _, inner, outer in stage) for stage in _STAGES
        )
        self._take(features)
        for index, weights in enumerate(channel_weights):
            self.register_buffer(f"channel_weights_{index}", weights)
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def _take(self, features: dict[str, Tensor]) -> None:
        for stage, places in zip(self.stages, _STAGES, strict=True):
            for convolution, (index, _, _) in zip(stage, places, strict=True):  # type: ignore[arg-type]
                convolution.weight.data.copy_(features[f"{index}.weight"])
                convolution.bias.data.copy_(features[f"{index}.bias"])

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Return the mean distance, a scalar, of images (B, S, S, C) in [0, 1] from others, which get no gradient.

        In float32 whatever the surroundings: the features of near-equal images differ by less than bfloat16 tells.
        """
        refuse_small(images.shape[1])
        with torch.autocast(images.device.type, enabled=False):
            with torch.no_grad():
                wanted = self._features(others.float())
            distances = [
                ((found - goal).square() * getattr(self, f"channel_weights_{index}")).sum(1).mean()
                for index, (found, goal) in enumerate(zip(self._features(images.float()), wanted, strict=True))
            ]
            return torch.stack(distances).sum()

    def _features(self, images: Tensor) -> list[Tensor]:
        """Return the features (B, channels, H, W) after the last ReLU of each stage, normalised over the channels."""
        x = (images.movedim(-1, 1) - self.mean) / self.std
        found = []
        for index, stage in enumerate(self.stages):
            x = F.max_pool2d(x, 2) if index else x
            for convolution in stage:  # type: ignore[union-attr]
                x = F.relu(convolution(x))
            found.append(F.normalize(x, dim=1, eps=1e-10))
        return found


def refuse_small(image_side: int) -> None:
    """Raise ConfigError where VGG16 cannot look at images of a side."""
    if image_side < LEAST_SIDE:
        raise ConfigError(
            f"perceptual term: expected images of at least {LEAST_SIDE} px, found {image_side}; give no weights of "
            "VGG16"
        )


def load_perceptual(vgg_path: str, lpips_path: str = "") -> PerceptualDistance:
    """Return the distance with torchvision's weights of VGG16 (vgg16-397923af.pth), and LPIPS' linear ones (vgg.pth)
    where they are given; raises CheckpointError.

    Without those, every channel weighs 1/5, so that the distance lies between 0 and 2.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for index, inner, outer in (place for stage in _STAGES for place in stage):
        shapes |= {f"{index}.weight": (outer, inner, 3, 3), f"{index}.bias": (outer,)}
    features = _read(vgg_path, "features.", shapes, "vgg16-397923af.pth of torchvision")
    channels = [stage[-1][2] for stage in _STAGES]
    if not lpips_path:
        return PerceptualDistance(features, [torch.full((count, 1, 1), 1 / len(channels)) for count in channels])
    names = {f"{index}.model.1.weight": (1, count, 1, 1) for index, count in enumerate(channels)}
    linear = _read(lpips_path, "lin", names, "vgg.pth of lpips")
    return PerceptualDistance(features, [linear[name][0] for name in names])


def _read(path: str, prefix: str, shapes: dict[str, tuple[int, ...]], file: str) -> dict[str, Tensor]:
    """Return the named tensors of a file as float32; raises CheckpointError at the first that differs."""
    tensors = open_checkpoint(path, prefix=prefix).tensors
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else "none"
        if found != shape:
            raise CheckpointError(f"{path}: expected {prefix}{name} {shape}, found {found}; take {file}")
    return {name: tensors[name].float() for name in shapes}
