"""Pickles that would run code, in every place that a checkpoint has for a pickle. None may run."""

import copyreg
import pickle
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
from hostile_checkpoints import (
    STORAGES,
    TORCH_CONTAINERS,
    call,
    in_legacy,
    in_zip,
    mapping,
    named,
    payloads,
    pickled,
    tensor,
    text,
)

from model.checkpoints import open_checkpoint
from parti_data.errors import CheckpointError

PAYLOADS = list(payloads("marker"))
REFUSED = ("instance", "object")
"""Opcodes that torch never writes; what the others build becomes a stand-in that is ignored."""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


def opened(path: Path, content: bytes) -> list[str]:
    path.write_bytes(content)
    return list(open_checkpoint(str(path)).tensors)


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_runs_where_a_pickle_is_simply_loaded(marker: Path, name: str) -> None:
    after_the_deed = (TypeError, AttributeError, ValueError, RuntimeError, pickle.UnpicklingError)
    with warnings.catch_warnings(action="ignore"), suppress(*after_the_deed):
        pickle.loads(pickled(payloads(str(marker))[name], 4))
    assert marker.exists()


@pytest.mark.parametrize("container", TORCH_CONTAINERS)
@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_beside_weights_is_ignored_or_refused(
    tmp_path: Path, marker: Path, container: str, name: str
) -> None:
    payload = payloads(str(marker))[name]
    content = pickled(mapping(callbacks=payload, state_dict=mapping(a=tensor(), b=payload)), 4)
    if name in REFUSED:
        with pytest.raises(CheckpointError, match="expected a pickle as torch.save writes it, found opcode b'[io]'"):
            opened(tmp_path / "a", TORCH_CONTAINERS[container](content))
    else:
        assert opened(tmp_path / "a", TORCH_CONTAINERS[container](content)) == ["a"]
    assert not marker.exists()


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_in_the_place_of_everything_is_refused(tmp_path: Path, marker: Path, name: str) -> None:
    alone = pickled(payloads(str(marker))[name], 4)
    heads = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, [])]
    files = [in_zip(alone), alone, in_legacy(alone, {})]
    files += [b"".join([*heads[:place], alone, *heads[place + 1 :]]) for place in range(5)]
    for content in files:
        with pytest.raises(CheckpointError):
            opened(tmp_path / "a", content)
    assert not marker.exists()


@pytest.mark.parametrize("container", TORCH_CONTAINERS)
@pytest.mark.parametrize("name", [name for name in PAYLOADS if name not in REFUSED])
def test_a_payload_in_a_tensor_is_refused(tmp_path: Path, marker: Path, container: str, name: str) -> None:
    payload = payloads(str(marker))[name]
    for hostile in (tensor(shape=payload), tensor(strides=payload), tensor(offset=payload), tensor(of=payload)):
        with pytest.raises(CheckpointError, match="expected"):
            opened(tmp_path / "a", TORCH_CONTAINERS[container](pickled(mapping(a=hostile), 4)))
    assert not marker.exists()


def test_a_payload_in_a_pickled_module_is_ignored(tmp_path: Path, marker: Path) -> None:
    for payload in (value for name, value in payloads(str(marker)).items() if name not in REFUSED):
        inner = (
            named("x", "Conv") + b")\x81" + mapping(_parameters=mapping(w=tensor(), b=payload), _modules=payload) + b"b"
        )
        whole = (
            named("x", "Net") + b")\x81" + mapping(_modules=mapping(conv=inner, evil=payload), _buffers=payload) + b"b"
        )
        assert opened(tmp_path / "a", in_zip(pickled(whole, 4))) == ["conv.w"]
    assert not marker.exists()


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found a TorchScript archive, whose code would have to run; give the we"):
        opened(tmp_path / "a", in_zip(pickled(mapping(a=tensor())), **{"constants.pkl": b"", "code/a.py": b"1"}))


def test_registered_codes_are_refused(tmp_path: Path) -> None:
    copyreg.add_extension("os", "getcwd", 240)
    try:
        assert pickle.loads(pickled(b"\x82\xf0)R")) == str(Path.cwd())
        with pytest.raises(CheckpointError, match=r"found opcode b'\\x82'"):
            opened(tmp_path / "a", in_zip(pickled(b"\x82\xf0)R")))
    finally:
        copyreg.remove_extension("os", "getcwd", 240)


def test_nothing_is_imported_for_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_module.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    content = pickled(mapping(model=mapping(a=tensor(), b=call("foreign_module", "x", text("y")))))
    assert opened(tmp_path / "a", in_zip(content)) == ["a"]
    assert not (tmp_path / "marker").exists()
    with pytest.raises(AttributeError):
        pickle.loads(pickled(named("foreign_module", "x")))
    assert (tmp_path / "marker").exists()


def test_storages_of_other_names_are_refused(tmp_path: Path) -> None:
    for kind, module in (("QInt8Storage", "torch"), ("FloatStorage", "evil")):
        reference = b"(" + text("storage") + named(module, kind) + text("0") + text("cpu") + b"K\x06tQ"
        with pytest.raises(
            CheckpointError, match=f"expected a storage of torch, found {kind}; save it again with torch"
        ):
            opened(tmp_path / "a", in_zip(pickled(mapping(a=tensor(of=reference)))))
    assert STORAGES
