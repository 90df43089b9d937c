"""Figures and pictures of a run as TensorBoard reads them, in a folder of their own.

Their names and contents hold the time and the machine, so no manifest lists them.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from parti_data.errors import ConfigError
from parti_data.storage import is_local, join

FOLDER = "tensorboard"


class EventFiles:
    """Writes event files below a directory; nothing where there is none.

    What an earlier run wrote after step `first` is not shown. Raises ConfigError where TensorBoard is not installed
    or the directory is no local one.
    """

    def __init__(self, directory: str | None, first: int):
        self._writer = _open(directory, first) if directory else None

    def add_figures(self, step: int, figures: Mapping[str, Any]) -> None:
        """Write the numbers of a step."""
        for name, value in figures.items():
            if self._writer and name != "step":
                self._writer.add_scalar(name, value, step)

    def add_picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Write a picture, uint8 (height, width, 3)."""
        if self._writer:
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer:
            self._writer.close()


def _open(directory: str, first: int) -> Any:
    if not is_local(directory):
        raise ConfigError(
            f"{directory}: expected an output on this machine's disk for TensorBoard, found another; set "
            "running.tensorboard=false"
        )
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise ConfigError(
            "running.tensorboard: expected the package tensorboard, found none; pip install 'parti[tensorboard]'"
        ) from None
    return SummaryWriter(join(directory, FOLDER).removeprefix("file://"), purge_step=first + 1)
