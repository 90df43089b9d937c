"""Files on any fsspec path: listed, read, hashed, and published whole or not at all.

A local file is written aside, flushed to disk and renamed; an object store takes it in one upload. So a reader never
sees half a file, and a killed writer leaves only a `*.tmp-*` that `sweep` removes.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from parti_data.errors import ConfigError, ShardError, StorageError
from parti_data.object_stores import name_failures, reading, upload, writing
from parti_data.object_stores import read_range as read_object_range
from parti_data.threads import map_in_threads

_TEMPORARY = ".tmp-"
_ASIDE = re.compile(rf"{re.escape(_TEMPORARY)}[0-9a-f]{{32}}$")
_BLOCK_BYTES = 1 << 20
_MARKS = ("md5Hash", "ETag", "etag", "blob_id")
"""What storages call the mark of a file's content: GCS, S3 and HTTP, Azure, Hugging Face."""
_CHANGED = ("mtime", "LastModified", "last_modified", "updated", "created")
_STOPPED: dict[str, ShardError] = {}
_BEGINNING = threading.RLock()
"""Held while a file is begun. A signal's handler may take it from the very thread that holds it."""
_NOT_WRITABLE = (
    errno.EEXIST, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP
)  # fmt: skip


def open_filesystem(path: str) -> tuple[Any, str]:
    """Return a path's filesystem and its name there; raises ConfigError for a protocol that cannot be opened.

    What is no URL lies on this machine's disks, even where fsspec would take `a::b` for a chain of URLs.
    """
    if "://" not in path:
        return LocalFileSystem(), LocalFileSystem._strip_protocol(path)
    try:
        return fsspec.url_to_fs(path, use_listings_cache=False)  # others write there too
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected a path that fsspec opens, found {error}; install that or check it"
        ) from None


def is_disk(filesystem: Any) -> bool:
    """Whether a filesystem is this machine's disks."""
    return isinstance(filesystem, LocalFileSystem)


def open_file(path: str, **options: Any) -> BinaryIO:
    """Return the file opened for reading; of an object store some 16 MiB at a time are held."""
    filesystem, name = open_filesystem(path)
    if is_disk(filesystem):
        return filesystem.open(name, "rb", **options)
    with reading(path):
        ahead = {"block_size": 16 * _BLOCK_BYTES, "cache_type": "readahead"}  # gcsfs would fetch small pieces
        return name_failures(filesystem.open(name, "rb", **{**ahead, **options}), path)


def open_scattered(path: str) -> BinaryIO:
    """Return the file opened for reads here and there; of an object store at most 32 MiB of blocks are held."""
    return open_file(path, block_size=4 * _BLOCK_BYTES, cache_type="blockcache", cache_options={"maxblocks": 8})


def read_bytes(path: str) -> bytes:
    """Return the whole file."""
    with open_file(path) as file:
        return file.read()


def read_range(path: str, offset: int, size: int) -> bytes:
    """Return the bytes that there are of a range of a file; of an object store in one request."""
    filesystem, name = open_filesystem(path)
    if is_disk(filesystem):
        with filesystem.open(name, "rb") as file:
            file.seek(offset)
            return file.read(size)
    with reading(path):
        return read_object_range(filesystem, name, offset, size)


@contextmanager
def on_disk(path: str) -> Iterator[str]:
    """Yield a local path of the file's content, for libraries that open paths: of an object store that of a copy."""
    filesystem, name = open_filesystem(path)
    if is_disk(filesystem):
        yield name
        return
    with tempfile.TemporaryFile() as copy:
        with open_file(path) as file:
            shutil.copyfileobj(file, copy, _BLOCK_BYTES)
        copy.flush()
        yield f"/dev/fd/{copy.fileno()}"  # it has no name, so that a killed process leaves none behind


def _info(path: str) -> dict[str, Any]:
    """Return what the storage says of a file or a directory; raises FileNotFoundError."""
    filesystem, name = open_filesystem(path)
    if is_disk(filesystem):
        return filesystem.info(name)
    with reading(path):
        return filesystem.info(name)


def _kind(path: str) -> str:
    """Return "file", "directory" or, where there is neither, "".

    Not fsspec's isfile, isdir and exists: they take a store that cannot be reached for one that has no such file.
    """
    filesystem, name = open_filesystem(path)
    if is_disk(filesystem):
        return "file" if filesystem.isfile(name) else "directory" if filesystem.isdir(name) else ""
    try:
        return _info(path)["type"]
    except FileNotFoundError:
        return ""


