"""Arrays as numpy saves them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.checkpoints import open_checkpoint
from parti_data.errors import CheckpointError

CLUSTERS = Path(__file__).parents[4] / "shared/conformance/igpt/clusters512/clusters.npy"


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "<i8", "|u1", "<u2", "|b1"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0, 2)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numpy_are_opened(tmp_path: Path, dtype: str, shape: tuple[int, ...], order: Any) -> None:
    array = np.asarray(np.arange(np.prod(shape)).reshape(shape), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    found = open_checkpoint(str(tmp_path / "a.npy"))
    assert found.container == "npy"
    tensor = found.tensors["array"].numpy()
    assert tensor.dtype == array.dtype
    assert tensor.tolist() == array.tolist()


def test_other_arrays_of_numpy_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    message = "expected an array of little-endian numbers, found .*; save it as float32"
    for array in (np.array([{}]), np.zeros(2, ">f4"), np.zeros(2, "U3"), np.zeros(2, [("a", "f4")])):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(str(path))
    np.save(path, np.zeros(20, "f4"))
    path.write_bytes(path.read_bytes().replace(b"'<f4'", b"'<f3'"))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(path))
    np.save(path, np.zeros(20, "f4"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match="expected all of a tensor's bytes, found the end of the file; download it"
    ):
        open_checkpoint(str(path))


def test_a_header_of_numpy_version_2_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, np.arange(3.0), version=(2, 0))
    assert open_checkpoint(str(tmp_path / "a.npy")).tensors["array"].tolist() == [0, 1, 2]


@pytest.mark.skipif(not CLUSTERS.is_file(), reason="the projects' checkpoints are not here")
def test_the_colour_clusters_are_opened() -> None:
    assert open_checkpoint(str(CLUSTERS)).tensors["array"].tolist() == np.load(CLUSTERS).tolist()
