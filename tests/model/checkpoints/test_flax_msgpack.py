"""Files of flax, written by msgpack's own library in flax's layout, and hostile ones."""

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from model.checkpoints import msgpack_reader, open_checkpoint
from parti_data.errors import CheckpointError


def packed_array(array: np.ndarray, kind: int = 1) -> msgpack.ExtType:
    """As flax/serialization.py packs an array."""
    return msgpack.ExtType(kind, msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True))


def chunked(array: np.ndarray, size: int) -> dict[str, Any]:
    """As flax/serialization.py packs an array of more than a gigabyte."""
    flat = array.reshape(-1)
    chunks = [packed_array(flat[start : start + size]) for start in range(0, flat.size, size)]
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(place): side for place, side in enumerate(array.shape)},
        "chunks": {str(place): chunk for place, chunk in enumerate(chunks)},
    }


def test_what_flax_writes_is_opened(tmp_path: Path) -> None:
    kernel, bias = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.arange(300, dtype=np.int32)
    tree = {
        "encoder": {"down_0": {"kernel": packed_array(kernel), "bias": packed_array(bias)}, "half": b"1"},
        "quantize": {"embedding": chunked(kernel, 7)},
        "step": packed_array(np.float64(3.5), 3), "note": "x" * 300, "list": [1, -1, 2**40, 1.5, None, True],
    }  # fmt: skip
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(msgpack.packb(tree, strict_types=True))
    found = open_checkpoint(str(path))
    assert found.container == "msgpack"
    assert list(found.tensors) == ["encoder.down_0.kernel", "encoder.down_0.bias", "quantize.embedding", "step"]
    expected = {
        "encoder.down_0.kernel": torch.from_numpy(kernel), "encoder.down_0.bias": torch.from_numpy(bias),
        "quantize.embedding": torch.from_numpy(kernel), "step": torch.tensor(3.5, dtype=torch.float64),
    }  # fmt: skip
    for name, tensor in expected.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].tolist() == tensor.tolist()


def test_bfloat16_of_flax_is_opened(tmp_path: Path) -> None:
    expected = torch.randn(5).bfloat16()
    inner = msgpack.packb(([5], "bfloat16", expected.view(torch.uint8).numpy().tobytes()))
    (tmp_path / "a").write_bytes(msgpack.packb({"a": msgpack.ExtType(1, inner)}))
    found = open_checkpoint(str(tmp_path / "a")).tensors["a"]
    assert found.dtype == torch.bfloat16
    assert found.tolist() == expected.tolist()


def of_array(shape: list[int], dtype: str, content: bytes) -> bytes:
    return msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb((shape, dtype, content)))})


HOSTILE_FLAX = {
    "cut": (b"\x81", "found its end in the middle; download it again"),
    "more": (b"\x81\xa1a\xc0\0", "found more behind its end"),
    "a key that is a number": (msgpack.packb({1: 2}), "found a key that is no text, or twice int"),
    "a key twice": (b"\x82\xa1a\xc0\xa1a\xc0", "found a key that is no text, or twice a;"),
    "unknown code": (b"\x81\xa1a\xc1", "found the code 0xc1"),
    "a long list": (b"\x81\xa1a\xdd\xff\xff\xff\xff" + bytes(999), "found its end in the middle"),
    "a long text": (b"\x81\xdb\x00\x01\x00\x01" + b"a" * 65537 + b"\xc0", "found a text of 65537 bytes"),
    "long bytes": (b"\x81\xa1a\xc6\xff\xff\xff\xff", "found its end in the middle"),
    "many levels": (b"\x81\xa1a" + b"\x91" * 99 + b"\xc0", "found more than 64 levels or 1000000 values"),
    "short array": (of_array([2], "int8", b"1"), "within its 1 elements"),
    "long array": (of_array([2], "int8", b"123"), "array of 2 bytes in 3"),
    "negative": (of_array([-1], "int8", b"1"), "a shape of at most 32"),
    "objects": (of_array([1], "object", b"1"), "array that torch has not"),
    "no chunks": (msgpack.packb({"a": {"__msgpack_chunked_array__": True}}), "found chunks that are not numbered"),
    "other chunks": (
        msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {}, "chunks": {"0": 1}}}),
        "found chunks that are no arrays",
    ),
    "mixed chunks": (
        msgpack.packb({"a": chunked(np.zeros(2, "f4"), 1) | {"chunks": {
            "0": packed_array(np.zeros(1, "f4")), "1": packed_array(np.zeros(1, "f8"))}}}),
        "found chunks that make no array",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_FLAX)
def test_hostile_msgpack_is_refused(tmp_path: Path, name: str) -> None:
    content, message = HOSTILE_FLAX[name]
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(tmp_path / "a"))


def test_values_of_msgpack_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msgpack_reader, "_MAX_VALUES", 10)
    (tmp_path / "a").write_bytes(msgpack.packb({"a": [1] * 10}))
    with pytest.raises(CheckpointError, match="found more than 64 levels or 10 values"):
        open_checkpoint(str(tmp_path / "a"))
