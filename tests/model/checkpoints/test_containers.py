"""Every container gives the tensors that were put into it; the projects' own files give theirs."""

import json
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import fsspec
import pytest
import torch
from hostile_checkpoints import call, in_legacy, integer, integers, mapping, named, pickled, tensor, text
from safetensors.torch import save, save_file
from torch import Tensor, nn

from model.checkpoints import open_checkpoint
from parti_data.errors import CheckpointError

CONFORMANCE = Path(__file__).parents[4] / "shared" / "conformance"
FILES = (
    "enhancing/small_l2/imagenet_vitvq.ckpt",
    "taming/small_vq_noattn_avgpool/model.ckpt",
    "llamagen/small_l2/vq.pt",
    "openai_dvae/small/encoder.pkl",
    "openai_dvae/small/decoder.pkl",
)


def tensors() -> dict[str, Tensor]:
    """One of each dtype and layout."""
    torch.manual_seed(0)
    base = torch.arange(24.0).reshape(4, 6)
    names = "float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 uint16 uint32 uint64 float8_e4m3fn"
    layouts = {"base": base, "turned": base.t(), "part": base[1:3, 2:], "every_second": base[:, ::2]}
    others = {"none": torch.empty(0, 3), "scalar": torch.tensor(5.0), "parameter": nn.Parameter(torch.randn(2, 2))}
    return layouts | others | {name: torch.randn(3, 2).abs().to(getattr(torch, name)) for name in names.split()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, one in expected.items():
        assert found[name].dtype == one.dtype
        assert found[name].shape == one.shape
        assert found[name].tolist() == one.tolist()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("is_zip", [True, False])
def test_what_torch_saves_is_opened(tmp_path: Path, is_zip: bool, protocol: int) -> None:
    expected = tensors()
    expected["parameter"].note = 1  # type: ignore[attr-defined]
    path = str(tmp_path / "a.safetensors")  # its name says nothing
    torch.save(expected, path, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    found = open_checkpoint(path)
    assert found.container == ("torch zip" if is_zip else "torch legacy")
    assert_same(found.tensors, expected)
    assert found.tensors["turned"].stride() == (1, 6)
    assert found.tensors["turned"].untyped_storage().data_ptr() == found.tensors["base"].untyped_storage().data_ptr()


def test_tensors_that_are_conjugated_when_read_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, dtype=torch.complex64).conj()}, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"found one to be conjugated or negated; save its resolve_conj\(\)"):
        open_checkpoint(str(tmp_path / "a"))


def test_checkpoints_of_object_stores_are_opened() -> None:
    with fsspec.open("memory://checkpoints/a.pt", "wb") as file:
        torch.save({"a": torch.ones(2)}, file)
    assert open_checkpoint("memory://checkpoints/a.pt").tensors["a"].tolist() == [1, 1]
    with fsspec.open("memory://checkpoints/a.safetensors", "wb") as file:
        file.write(save({"a": torch.ones(2)}))
    assert open_checkpoint("memory://checkpoints/a.safetensors").tensors["a"].tolist() == [1, 1]


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickled_module_gives_its_state_dict(tmp_path: Path, is_zip: bool) -> None:
    module = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(1, 2, 3), inner=nn.Sequential(nn.BatchNorm2d(2), nn.Linear(2, 1)))
    )
    path = str(tmp_path / "a.pkl")
    torch.save(module, path, _use_new_zipfile_serialization=is_zip)
    assert_same(open_checkpoint(path).tensors, module.state_dict())
    torch.save({"model": module, "epoch": 3}, path, _use_new_zipfile_serialization=is_zip)
    assert_same(open_checkpoint(path).tensors, module.state_dict())


def test_safetensors_are_opened(tmp_path: Path) -> None:
    expected = {name: tensor.detach().contiguous() for name, tensor in tensors().items()}
    path = tmp_path / "a.ckpt"
    save_file({name: tensor.clone() for name, tensor in expected.items()}, path)
    found = open_checkpoint(str(path))
    assert found.container == "safetensors"
    assert_same({name: found.tensors[name] for name in expected}, expected)
    path.write_bytes(bytes(path.stat().st_size))  # the tensors are no part of the file
    assert_same({name: found.tensors[name] for name in expected}, expected)