def is_file(path: str) -> bool:
    """Whether there is such a file."""
    return _kind(path) == "file"


def file_size(path: str) -> int:
    """Return the file's size in bytes."""
    return int(_info(path)["size"])


def file_sizes(paths: list[str]) -> list[int]:
    """Return the sizes of many files in bytes, with one listing for each folder that holds several."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(path.rpartition("/")[0] or ("/" if path.startswith("/") else "."), []).append(path)
    sizes: dict[str, int] = {}
    for folder, inside in folders.items():
        listed = listed_sizes(folder) if len(set(inside)) > 1 and not folder.endswith(":/") else {}
        sizes |= {path: listed[name] if (name := Path(path).name) in listed else file_size(path) for path in inside}
    return [sizes[path] for path in paths]


def listed_sizes(directory: str) -> dict[str, int]:
    """Return the sizes in bytes of what is in a directory, by name; nothing where there is no directory."""
    return {name: int(info["size"] or 0) for name, info in _listed(directory).items()}


def listed_versions(directory: str) -> dict[str, tuple[int | str, ...]]:
    """Return what `file_version` tells of what is in a directory, by name; nothing where there is no directory."""
    return {name: _version(info) for name, info in _listed(directory).items()}


def _listed(directory: str) -> dict[str, dict[str, Any]]:
    if not is_directory(directory):
        return {}
    filesystem, name = open_filesystem(directory)
    with reading(directory):
        return {Path(entry["name"]).name: entry for entry in filesystem.ls(name, detail=True)}


class Entry(NamedTuple):
    """What a directory holds under a name."""

    name: str
    is_directory: bool
    marker: list[int | str]
    """As `file_marker` returns it."""


def list_entries(path: str) -> list[Entry]:
    """Return what is in a directory, in no order; nothing where there is no directory."""
    filesystem, name = open_filesystem(path)
    if not is_directory(path):
        return []
    with nullcontext() if is_disk(filesystem) else reading(path):
        try:
            entries = filesystem.ls(name, detail=True)
        except PermissionError as error:
            raise StorageError(
                f"{path}: expected to list it, found {error.strerror or error}; let it be read, or name another folder"
            ) from None
    found = [(entry["name"].rstrip("/"), entry) for entry in entries]
    return [
        Entry(whole.rpartition("/")[2], entry["type"] == "directory", _marker(entry))
        for whole, entry in found
        if whole != name.rstrip("/")  # object stores may list a directory in itself
    ]


def regular_file_size(path: str) -> int | None:
    """Return the file's size in bytes, None for a directory, a pipe or a device; raises FileNotFoundError."""
    info = _info(path)
    return int(info["size"] or 0) if info["type"] == "file" else None


def file_marker(path: str) -> list[int | str]:
    """Return the file's size and, where its storage keeps one, the mark of its content: an MD5 or an ETag."""
    return _marker(_info(path))


def file_version(path: str) -> tuple[int | str, ...]:
    """Return what tells this state of the file from an earlier one: its marker and when it was last changed."""
    return _version(_info(path))


def _version(info: dict[str, Any]) -> tuple[int | str, ...]:
    return (*_marker(info), *(str(info[key]) for key in _CHANGED if info.get(key)))


def _marker(info: dict[str, Any]) -> list[int | str]:
    mark = next((str(info[key]) for key in _MARKS if info.get(key)), "")
    return [int(info["size"] or 0), *([mark.removeprefix("W/").strip('"')] if mark else [])]


def is_directory(path: str) -> bool:
    """Whether there is such a directory."""
    return _kind(path) == "directory"


def expand(pattern: str) -> list[str]:
    """Return what a path or a glob names, sorted; nothing where there is no such thing.

    What is on a disk under the very name is meant by it, even where the name would be a glob; a store is not asked.
    """
    filesystem, name = open_filesystem(pattern)
    if is_glob(name) and not (is_disk(filesystem) and _kind(pattern)):
        with reading(pattern):
            found = filesystem.glob(name)
    else:
        found = [name] if _kind(pattern) else []
    return sorted(filesystem.unstrip_protocol(path) if "://" in pattern else path for path in found)


def is_glob(path: str) -> bool:
    """Whether a path is a pattern of several, or looks like one."""
    return any(character in path for character in "*?[")


def absolute(path: str) -> str:
    """Return a URL with its protocol, or a local path from the root of the disk on."""
    filesystem, name = open_filesystem(path)
    return filesystem.unstrip_protocol(name) if "://" in path else name


