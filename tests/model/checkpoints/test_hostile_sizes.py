"""Files that claim more than they hold, or make much of little: refused before anything is held."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hostile_checkpoints import (
    MAGIC,
    PROTOCOL,
    STORAGES,
    binary,
    call,
    in_legacy,
    in_zip,
    integer,
    integers,
    mapping,
    named,
    pickled,
    storage,
    tensor,
    text,
)

from model.checkpoints import open_checkpoint, stored, unpickler, weights_choice
from parti_data.errors import CheckpointError

HUGE = 1 << 40
WITHIN = "expected a tensor within its 6 elements, found "
SIDES = "expected a shape of at most 32 sides, found "
FOREIGN = "expected a pickle as torch.save writes it, found "


def a(value: bytes) -> bytes:
    return pickled(mapping(a=value), 4)


PICKLES: dict[str, tuple[bytes, str]] = {
    "offset outside": (a(tensor(offset=integer(1))), WITHIN + "(2, 3) from 1 by (3, 1); download it again"),
    "strides outside": (a(tensor(strides=integers(4, 1))), WITHIN + "(2, 3) from 0 by (4, 1)"),
    "stride of nothing": (a(tensor(integers(HUGE), integers(0))), WITHIN + f"({HUGE}) from 0 by (0)"),
    "stride of nothing, small": (a(tensor(integers(7), integers(0))), WITHIN + "(7) from 0 by (0)"),
    "too few strides": (a(tensor(integers(2, 3), integers(1))), WITHIN + "(2, 3) from 0 by (1)"),
    "overflowing sides": (a(tensor(integers(1 << 32, 1 << 32), integers(1, 1))), WITHIN),
    "negative side": (a(tensor(integers(-2, -3))), SIDES + "(-2, -3) from 0 by (3, 1); download it again"),
    "negative offset": (a(tensor(offset=integer(-1))), SIDES + "(2, 3) from -1"),
    "negative stride": (a(tensor(strides=integers(-3, 1))), SIDES + "(2, 3) from 0 by (-3, 1)"),
    "long numbers": (a(tensor(integers(1 << 40_000, 3))), SIDES + "(int, 3) from 0"),
    "text for a side": (a(tensor(b"(" + text("2") + b"t")), SIDES + "(str) from 0"),
    "many sides": (a(tensor(integers(*[1] * 33), integers(*[1] * 33))), SIDES + "(1, 1, 1, 1, 1, 1, 1, 1, ...) from 0"),
    "no storage": (a(tensor(of=b"N")), "expected a storage, an offset, a shape and strides of a tensor, found others"),
    "no arguments": (a(call("torch._utils", "_rebuild_tensor_v2")), "expected a storage, an offset, a shape and"),
    "negative storage": (a(tensor(of=storage(num=-1))), "expected a storage of torch, found FloatStorage"),
    "no reference": (a(b"NQ"), "expected a storage of torch, found something else; save it again with torch"),
    "long key": (a(tensor(of=storage("../" * 30))), "expected a storage of torch, found FloatStorage"),
    "two sizes": (a(tensor()) [:-1].replace(b"}(", b"}(" + text("b") + storage(num=7), 1) + b".",
                  "expected one storage 0, found it in two sizes; download it again"),
    "empty": (b"", FOREIGN + "its end in the middle; save it again with torch.save"),
    "nothing": (pickled(b""), FOREIGN + "an empty stack"),
    "nothing to store": (pickled(b"q\0"), FOREIGN + "an empty stack"),
    "no mark": (pickled(b"Nt"), FOREIGN + "no mark"),
    "no mark to drop": (pickled(b"0"), FOREIGN + "no mark"),
    "nothing stored": (pickled(b"j\xff\xff\xff\xff"), FOREIGN + "a value that was never stored"),
    "no name": (pickled(b"NN\x93"), FOREIGN + "a name that is no text"),
    "long name": (pickled(b"c" + b"a" * 2000 + b"\nb\n"), FOREIGN + "a name without an end"),
    "items of a number": (pickled(b"K\1Na"), FOREIGN + "items for what takes none"),
    "entries of a list": (pickled(b"]NNs"), FOREIGN + "entries for what takes none"),
    "half an entry": (pickled(b"}(Nu"), FOREIGN + "entries for what takes none"),
    "text opcode": (b"S'a'\n.", FOREIGN + "opcode b'S'"),
    "huge bytes": (pickled(b"\x8e" + struct.pack("<Q", HUGE)), "expected a whole checkpoint, found expected"),
    "huge bytearray": (pickled(b"\x96" + struct.pack("<Q", HUGE)), "expected a whole checkpoint, found expected"),
    "huge text": (pickled(b"\x8d" + struct.pack("<Q", HUGE)), "expected a whole checkpoint, found expected"),
    "huge number": (pickled(b"\x8b" + struct.pack("<i", (1 << 31) - 1)), "expected a whole checkpoint, found not enou"),
    "no text": (pickled(b"X\1\0\0\0\xff"), "expected a whole checkpoint, found 'utf-8'"),
    "no tensors": (a(binary(b"1")), "expected tensors, found none; give a file of weights"),
}  # fmt: skip


def members(**options: int) -> bytes:
    """A good torch zip whose members' headers, in the archive's directory, are changed."""
    file = io.BytesIO(in_zip(a(tensor())))
    with zipfile.ZipFile(file, "a") as archive:
        for name, value in options.items():
            setattr(archive.getinfo("archive/data/0"), name, value)
        archive._didModify = True  # type: ignore[attr-defined], writes the directory again
    return file.getvalue()


def packed() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", a(tensor()))
        archive.writestr("archive/data/0", bytes(1 << 20))
    return file.getvalue()


def twice() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", a(tensor()))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("archive/data.pkl", a(tensor(integers(6), integers(1))))
    return file.getvalue()


def large_directory() -> bytes:
    """An archive whose directory is as long as a file of 9 MB."""
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 9_000_000, 0, 0)
    return b"PK\3\4" + bytes(9_000_000 - 4) + end


def legacy(system: object, keys: object, length: int = 6) -> bytes:
    values = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, system)]
    return b"".join([*values, a(tensor()), pickle.dumps(keys, 2), struct.pack("<q", length), STORAGES["0"]])


def safetensors(header: object, content: bytes = bytes(8)) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def npy(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header


def long_name_of_many(num: int) -> bytes:
    """msgpack of one mapping with so many empty ones in it, called by a name of 64 KiB."""
    many = b"".join(b"\xa5%05x\x80" % number for number in range(num))
    return b"\x81\xdb" + struct.pack(">I", 1 << 16) + b"k" * (1 << 16) + b"\xdf" + struct.pack(">I", num) + many


LITTLE = {"little_endian": True}
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "expected a torch, safetensors, msgpack or npy file, found an empty file; download the file of wei"),
    "web page": (b"\n<!DOCTYPE html>", "found a web page;"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "found a pointer of Git LFS;"),
    "gzip": (b"\x1f\x8b\x08", "found a gzip archive;"),
    "tar": (bytes(257) + b"ustar", "found a tar archive;"),
    "another": (b"\0\1\2\3", "found a file that begins with 00 01 02 03;"),
    "a bare pickle": (a(tensor(of=b"N"))[:2] + b"N.", "expected what torch.save wrote, found another pickle; save the"),
    "zip, packed": (packed(), "expected members as they are, found archive/data.pkl compressed or encrypted; save it "),
    "zip, encrypted": (members(flag_bits=1), "expected members as they are, found archive/data/0 compressed or encr"),
    "zip, member that lies": (members(file_size=HUGE, compress_size=HUGE), f"bytes of storage 0, found {HUGE}; "),
    "zip, two sizes": (members(file_size=24, compress_size=20), "expected members as they are, found archive/data/0"),
    "zip, member outside": (members(header_offset=HUGE), "expected a whole checkpoint, found"),
    "zip, other checksum": (members(CRC=1), "expected a whole checkpoint, found Bad CRC-32 for file 'archive/data/0'"),
    "zip, no storage": (in_zip(a(tensor()), {"1": b""}), "expected 24 bytes of storage 0, found none; download it aga"),
    "zip, short storage": (in_zip(a(tensor()), {"0": bytes(20)}), "expected 24 bytes of storage 0, found 20; download"),
    "zip, twice": (twice(), "expected each member once, found archive/data.pkl twice; download it again"),
    "zip, two pickles": (in_zip(a(tensor()), **{"b/data.pkl": b""}), "expected one data.pkl, as torch.save writes, fo"),
    "zip, other": (in_zip(b"").replace(b"data.pkl", b"data.txt"), "found 0 be"
                   "side archive/data.txt, archive/data/0; unpack it first"),
    "zip, big-endian": (in_zip(a(tensor()), byteorder=b"big"), "expected numbers in little-endian order, found big; s"),
    "zip, directory": (large_directory(), "expected an archive's directory of at most 8388608 bytes, found 9000000; g"),
    "zip, many bytes": (in_zip(a(tensor(integers(1 << 38), integers(1), of=storage(num=1 << 38)))),
                        f"bytes, as many as the file has, found {HUGE} bytes shown as {HUGE}; download it again"),
    "zip, key with a path": (in_zip(a(tensor(of=storage("../../data.pkl")))), "expected 24 bytes of storage ../../dat"),
    "legacy, protocol": (in_legacy(b"").replace(pickle.dumps(PROTOCOL, 2), pickle.dumps(7, 2)), "expected torch's pro"),
    "legacy, big-endian": (legacy({"little_endian": False}, ["0"]), "expected numbers in little-endian order, found o"),
    "legacy, no system": (legacy([], ["0"]), "expected numbers in little-endian order, found others; save it again on"),
    "legacy, other keys": (legacy(LITTLE, ["1"]), "expected a list of the storages, found another than its tensors na"),
    "legacy, key twice": (legacy(LITTLE, ["0", "0"]), "expected a list of the storages, found another than its tensor"),
    "legacy, no list": (legacy(LITTLE, {"0": 1}), "expected a list of the storages, found another than its tensors na"),
    "legacy, longer": (legacy(LITTLE, ["0"], 7), "expected 6 elements of storage 0, found fewer or others; download i"),
    "legacy, negative": (legacy(LITTLE, ["0"], -6), "expected 6 elements of storage 0, found fewer or others; downloa"),
    "legacy, cut": (legacy(LITTLE, ["0"])[:-1], "expected 6 elements of storage 0, found fewer or others; download it"),
    "safetensors, dtype": (safetensors({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"1"),
                           "expected numbers that torch has, found F4 in a; convert it"),
    "safetensors, outside": (safetensors({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}),
                             "expected a whole checkpoint, found Error while deserializing header"),
    "safetensors, header": (struct.pack("<Q", 17 << 20) + b"{" + bytes(17 << 20),
                            "expected a header of at most 16777216 bytes, found 17825792; give the weights alone"),
    "npy, digits": (npy("1" * 26 + "x"), "expected an array of little-endian numbers, found "),
    "npy, sides": (npy("1, " * 32 + "1"), SIDES + "(1, 1, 1, 1, 1, 1, 1, 1, ...) from 0"),
    "npy, no comma": (npy("2 3"), "expected an array of little-endian numbers, found "),
    "msgpack, long name of many": (long_name_of_many(100_000), "expected at most 100000 tensors in 64 levels, f"),
    "safetensors, no header": (struct.pack("<Q", 2) + b"{]", "expected a whole checkpoint, found Error while deserial"),
}  # fmt: skip


def refused(path: Path, content: bytes, message: str, **options: int) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as found:
        open_checkpoint(str(path), **options)
    assert str(found.value).startswith(f"{path}: expected ")
    assert message in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_pickle_is_refused(tmp_path: Path, name: str) -> None:
    content, message = PICKLES[name]
    refused(tmp_path / "a", in_zip(content), message)
    if name not in ("two sizes", "empty", "no tensors"):
        refused(tmp_path / "a", in_legacy(content), message)


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused(tmp_path: Path, name: str) -> None:
    refused(tmp_path / "a", *FILES[name])


def test_tensors_that_share_bytes_are_bounded(tmp_path: Path) -> None:
    several = mapping(**{f"t{number}": tensor() for number in range(4)})
    assert len(open_checkpoint(str(write(tmp_path / "a", in_zip(pickled(several))))).tensors) == 4
    wide = tensor(integers(6000), integers(1), of=storage(num=6000))
    shared = b"}(" + text("t") + wide + b"q\0" + b"".join(text(f"{number}") + b"h\0" for number in range(9)) + b"u"
    message = "bytes, as many as the file has, found 24000 bytes shown as 240000; download it again"
    refused(tmp_path / "a", in_zip(pickled(shared), {"0": bytes(24000)}), message)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_work_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickler, "MAX_WORK", 1000)
    message = "expected a pickle of at most 1000 steps, found more; give the weights alone"
    refused(tmp_path / "a", in_zip(pickled(b"N" * 1001)), message)
    pairs = b"](" + text("a") + b"N\x86" + b"".join(text(f"{number}") + b"N\x86" for number in range(30)) + b"eq\0"
    copied = named("collections", "OrderedDict") + b"q\1" + b"0h\1h\0\x85R" * 40
    refused(tmp_path / "a", in_zip(pickled(pairs + copied)), message)
    long = storage()[:-2] + b"N" * 200 + b"tq\0"
    refused(tmp_path / "a", in_zip(pickled(long + b"h\0Q" * 10)), message)
    many = b"(" + storage() + integer(0) + integers(2) + integers(1) + b"N" * 2 + b"}" + b"N" * 200 + b"tq\0"
    rebuilt = named("torch._utils", "_rebuild_tensor_v2") + b"q\1" + b"0h\1h\0R" * 10
    refused(tmp_path / "a", in_zip(pickled(many + rebuilt)), message)


def test_tensors_and_levels_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_choice, "MAX_TENSORS", 3)
    message = "expected at most 3 tensors in 64 levels, found more; give the weights alone"
    refused(tmp_path / "a", in_zip(pickled(mapping(**{f"t{number}": tensor() for number in range(4)}))), message)
    refused(tmp_path / "a", in_zip(pickled(levels(70))), message)
    refused(tmp_path / "a", in_zip(pickled(mapping(**{"t" * 1025: tensor()}))), message)
    refused(tmp_path / "a", in_zip(pickled(b"}q\0" + text("itself") + b"h\0s")), message)


def levels(num: int) -> bytes:
    return b"}q\0" + b"".join(b"}" + text("a") + b"h\0sq\0" for _ in range(num))


def test_mappings_that_double_are_bounded(tmp_path: Path) -> None:
    doubled = b"}q\0" + b"".join(b"}(" + text("a") + b"h\0" + text("b") + b"h\0uq\0" for _ in range(40))
    refused(tmp_path / "a", in_zip(pickled(doubled)), "expected at most 100000 tensors in 64 levels, found more; give")


def test_files_and_pickles_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = in_zip(pickled(mapping(a=tensor())))
    message = f"expected a checkpoint of at most 100 bytes, found {len(good)}; raise max_bytes if it is right"
    refused(tmp_path / "a", good, message, max_bytes=100)
    monkeypatch.setattr("model.checkpoints.torch_zip.MAX_PICKLE_BYTES", 50)
    refused(tmp_path / "a", good, "expected archive/data.pkl of at most 50 bytes, found 166; give the weights alone")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a checkpoint, found no file; check the path"):
        open_checkpoint(str(tmp_path / "a"))
    with pytest.raises(CheckpointError, match="expected a checkpoint, found a directory or a device; name the file in"):
        open_checkpoint(str(tmp_path))


def test_hostile_files_take_no_memory(tmp_path: Path) -> None:
    files = [content for content, _ in FILES.values()] + [in_zip(content) for content, _ in PICKLES.values()]
    for number, content in enumerate(files):
        (tmp_path / f"{number:03}").write_bytes(content)
    root = Path(__file__).parents[3]
    command = [sys.executable, str(root / "tests/hostile/open_under_limits.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.splitlines() == ["CheckpointError"] * len(files), done.stderr


def test_the_numbers_here_are_the_code_s() -> None:
    assert stored.MAX_DIMENSIONS == 32
    assert weights_choice.MAX_TENSORS == 100_000
