"""Tars, the compressed ones unpacked into a temporary file, because members are read by where they lie."""

import errno
import gzip
import tempfile
import zlib
from contextlib import ExitStack, closing
from typing import BinaryIO, cast

import zstandard

from parti_data.errors import ShardError, SourceError
from parti_data.storage import open_file

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_GZIP_ENDINGS = (".tar.gz", ".tgz")
_MEMORY_BYTES = 32 << 20
"""A tar that unpacks to more is held on disk."""
_BLOCK_BYTES = 1 << 20


def is_compressed(path: str) -> bool:
    """Whether a tar has to be unpacked, by its name."""
    return path.endswith(TAR_ENDINGS) and not path.endswith(".tar")


def open_tar(path: str, max_tar_bytes: int) -> BinaryIO:
    """Return a tar opened for reading, unpacked where it is compressed.

    Raises SourceError where it would unpack to more than `max_tar_bytes`, and where it cannot be unpacked; ShardError
    where this machine has no room for it.
    """
    return _unpack(path, max_tar_bytes) if is_compressed(path) else open_file(path)


def _unpack(path: str, max_tar_bytes: int) -> BinaryIO:
    with ExitStack() as undo:
        unpacked = cast(BinaryIO, undo.enter_context(tempfile.SpooledTemporaryFile(_MEMORY_BYTES)))
        try:
            _copy(path, unpacked, max_tar_bytes)
        except (zlib.error, EOFError, gzip.BadGzipFile, zstandard.ZstdError) as error:
            raise SourceError(
                f"{path}: expected a whole compressed tar, found {error}; download it again, or remove it"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ShardError(
                f"{path}: expected room to unpack it in {tempfile.gettempdir()}, found none left; free some, or set "
                "TMPDIR to another disk"
            ) from None
        undo.pop_all()
        return unpacked


def unpack_first(path: str, num_bytes: int) -> tuple[bytes, int]:
    """Return the first bytes that a compressed tar unpacks to, and how many of its own that took.

    Raises SourceError where it cannot be unpacked.
    """
    try:
        with open_file(path) as file, closing(_decompressor(file, path)) as blocks:
            return blocks.read(num_bytes), file.tell()
    except (zlib.error, EOFError, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise SourceError(
            f"{path}: expected a whole compressed tar, found {error}; download it again, or remove it"
        ) from None


def _copy(path: str, unpacked: BinaryIO, max_tar_bytes: int) -> None:
    """Unpack block by block; raises SourceError before more than `max_tar_bytes` are written."""
    size = 0
    with open_file(path) as file, closing(_decompressor(file, path)) as blocks:
        while block := blocks.read(_BLOCK_BYTES):
            size += len(block)
            if size > max_tar_bytes:
                raise SourceError(
                    f"{path}: expected at most {max_tar_bytes} bytes unpacked, found more; raise source.max_tar_bytes "
                    "if you trust it"
                )
            unpacked.write(block)


def _decompressor(file: BinaryIO, path: str) -> BinaryIO:
    if path.endswith(_GZIP_ENDINGS):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)
