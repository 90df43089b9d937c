"""WebDataset tars as img2dataset writes them: the members of a pair share a basename and come in any order.

The headers of a tar are read first (a few hundred bytes a pair), so members need not be neighbours; then the images
are read by their offsets, one at a time. Member names are only ever compared, never opened as paths. Offsets of a
compressed tar (.tar.gz, .tgz, .tar.zst) are those in the tar that it unpacks to.
"""

import json
import tarfile
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from pydantic import PositiveInt

from parti_data.config import Place, StrictModel
from parti_data.errors import SourceError
from parti_data.sources.columns import to_fields
from parti_data.sources.last_opened import LastOpened
from parti_data.sources.listing import digest_splits, list_splits
from parti_data.sources.pairs import Location, RawPair, SourceSplit, choose_rows
from parti_data.sources.tar_headers import BoundedTarFile
from parti_data.sources.unpacked_tar import TAR_ENDINGS, is_compressed, open_tar
from parti_data.storage import read_range

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})
MAX_CAPTION_BYTES = 1 << 20
"""Captions and json members beyond this are not read."""
MAX_NAME_CHARS = 4096
"""Of a member; paths end there on every system, and the index of a tar holds its names."""
MAX_INDEX_BYTES = 1 << 30
"""Of the names in one tar, each with what is held beside it: four million members of short names."""
_BYTES_BESIDE_A_NAME = 256
MAX_END_BYTES = 64 << 10
"""Of the zeros behind the last member: tools fill up to 10,240 bytes, with `tar -b` more."""
_SHOWN_CHARS = 120


@dataclass
class Members:
    """Offset and size of each member of one pair, by extension."""

    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)

    def image(self) -> tuple[int, int] | None:
        """Return where the image lies."""
        return next((place for name, place in self.ranges.items() if name in IMAGE_EXTENSIONS), None)


class WebDatasetSource(StrictModel):
    """Tars at a path, a directory or a glob; each tar is a split."""

    kind: Literal["webdataset"]
    path: Place
    """A tar, a directory of tars or a glob, as a local path or an fsspec URL; tars may be compressed."""
    max_tar_bytes: PositiveInt = 16 << 30
    """What a compressed tar may unpack to, on the disk of temporary files."""

    def splits(self) -> list[SourceSplit]:
        """Return a split for each tar, in name order; raises SourceError where there is none."""
        return list_splits(self.path, TAR_ENDINGS, "tar files")

    def digest(self, splits: list[SourceSplit] | None = None) -> str:
        """Return a digest of which files there are, how large, and of what content where the storage says so."""
        return digest_splits(self.splits() if splits is None else splits)

    def read(self, split: SourceSplit, max_image_bytes: int, rows: Container[int] | None = None) -> Iterator[RawPair]:
        """Yield the split's pairs in the order of their first member; an image over the limit is cut off there.

        With `rows` only those of these numbers, reading no member of the others.
        """
        with open_tar(split.path, self.max_tar_bytes) as file:
            pairs = index_members(file, split.path)
            if pairs and not any(members.ranges.keys() & {"txt", "json"} for members in pairs.values()):
                raise SourceError(
                    f"{split.path}: expected captions (.txt or .json members), found {len(pairs)} pairs without one; "
                    "write the captions into the tar"
                )
            for key, members in choose_rows(pairs.items(), rows):
                yield read_pair(file, Location(split.path, *(members.image() or (0, 0))), key, members, max_image_bytes)

    def fetch(self, location: Location) -> bytes:
        """Return the bytes of one image; raises SourceError where the tar has gone."""
        try:
            if is_compressed(location.path):
                file = _LAST_UNPACKED.get(location.path, self.max_tar_bytes)
                return _read_range(file, location.offset, location.size)
            return read_range(location.path, location.offset, location.size)
        except FileNotFoundError:
            raise SourceError(
                f"{location.path}: expected the tar that filter read, found none; put it back or run filter again"
            ) from None


_LAST_UNPACKED = LastOpened(open_tar)


def read_pair(file: BinaryIO, location: Location, key: str, members: Members, max_image_bytes: int) -> RawPair:
    """Return a pair of an open tar; an image over the limit is cut off there."""
    has_image = members.image() is not None
    image = _read_range(file, location.offset, min(location.size, max_image_bytes + 1)) if has_image else None
    stated = read_json(file, members)
    return RawPair(key, location, image, read_captions(file, members, stated), to_fields(stated))


