"""The Inception network of FID: pictures to features of width 2,048 and to logits of 1,008 classes.

Source: "Rethinking the Inception Architecture", arXiv 1512.00567, as TensorFlow's graph of 2015-12-05 has it, with the
names of torchvision's Inception v3. It differs from torchvision's in three things: the average pools of its blocks do
not count the border, the last block pools by maximum, and there are 1,008 classes.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.checkpoints import open_checkpoint
from parti_data.errors import CheckpointError

SIDE = 299
WIDTH = 2048
NUM_CLASSES = 1008
_FILE = "pt_inception-2015-12-05-6726825d.pth of pytorch-fid"
_UNUSED = "num_batches_tracked"
"""What torchvision's batch norms count in training."""
_EPS = 1e-3
_MAX_FILE_BYTES = 1 << 30
"""Of the weights' file: it has 95 MB."""

Kernel = int | tuple[int, int]
Padding = Literal["same", "valid"]


class Convolution(nn.Module):
    """A convolution without bias, batch norm and ReLU."""

    def __init__(self, inner: int, outer: int, kernel: Kernel, stride: int = 1, padding: Padding = "valid"):
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outer, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outer, H, W)."""
        return F.relu(self.bn(self.conv(x)))


def average_pool(x: Tensor) -> Tensor:
    """Return the means of the 3x3 neighbourhoods, as far as they lie in the picture."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def largest_pool(x: Tensor) -> Tensor:
    """Return the maxima of the 3x3 neighbourhoods."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


class BlockA(nn.Module):
    """At 35x35: 1x1, 5x5, two 3x3, and pooling."""

    def __init__(self, inner: int, pooled: int):
        super().__init__()
        self.branch1x1 = Convolution(inner, 64, 1)
        self.branch5x5_1 = Convolution(inner, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, padding="same")
        self.branch3x3dbl_1 = Convolution(inner, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding="same")
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding="same")
        self.branch_pool = Convolution(inner, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 224 + pooled, 35, 35)."""
        large = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), large, double, self.branch_pool(average_pool(x))], 1)


class BlockB(nn.Module):
    """From 35x35 to 17x17."""

    def __init__(self, inner: int):
        super().__init__()
        self.branch3x3 = Convolution(inner, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(inner, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding="same")
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 480 + inner, 17, 17)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """At 17x17: 1x1, 7x7 in two strips, twice that, and pooling."""

    def __init__(self, inner: int, between: int):
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Convolution(inner, 192, 1)
        self.branch7x7_1 = Convolution(inner, between, 1)
        self.branch7x7_2 = Convolution(between, between, row, padding="same")
        self.branch7x7_3 = Convolution(between, 192, column, padding="same")
        self.branch7x7dbl_1 = Convolution(inner, between, 1)
        self.branch7x7dbl_2 = Convolution(between, between, column, padding="same")
        self.branch7x7dbl_3 = Convolution(between, between, row, padding="same")
        self.branch7x7dbl_4 = Convolution(between, between, column, padding="same")
        self.branch7x7dbl_5 = Convolution(between, 192, row, padding="same")
        self.branch_pool = Convolution(inner, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 768, 17, 17)."""
        large = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), large, double, self.branch_pool(average_pool(x))], 1)


class BlockD(nn.Module):
    """From 17x17 to 8x8."""

    def __init__(self, inner: int):
        super().__init__()
        self.branch3x3_1 = Convolution(inner, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(inner, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7), padding="same")
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1), padding="same")
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 512 + inner, 8, 8)."""
        small = self.branch3x3_2(self.branch3x3_1(x))
        large = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([small, large, F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """At 8x8: 1x1, 3x3 as a strip beside a strip, the same after a 3x3, and pooling."""

    def __init__(self, inner: int, pool: Callable[[Tensor], Tensor]):
        super().__init__()
        self._pool = pool
        row, column = (1, 3), (3, 1)
        self.branch1x1 = Convolution(inner, 320, 1)
        self.branch3x3_1 = Convolution(inner, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, row, padding="same")
        self.branch3x3_2b = Convolution(384, 384, column, padding="same")
        self.branch3x3dbl_1 = Convolution(inner, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding="same")
        self.branch3x3dbl_3a = Convolution(384, 384, row, padding="same")
        self.branch3x3dbl_3b = Convolution(384, 384, column, padding="same")
        self.branch_pool = Convolution(inner, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2048, 8, 8)."""
        small = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        strips = [self.branch3x3_2a(small), self.branch3x3_2b(small)]
        strips += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *strips, self.branch_pool(self._pool(x))], 1)


class Inception(nn.Module):
    """The network; its stages are its children but for the last, in order, with a pooling after two of the first."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding="same")
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, average_pool)
        self.Mixed_7c = BlockE(2048, largest_pool)
        self.fc = nn.Linear(WIDTH, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return features float32 (B, 2048) of images uint8 (B, S, S, 3) of any side.

        They are resized to 299 bilinearly, without antialiasing, as pytorch-fid does it, and scaled to -1..1.
        """
        x = F.interpolate(images.movedim(-1, 1).float() / 255, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        x = 2 * x - 1
        for name, stage in self.named_children():
            if name == "fc":
                break
            x = stage(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, stride=2)
        return x.mean(dim=(2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """Return logits (B, 1008) without the classifier's bias, which the Inception score's own code leaves out.

        Source: openai/improved-gan, inception_score/model.py, which multiplies by the matrix alone.
        """
        return F.linear(features, self.fc.weight)


def load_inception(path: str) -> Inception:
    """Return the network with the weights of a file, by names and shapes; raises CheckpointError at the first that
    differs.
    """
    with torch.device("meta"):
        network = Inception()
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(_UNUSED)}
    found = open_checkpoint(path, max_bytes=_MAX_FILE_BYTES).tensors
    found = {name: tensor for name, tensor in found.items() if not name.endswith(_UNUSED)}
    for name, tensor in wanted.items():
        shape = tuple(found[name].shape) if name in found else "none"
        if shape != tuple(tensor.shape):
            raise CheckpointError(f"{path}: expected {name} {tuple(tensor.shape)}, found {shape}; take {_FILE}")
    if others := sorted(found.keys() - wanted.keys()):
        raise CheckpointError(f"{path}: expected the weights of Inception alone, found {others[0]}; take {_FILE}")
    network.to_empty(device="cpu").load_state_dict(
        {name: tensor.float() for name, tensor in found.items()}, strict=False
    )
    return network.eval().requires_grad_(False)
