"""What object stores need beside fsspec: uploads in bounded memory, and one line for whatever a client raises.

The clients retry what passes (connections, 429, 500 to 504) with growing waits; what still fails comes here.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

from parti_data.errors import SourceError, StorageError

_CLIENT_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("httpx", "HTTPError"),
    ("httpx2", "HTTPError"),
)
"""What the clients of S3, GCS, Azure and Hugging Face raise beside OSError."""
_REFUSED = (
    "NoCredentialsError", "PartialCredentialsError", "PermissionError", "GoogleAuthError", "DefaultCredentialsError",
    "RefreshError", "ClientAuthenticationError",
)  # fmt: skip
_REPLACED = ("FileExpired", "FileExistsError")
"""What S3's client raises where an object is no longer the one that was opened."""
_SHOWN_CHARS = 300
_PART_BYTES = 8 << 20
_MAX_PARTS = 10_000
"""S3's. Source: its user guide, "Amazon S3 multipart upload limits"."""


def client_errors() -> tuple[type[Exception], ...]:
    """Return the errors that the clients in use raise."""
    loaded = [(sys.modules.get(module), name) for module, name in _CLIENT_ERRORS]
    return (OSError, *(getattr(module, name) for module, name in loaded if module is not None))


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Raise StorageError, with the path and in one line, where the block fails to read from an object store.

    A file that is not there stays a FileNotFoundError; one that is replaced meanwhile is a SourceError.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except client_errors() as error:
        if type(error).__name__ in _REPLACED:
            raise SourceError(
                f"{path}: expected the file as it was when it was opened, found another; it changed while it was read, "
                "so start again in a new directory"
            ) from error
        raise StorageError(_describe(path, "to read it", error)) from error


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Raise StorageError, with the path and in one line, where the block fails to write to an object store."""
    try:
        yield
    except client_errors() as error:
        raise StorageError(_describe(path, "to write it", error)) from error


def is_refusal(error: BaseException | None) -> bool:
    """Whether a store refused, itself or as a StorageError's cause, so that asking again is of no use."""
    if isinstance(error, StorageError):
        return is_refusal(error.__cause__)
    return type(error).__name__ in _REFUSED or str(error).lstrip().startswith("Forbidden")


def _describe(path: str, wanted: str, error: Exception) -> str:
    kind, text = type(error).__name__, " ".join(str(error).split())[:_SHOWN_CHARS]
    if is_refusal(error):
        remedy = "give credentials that may"
    elif isinstance(error, FileNotFoundError):
        remedy = "make the bucket or choose another output"
    else:
        remedy = "check the network and the endpoint and start again, what is finished is kept"
    return f"{path}: expected {wanted}, found {kind} ({text}); {remedy}"


def name_failures(file: Any, path: str) -> Any:
    """Return fsspec's file, whose later reads fail like `reading` too."""
    cache: Any = getattr(file, "cache", None)
    if hasattr(cache, "fetcher"):
        cache.fetcher = partial(_fetch, path, cache.fetcher)
    return file


def _fetch(path: str, fetcher: Callable[[int, int], bytes], start: int, end: int) -> bytes:
    with reading(path):
        return fetcher(start, end)


def upload(filesystem: Any, file: BinaryIO, name: str, path: str) -> None:
    """Put an open file under a name: in one request, or in parts that become visible together at the end.

    The parts of an upload that fails are removed; of one whose process is killed they stay, invisible, until a bucket's
    lifecycle rule removes them.
    """
    file.flush()
    file.seek(0)
    options = _bound_memory(filesystem, os.fstat(file.fileno()).st_size)
    with writing(path):  # by number: the file has no name, so that a killed process leaves none behind
        filesystem.put_file(f"/dev/fd/{file.fileno()}", name, **options)


def _bound_memory(filesystem: Any, size: int) -> dict[str, int]:
    """Return what an upload has to be told to hold few parts at a time; s3fs would hold 500 MB of a large file."""
    if "s3" in filesystem.protocol:
        return {"chunksize": max(_PART_BYTES, -(-size // _MAX_PARTS)), "max_concurrency": 4}
    return {"chunksize": _PART_BYTES} if "gs" in filesystem.protocol else {}


def read_range(filesystem: Any, name: str, offset: int, size: int) -> bytes:
    """Return the bytes that there are of a range, in one request."""
    if size <= 0:
        return b""
    try:
        return filesystem.cat_file(name, start=offset, end=offset + size)
    except OSError as error:
        if "range" in str(error) and "satisfiable" in str(error):  # it begins behind the end
            return b""
        raise