def test_a_checkpoint_of_python_2_is_read(tmp_path: Path) -> None:
    """Its OrderedDict is called with a list of pairs, and its text is bytes."""
    pairs = b"](](U\x01a" + tensor() + b"ee"
    content = pickled(named("collections", "OrderedDict") + b"(" + pairs + b"tR")
    (tmp_path / "a").write_bytes(in_legacy(content))
    assert open_checkpoint(str(tmp_path / "a")).tensors["a"].shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "state"),
    [(tensor() + b"\x85", b"\x88\x89" + call("collections", "OrderedDict") + b"\x87b"),
     (b")", b"(" + tensor() + b"N" + call("collections", "OrderedDict") + b"\x88\x89tb")],
    ids=["data given", "data in the state"],
)  # fmt: skip
def test_parameters_are_read_as_torch_0_1_stored_them(tmp_path: Path, arguments: bytes, state: bytes) -> None:
    """So torchvision's first files hold them. Source: `Tensor.__setstate__` in torch/_tensor.py."""
    parameter = named("torch.nn.parameter", "Parameter") + arguments + b"\x81" + state
    (tmp_path / "a").write_bytes(in_legacy(pickled(mapping(weight=parameter)), {"0": struct.pack("<6f", *range(6))}))
    assert open_checkpoint(str(tmp_path / "a")).tensors["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("inside", [True, False])
def test_parts_of_storages_are_read_as_torch_before_0_4_stored_them(tmp_path: Path, inside: bool) -> None:
    start = integer(2 if inside else 5)
    view = b"(" + text("v") + start + integer(3) + b"t"
    reference = (
        b"(" + text("storage") + named("torch", "ByteStorage") + text("0") + text("cpu") + integer(6) + view + b"tQ"
    )
    content = pickled(mapping(a=tensor(integers(2), integers(1), integer(1), reference)))
    (tmp_path / "a").write_bytes(in_legacy(content, {"0": bytes(range(6))}, width=1))
    if inside:
        assert open_checkpoint(str(tmp_path / "a")).tensors["a"].tolist() == [3, 4]
        return
    with pytest.raises(
        CheckpointError, match="expected a part of storage 0, found one outside of it; download it again"
    ):
        open_checkpoint(str(tmp_path / "a"))


@pytest.mark.skipif(not CONFORMANCE.is_dir(), reason="the projects' checkpoints are not here")
@pytest.mark.parametrize("name", FILES)
def test_the_projects_checkpoints_are_opened(name: str) -> None:
    path = CONFORMANCE / name
    meta = json.loads((path.parent / "meta.json").read_text())
    found = open_checkpoint(str(path))
    assert found.container == "torch zip"
    lead = f"{path.stem}." if path.suffix == ".pkl" else ""
    shapes = {f"{lead}{key}": list(tensor.shape) for key, tensor in found.tensors.items()}
    expected = {key: shape for key, shape in meta["keys"].items() if key.startswith(lead)}
    assert {key: shape for key, shape in shapes.items() if not key.startswith("loss.")} == expected


@pytest.mark.skipif(not CONFORMANCE.is_dir(), reason="the projects' checkpoints are not here")
def test_the_projects_weights_are_those_that_torch_reads() -> None:
    path = str(CONFORMANCE / "llamagen/small_l2/vq.pt")
    found, expected = open_checkpoint(path).tensors, torch.load(path, weights_only=True)["model"]
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], one) for name, one in expected.items())


def test_a_plain_pickle_of_tensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(pickle.dumps({"a": torch.zeros(2)}))
    with pytest.raises(
        CheckpointError, match="expected what torch.save wrote, found another pickle; save the weights wi"
    ):
        open_checkpoint(str(tmp_path / "a"))