def is_local(path: str) -> bool:
    """Whether the path lies on this machine's disks."""
    return is_disk(open_filesystem(path)[0])


def list_directory(path: str) -> list[str]:
    """Return the names of the files in a directory, sorted; none where there is no directory."""
    if not is_directory(path):
        return []
    filesystem, name = open_filesystem(path)
    with reading(path):
        return sorted(Path(entry).name for entry in filesystem.ls(name, detail=False))


def join(directory: str, name: str) -> str:
    """Return the path of a file in a directory."""
    return f"{directory.rstrip('/')}/{name}"


def sha256_file(path: str) -> str:
    """Return the SHA-256 of the file's bytes, in hex."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """Return JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@contextmanager
def publish(path: str) -> Iterator[BinaryIO]:
    """Yield a file to write; it appears under `path` when the block ends, and not at all where it raises.

    A full disk raises ShardError, an object store that does not take the file StorageError.
    """
    filesystem, name = open_filesystem(path)
    try:
        if is_disk(filesystem):
            with _publish_local(Path(name)) as file:
                yield file
        else:
            with tempfile.TemporaryFile() as file:
                yield file
                _refuse_stopped(path)
                upload(filesystem, file, name, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        disk = "the disk" if is_disk(filesystem) else f"the disk of {tempfile.gettempdir()}"
        raise ShardError(
            f"{path}: expected room on {disk}, found none left; free some and start again, what is finished is kept"
        ) from error


def stop_publishing(directory: str, why: ShardError) -> None:
    """Have this process publish nothing more to an object store's directory; `publish` raises what it is told."""
    _STOPPED[directory] = why


def go_on_publishing(directory: str) -> None:
    """End what `stop_publishing` began."""
    _STOPPED.pop(directory, None)


def _refuse_stopped(path: str) -> None:
    for directory, why in list(_STOPPED.items()):
        if path.startswith(join(directory, "")):
            raise ShardError(str(why))


@contextmanager
def _publish_local(path: Path) -> Iterator[BinaryIO]:
    if os.path.isdir(path):  # whatever the length of its name
        raise ShardError(f"{path}: expected a name for a file, found a directory; choose another")
    aside = path.with_name(f"{path.name}{_TEMPORARY}{uuid.uuid4().hex}")
    opened = _open_aside(aside)
    try:
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def begin_no_file() -> None:
    """Have no thread of this process begin another file on disk; those that try wait for its end."""
    _BEGINNING.acquire()


def _open_aside(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _BEGINNING:
            return path.open("wb")
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise not_writable(str(path.parent), error) from None


def not_writable(directory: str, error: OSError) -> ShardError:
    """Return the error of a directory that cannot be written."""
    return ShardError(
        f"{directory}: expected a directory that can be written, found {error.strerror}; choose another output"
    )


def publish_bytes(path: str, content: bytes | memoryview) -> None:
    """Write a small file whole or not at all."""
    with publish(path) as file:
        file.write(content)


def move(source: str, target: str) -> None:
    """Put a file in the place of another, which goes: on a disk at one stroke, on an object store by a copy there."""
    filesystem, name = open_filesystem(source)
    place = open_filesystem(target)[1]
    if is_disk(filesystem):
        os.replace(name, place)
        return
    with writing(target):
        _refuse_stopped(target)
        filesystem.cp_file(name, place)
        filesystem.rm_file(name)


def sweep(directory: str) -> None:
    """Remove what killed writers left aside in a directory, and nothing that `publish` did not name."""
    for name in list_directory(directory):
        if _ASIDE.search(name) and is_file(join(directory, name)):
            with suppress(FileNotFoundError):  # its writer was faster
                remove(join(directory, name))


def remove(path: str) -> None:
    """Remove a file or a directory with all that is in it, where it exists."""
    filesystem, name = open_filesystem(path)
    if is_disk(filesystem):
        if filesystem.exists(name):
            filesystem.rm(name, recursive=True)
    elif kind := _kind(path):
        with writing(path), suppress(FileNotFoundError):  # another was faster
            if kind == "file":
                filesystem.rm_file(name)
            elif is_glob(name):  # the clients would remove what it matches
                list(map_in_threads(partial(_remove_object, filesystem), filesystem.find(name)))
            else:
                filesystem.rm(name, recursive=True)


def _remove_object(filesystem: Any, name: str) -> None:
    with suppress(FileNotFoundError):
        filesystem.rm_file(name)
