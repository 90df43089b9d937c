"""The arrays of a step where the networks are; its pictures a part at a time."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array where the networks are; to a GPU it is copied while it works."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class StepParts:
    """This rank's pictures of a step, of one kind or of several that belong together; the last step's are kept."""

    def __init__(self, load: Callable[[int], tuple[np.ndarray, ...]], num_parts: int, device: torch.device):
        self._load, self._num_parts, self._device = load, num_parts, device
        self._kept: tuple[int, list[Tensor]] = -1, []

    def get(self, step: int, part: int) -> list[Tensor]:
        """Return a part of each kind of the step's pictures, float32 (B, S, S, C) in [0, 1]."""
        if self._kept[0] != step:
            self._kept = step, [to_device(pictures, self._device) for pictures in self._load(step)]
        size = len(self._kept[1][0]) // self._num_parts
        return [pictures[part * size : (part + 1) * size].float() / 255 for pictures in self._kept[1]]
