"""torch.save's files since 1.6: a zip archive of stored members, a pickle among them and a member for each storage."""

import os
import zipfile
from io import BufferedReader
from typing import Any, cast

import torch
from torch import Tensor

from model.checkpoints.stored import Contents, Malformed, bytes_of, shown
from model.checkpoints.torch_pickle import read_torch_pickle
from model.checkpoints.unpickler import MAX_PICKLE_BYTES

CONTAINER = "torch zip"
_MAX_DIRECTORY_BYTES = 8 << 20
"""About a hundred thousand members."""
_BLOCK_BYTES = 1 << 20
_ENCRYPTED = 0x1


def read_torch_zip(file: BufferedReader) -> Contents:
    """Return what the archive holds; raises Malformed, ValueError, OSError, BadZipFile."""
    archive = zipfile.ZipFile(cast(Any, _BoundedReads(file)))
    members = _members(archive)
    prefix = _prefix(members)
    if f"{prefix}constants.pkl" in members:
        raise Malformed("expected weights, found a TorchScript archive, whose code would have to run; give the weights")
    order = members.get(f"{prefix}byteorder")
    if order is not None and (found := _content(archive, order, 16)) != b"little":
        raise Malformed(
            f"expected numbers in little-endian order, found {shown(found.decode('latin-1'))}; save it again"
        )
    pickle = read_torch_pickle(_content(archive, members[f"{prefix}data.pkl"], MAX_PICKLE_BYTES))
    return Contents(
        CONTAINER, pickle.value, lambda key, size: _storage(archive, members.get(f"{prefix}data/{key}"), key, size)
    )


class _BoundedReads:
    """A file that is read in pieces of bounded size: `zipfile` reads a directory as large as the archive says."""

    def __init__(self, file: BufferedReader):
        self._file = file
        self._end = os.fstat(file.fileno()).st_size
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._end - self._file.tell())
        size = left if size < 0 else min(size, left)
        if size > _MAX_DIRECTORY_BYTES:
            raise Malformed(
                f"expected an archive's directory of at most {_MAX_DIRECTORY_BYTES} bytes, found {size};"
                " give the weights alone"
            )
        return self._file.read(size)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if member.filename in members:
            raise Malformed(f"expected each member once, found {shown(member.filename)} twice; download it again")
        members[member.filename] = member
    return members


def _prefix(members: dict[str, zipfile.ZipInfo]) -> str:
    found = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(found) != 1:
        names = ", ".join(shown(name) for name in list(members)[:3])
        raise Malformed(
            f"expected one data.pkl, as torch.save writes, found {len(found)} beside {names}; unpack it first"
        )
    return found[0].removesuffix("data.pkl")


def _refuse_packed(member: zipfile.ZipInfo) -> None:
    is_plain = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & _ENCRYPTED
    if not is_plain or member.compress_size != member.file_size:
        raise Malformed(
            f"expected members as they are, found {shown(member.filename)} compressed or encrypted; save it again with"
            " torch.save"
        )


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> bytes:
    _refuse_packed(member)
    if member.file_size > max_bytes:
        raise Malformed(
            f"expected {shown(member.filename)} of at most {max_bytes} bytes, found {member.file_size};"
            " give the weights alone"
        )
    content = bytearray(member.file_size)
    _read_into(archive, member, memoryview(content))
    return bytes(content)


def _storage(archive: zipfile.ZipFile, member: zipfile.ZipInfo | None, key: str, num_bytes: int) -> Tensor:
    if member is None or member.file_size != num_bytes:
        found = "none" if member is None else f"{member.file_size}"
        raise Malformed(f"expected {num_bytes} bytes of storage {shown(key)}, found {found}; download it again")
    _refuse_packed(member)
    storage = torch.empty(num_bytes, dtype=torch.uint8)
    _read_into(archive, member, bytes_of(storage))
    return storage


def _read_into(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: memoryview) -> None:
    """Fill the target with a member; its checksum is compared as its end is read, so bits that flipped are found."""
    with archive.open(member) as content:
        for start in range(0, len(target), _BLOCK_BYTES):
            block = target[start : start + _BLOCK_BYTES]
            num = cast(BufferedReader, content).readinto(block)
            assert num == len(block), (member.filename, start, num)
