"""Files on any fsspec path: listed, read, hashed, and published whole or not at all.

A local file is written aside, flushed to disk and renamed; an object store takes it in one put. So a reader never
sees half a file, and a killed writer leaves only a `*.tmp-*` that `sweep` removes.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from parti_data.errors import ConfigError, ShardError

_TEMPORARY = ".tmp-"
_ASIDE = re.compile(rf"{re.escape(_TEMPORARY)}[0-9a-f]{{32}}$")
_BLOCK_BYTES = 1 << 20
_MARKS = ("md5Hash", "ETag", "etag", "blob_id")
"""What storages call the mark of a file's content: GCS, S3 and HTTP, Azure, Hugging Face."""
_CHANGED = ("mtime", "LastModified", "last_modified", "updated", "created")
_NO_LOCKS = (errno.EBADF, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
_NOT_WRITABLE = (errno.EEXIST, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)


def _open_filesystem(path: str) -> tuple[Any, str]:
    """Return a path's filesystem and its name there; raises ConfigError for a protocol that cannot be opened."""
    try:
        return fsspec.url_to_fs(path, use_listings_cache=False)  # others write there too
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected a path that fsspec opens, found {error}; install that or check it"
        ) from None


def open_file(path: str) -> BinaryIO:
    """Return the file opened for reading."""
    filesystem, name = _open_filesystem(path)
    return filesystem.open(name, "rb")


def open_scattered(path: str) -> BinaryIO:
    """Return the file opened for reads here and there; of an object store at most 32 MiB of blocks are held."""
    filesystem, name = _open_filesystem(path)
    return filesystem.open(
        name, "rb", block_size=4 * _BLOCK_BYTES, cache_type="blockcache", cache_options={"maxblocks": 8}
    )


def read_bytes(path: str) -> bytes:
    """Return the whole file."""
    with open_file(path) as file:
        return file.read()


def is_file(path: str) -> bool:
    """Whether there is such a file."""
    filesystem, name = _open_filesystem(path)
    return filesystem.isfile(name)


def file_size(path: str) -> int:
    """Return the file's size in bytes."""
    filesystem, name = _open_filesystem(path)
    return int(filesystem.size(name))


def file_sizes(paths: list[str]) -> list[int]:
    """Return the sizes of many files in bytes, with one listing for each folder that holds several."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(path.rpartition("/")[0], []).append(path)
    sizes: dict[str, int] = {}
    for folder, inside in folders.items():
        listed = listed_sizes(folder or ".") if len(set(inside)) > 1 and not folder.endswith(":/") else {}
        sizes |= {path: listed[name] if (name := Path(path).name) in listed else file_size(path) for path in inside}
    return [sizes[path] for path in paths]


def listed_sizes(directory: str) -> dict[str, int]:
    """Return the sizes in bytes of what is in a directory, by name; nothing where there is no directory."""
    filesystem, name = _open_filesystem(directory)
    if not filesystem.isdir(name):
        return {}
    return {Path(entry["name"]).name: int(entry["size"] or 0) for entry in filesystem.ls(name, detail=True)}


def regular_file_size(path: str) -> int | None:
    """Return the file's size in bytes, None for a directory, a pipe or a device; raises FileNotFoundError."""
    filesystem, name = _open_filesystem(path)
    info = filesystem.info(name)
    return int(info["size"] or 0) if info["type"] == "file" else None


def file_marker(path: str) -> list[int | str]:
    """Return the file's size and, where its storage keeps one, the mark of its content: an MD5 or an ETag."""
    filesystem, name = _open_filesystem(path)
    return _marker(filesystem.info(name))


def file_version(path: str) -> tuple[int | str, ...]:
    """Return what tells this state of the file from an earlier one: its marker and when it was last changed."""
    filesystem, name = _open_filesystem(path)
    info = filesystem.info(name)
    return (*_marker(info), *(str(info[key]) for key in _CHANGED if info.get(key)))


def _marker(info: dict[str, Any]) -> list[int | str]:
    mark = next((str(info[key]) for key in _MARKS if info.get(key)), "")
    return [int(info["size"] or 0), *([mark.removeprefix("W/").strip('"')] if mark else [])]


def is_directory(path: str) -> bool:
    """Whether there is such a directory."""
    filesystem, name = _open_filesystem(path)
    return filesystem.isdir(name)


def expand(pattern: str) -> list[str]:
    """Return what a path or a glob names, sorted; nothing where there is no such thing."""
    filesystem, name = _open_filesystem(pattern)
    found = filesystem.glob(name) if any(c in name for c in "*?[") else [name] if filesystem.exists(name) else []
    return sorted(filesystem.unstrip_protocol(path) if "://" in pattern else path for path in found)


def absolute(path: str) -> str:
    """Return a URL with its protocol, or a local path from the root of the disk on."""
    filesystem, name = _open_filesystem(path)
    return filesystem.unstrip_protocol(name) if "://" in path else name


def is_local(path: str) -> bool:
    """Whether the path lies on this machine's disks."""
    return isinstance(_open_filesystem(path)[0], LocalFileSystem)


def list_directory(path: str) -> list[str]:
    """Return the names of the files in a directory, sorted; none where there is no directory."""
    filesystem, name = _open_filesystem(path)
    if not filesystem.isdir(name):
        return []
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

    A full disk raises ShardError.
    """
    filesystem, name = _open_filesystem(path)
    try:
        if isinstance(filesystem, LocalFileSystem):
            with _publish_local(Path(name)) as file:
                yield file
        else:
            with tempfile.SpooledTemporaryFile(64 * _BLOCK_BYTES) as file:
                yield file  # type: ignore[misc]
                file.seek(0)
                filesystem.pipe_file(name, file.read())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ShardError(
            f"{path}: expected room on the disk, found none left; free some and start again, what is finished is kept"
        ) from error


@contextmanager
def _publish_local(path: Path) -> Iterator[BinaryIO]:
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


def _open_aside(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise _not_writable(str(path.parent), error) from None


def _not_writable(directory: str, error: OSError) -> ShardError:
    return ShardError(
        f"{directory}: expected a directory that can be written, found {error.strerror}; choose another output"
    )


def publish_bytes(path: str, content: bytes) -> None:
    """Write a small file whole or not at all."""
    with publish(path) as file:
        file.write(content)


@contextmanager
def claim(directory: str) -> Iterator[None]:
    """Keep other processes out of a local directory while the block runs; raises ShardError where one is in it.

    The lock ends with the process, however that ends. Object stores and some shared disks have none: two runs there do
    the same work twice and publish the same bytes.
    """
    filesystem, name = _open_filesystem(directory)
    if not isinstance(filesystem, LocalFileSystem):
        yield
        return
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
        lock = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _not_writable(directory, error) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardError(
                f"{directory}: expected no other run in the directory, found one at work; wait for its end or choose "
                "another output"
            ) from None
        except OSError as error:  # some shared disks lock no directory
            if error.errno not in _NO_LOCKS:
                raise
        try:
            yield
        finally:
            with suppress(OSError):
                Path(name).rmdir()  # only where the block left it empty
    finally:
        os.close(lock)


def sweep(directory: str) -> None:
    """Remove what killed writers left aside in a directory, and nothing that `publish` did not name."""
    for name in list_directory(directory):
        if _ASIDE.search(name) and is_file(join(directory, name)):
            remove(join(directory, name))


def remove(path: str) -> None:
    """Remove a file or a directory with all that is in it, where it exists."""
    filesystem, name = _open_filesystem(path)
    if filesystem.exists(name):
        filesystem.rm(name, recursive=True)
