"""Files cut and changed at every place: opened, or refused by our own error; never more memory than the file's."""

import io
import random
import struct
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from hostile_checkpoints import in_legacy, in_zip
from safetensors.torch import save as save_safetensors

from model.checkpoints import open_checkpoint
from parti_data.errors import CheckpointError

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.ones(3).half(), "c": torch.nn.Parameter(torch.ones(1))}
SAVED = {
    "state_dict": WEIGHTS,
    "epoch": 3,
    "callbacks": {int: {"best": 0.5}},
    "args": {1, 2},
    "none": [None, True, "x"],
}


def torch_file(is_zip: bool) -> bytes:
    file = io.BytesIO()
    torch.save(SAVED, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


def flax_file() -> bytes:
    inner = msgpack.packb(((2, 3), "float32", bytes(24)))
    return msgpack.packb({"encoder": {"kernel": msgpack.ExtType(1, inner)}, "step": 7})


def npy_file() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((2, 3), "f4"))
    return file.getvalue()


FILES = {
    "torch zip": torch_file(is_zip=True),
    "torch legacy": torch_file(is_zip=False),
    "safetensors": save_safetensors({"a": torch.ones(2, 3), "b": torch.ones(1).bfloat16()}),
    "msgpack": flax_file(),
    "npy": npy_file(),
}
"""By container, each of a few kilobytes at most."""
ROUNDS = 250


def is_refused(path: Path, content: bytes) -> bool:
    """Whether a file is refused; one that is opened must be within bounds."""
    path.write_bytes(content)
    try:
        tensors = open_checkpoint(str(path)).tensors
    except CheckpointError as error:
        message = str(error)
    else:
        assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) <= 4 * len(content)
        return False
    assert message.startswith(f"{path}: expected ")
    assert message.isprintable()
    return True


@pytest.mark.parametrize("container", FILES)
def test_files_that_are_whole_are_opened(tmp_path: Path, container: str) -> None:
    assert not is_refused(tmp_path / "a", FILES[container])


@pytest.mark.parametrize("container", FILES)
def test_files_that_are_cut_are_refused(tmp_path: Path, container: str) -> None:
    whole = FILES[container]
    step = max(1, len(whole) // 150)
    assert all(is_refused(tmp_path / "a", whole[:end]) for end in [*range(0, len(whole), step), len(whole) - 1])


@pytest.mark.parametrize("container", FILES)
def test_files_with_changed_bytes_are_opened_or_refused(tmp_path: Path, container: str) -> None:
    whole, chance = FILES[container], random.Random(0)
    for _ in range(ROUNDS):
        changed = bytearray(whole)
        for _ in range(chance.choice((1, 1, 1, 2, 8))):
            place = chance.randrange(len(whole))
            changed[place] = chance.choice((changed[place] ^ (1 << chance.randrange(8)), 0, 0x7F, 0xFF))
        is_refused(tmp_path / "a", bytes(changed))


def test_a_changed_byte_of_a_torch_zip_s_tensor_is_refused(tmp_path: Path) -> None:
    whole = FILES["torch zip"]
    content = torch.arange(6.0).numpy().tobytes()
    start = whole.index(content)
    for place in range(start, start + len(content)):
        assert is_refused(tmp_path / "a", whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])


@pytest.mark.parametrize("container", ["torch zip", "torch legacy"])
def test_changed_pickles_are_opened_or_refused(tmp_path: Path, container: str) -> None:
    """With a checksum that fits, as a stranger would write it."""
    with zipfile.ZipFile(io.BytesIO(FILES["torch zip"])) as archive:
        names = {Path(name).name: archive.read(name) for name in archive.namelist()}
    whole, chance = names["data.pkl"], random.Random(1)
    storages = {key: content for key, content in names.items() if key.isdigit()}
    opcodes = bytes(range(128, 151)) + b"(.01NRQXbcde}]satu)\x85\x86\x87qrhjKJMG"
    for _ in range(ROUNDS):
        start, end = sorted(chance.choices(range(len(whole)), k=2))
        end = min(end, start + chance.choice((0, 1, 2, 5, 40)))
        put = bytes(chance.choices(opcodes, k=chance.randrange(5))) + chance.choice((b"", whole[start:end] * 2))
        changed = whole[:start] + put + whole[end:]
        is_refused(
            tmp_path / "a", in_zip(changed, storages) if container == "torch zip" else in_legacy(changed, storages)
        )


@pytest.mark.parametrize("num", [1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1])
def test_checksums_of_storages_of_any_size_are_compared(tmp_path: Path, num: int) -> None:
    """A storage is read in blocks of a megabyte."""
    file = io.BytesIO()
    torch.save({"a": torch.full((num,), 7.5)}, file)
    whole = bytearray(file.getvalue())
    assert not is_refused(tmp_path / "a", whole)
    whole[whole.rindex(struct.pack("<f", 7.5))] ^= 1
    assert is_refused(tmp_path / "a", whole)


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    chance = random.Random(2)
    heads = [b"", b"PK\3\4", b"\x80\2", b"\x93NUMPY\1\0", b"\x82\xa1a", struct.pack("<Q", 40) + b"{"]
    for number in range(ROUNDS):
        is_refused(tmp_path / "a", heads[number % len(heads)] + chance.randbytes(chance.randrange(200)))
