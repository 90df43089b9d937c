"""Checkpoints by their bytes, honest and hostile: pickles as opcodes, and the containers that hold them."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {"0": bytes(range(24))}
"""Six float32."""


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(content)) + content


def integers(*values: int) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return named(module, name) + b"(" + b"".join(arguments) + b"tR"


def mapping(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def storage(key: str = "0", num: int = 6, kind: str = "FloatStorage", *, module: str = "torch") -> bytes:
    return b"(" + text("storage") + named(module, kind) + text(key) + text("cpu") + integer(num) + b"tQ"


def tensor(
    shape: bytes | None = None, strides: bytes | None = None, offset: bytes | None = None, of: bytes | None = None
) -> bytes:
    """A tensor (2, 3) of the whole storage, unless told otherwise."""
    return call(
        "torch._utils", "_rebuild_tensor_v2", of or storage(), offset or integer(0), shape or integers(2, 3),
        strides or integers(3, 1), b"\x89", call("collections", "OrderedDict"),
    )  # fmt: skip


def pickled(content: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + content + b"."


def in_zip(content: bytes, storages: dict[str, bytes] | None = None, **members: bytes) -> bytes:
    """A torch zip of a pickle; further members by name."""
    file = io.BytesIO()
    parts = {"data.pkl": content} | {f"data/{key}": value for key, value in (storages or STORAGES).items()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in (parts | members).items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), value)
    return file.getvalue()


def in_legacy(content: bytes, storages: dict[str, bytes] | None = None, width: int = 4) -> bytes:
    """A torch legacy file of a pickle, its storages of elements of `width` bytes."""
    storages = STORAGES if storages is None else storages
    heads = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {"little_endian": True})]
    keys = pickle.dumps(list(storages), 2)
    bodies = [struct.pack("<q", len(value) // width) + value for value in storages.values()]
    return b"".join([*heads, content, keys, *bodies])


TORCH_CONTAINERS: dict[str, Callable[[bytes], bytes]] = {"torch zip": in_zip, "torch legacy": in_legacy}


def payloads(marker: str) -> dict[str, bytes]:
    """Values that create the file `marker` where a pickle is simply loaded, as opcodes."""
    shell, python = text(f"touch {marker}"), text(f"open({marker!r}, 'w').close()")
    system = named("os", "system")
    once = b"(" + shell + b"t"
    inner = pickled(system + once + b"R")
    imported = call("builtins", "__import__", text("os"))
    return {
        "os.system": system + once + b"R",
        "posix.system": call("posix", "system", shell),
        "subprocess": call("subprocess", "call", b"](" + text("touch") + text(marker) + b"e"),
        "eval": call("builtins", "eval", python),
        "exec": call("builtins", "exec", python),
        "getattr": call("builtins", "getattr", imported, text("system")) + once + b"R",
        "attrgetter": call("operator", "attrgetter", text("system")) + b"(" + imported + b"tR" + once + b"R",
        "partial": call("functools", "partial", system, shell) + b")R",
        "setstate": call("functools", "partial", system) + b"(" + system + once + b"}Ntb)R",
        "map": call("builtins", "list", call("builtins", "map", system, once)),
        "pickle.loads": call("pickle", "loads", binary(inner)),
        "torch.storage": call("torch.storage", "_load_from_bytes", binary(inner)),
        "numpy.load": call("numpy", "load", call("io", "BytesIO", binary(_objects(inner))), b"N", b"\x88"),
        "state": call("types", "SimpleNamespace") + mapping(run=system + once + b"R") + b"b",
        "a key": b"}" + system + once + b"R" + b"Ns",
        "stored name": b"\x8c\x02os\x940\x8c\x06system\x940h\x00h\x01\x93" + once + b"R",
        "dotted name": text("torch.serialization") + text("os.system") + b"\x93" + once + b"R",
        "instance": b"(" + shell + b"ios\nsystem\n",
        "object": b"(" + system + shell + b"o",
    }


def binary(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


def _objects(inner: bytes) -> bytes:
    """A .npy file of objects: a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + inner