def index_members(file: BinaryIO, path: str) -> dict[str, Members]:
    """Return the members of each pair, pairs in the order of their first member.

    Raises SourceError where the tar is cut short, goes on behind its end, has too many members or is none.
    """
    pairs: dict[str, Members] = {}
    held = 0
    size = file.seek(0, 2)
    file.seek(0)
    if size == 0:
        raise SourceError(f"{path}: expected a tar, found an empty file; download it again")
    try:
        with BoundedTarFile(fileobj=file, mode="r") as tar:
            place = -1
            for member in tar:
                end = member.offset_data + member.size
                if member.size < 0 or tar.offset <= place:
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                if end > size:
                    raise SourceError(
                        f"{path}: expected {end} bytes at least, found {size} (cut short in member "
                        f"{_shorten(member.name)!r}); download it again"
                    )
                if member.isfile():
                    add_member(pairs, member, path)
                    held += len(member.name) + _BYTES_BESIDE_A_NAME
                    if held > MAX_INDEX_BYTES:
                        raise SourceError(
                            f"{path}: expected at most {MAX_INDEX_BYTES} bytes of names and what is known of them, "
                            f"found more after {len(pairs)} pairs; split it into several tars"
                        )
                place = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
            end = tar.offset
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        raise SourceError(
            f"{path}: expected a whole tar, found {error} after {len(pairs)} pairs; download it again"
        ) from None
    _refuse_no_end(file, end, size, path, len(pairs))
    return pairs


def _refuse_no_end(file: BinaryIO, end: int, size: int, path: str, num_pairs: int) -> None:
    """Raise SourceError unless nothing but zeros follows the last member, and few of them.

    tarfile takes a broken header, and the hole that a stopped download leaves, for the end.
    """
    rest = _read_range(file, end, MAX_END_BYTES)
    if not rest or rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        problem, remedy = f"no header and no end mark at byte {end}", "download it again"
    elif size - end > MAX_END_BYTES or rest.strip(b"\0"):
        problem = f"an end mark at byte {end} and {size - end} bytes from there on"
        remedy = "download it again, or, if tars were joined, name them one by one"
    else:
        return
    raise SourceError(f"{path}: expected a whole tar, found {problem}, after {num_pairs} pairs; {remedy}")


def add_member(pairs: dict[str, Members], member: tarfile.TarInfo, path: str) -> None:
    """Add a member to those of its pair; raises SourceError where the pair has it already or its name is too long."""
    name = member.name.encode("utf-8", "backslashreplace").decode()  # names need not be UTF-8
    if len(name) > MAX_NAME_CHARS:
        raise SourceError(
            f"{path}: expected names of at most {MAX_NAME_CHARS} characters, found {_shorten(name)!r}; rename it"
        )
    key, _, extension = _split_name(name)
    ranges = pairs.setdefault(key, Members()).ranges
    if extension in ranges:
        raise SourceError(
            f"{path}: expected each member once, found {_shorten(name)!r} twice; give every pair its own name"
        )
    ranges[extension] = (member.offset_data, member.size)


def read_member(file: BinaryIO, members: Members, extension: str, most_bytes: int) -> bytes | None:
    """Return a member, cut off at so many bytes; None where there is none of that extension."""
    place = members.ranges.get(extension)
    return None if place is None else _read_range(file, place[0], min(place[1], most_bytes))


def _shorten(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]}…"


def _split_name(name: str) -> tuple[str, str, str]:
    """Split at the first dot of the last path component, as WebDataset does; the extension in lower case."""
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    return f"{folder}{slash}{stem}", dot, extension.lower()


def _read_range(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def read_json(file: BinaryIO, members: Members) -> dict[str, Any]:
    """Return the .json member; nothing where there is none, or no object in it."""
    place = members.ranges.get("json")
    if not place or place[1] > MAX_CAPTION_BYTES:
        return {}
    try:
        content = json.loads(_read_range(file, *place))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_captions(file: BinaryIO, members: Members, fields: dict[str, Any]) -> list[str]:
    """Return the json's `captions`, else the .txt member, else the json's `caption`."""
    several = fields.get("captions")
    if isinstance(several, list) and several:
        return [text.encode("utf-8", "replace").decode() for text in several if isinstance(text, str)]
    if place := members.ranges.get("txt"):
        return [_read_range(file, place[0], min(place[1], MAX_CAPTION_BYTES)).decode("utf-8", "replace")]
    caption = fields.get("caption")
    return [caption.encode("utf-8", "replace").decode()] if isinstance(caption, str) else []
