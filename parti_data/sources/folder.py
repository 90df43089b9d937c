"""Images in a folder and in those below it, each with its caption beside it in a .txt or .json of the same name.

So img2dataset writes its `files` format, and so most sets for fine-tuning lie. Each image is a row, known by its path
below the folder; a .txt without image is a row whose image is missing. Links are only followed to files in the folder.
"""

import json
import posixpath
from collections.abc import Container, Iterator
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pydantic import PositiveInt

from parti_data.config import Place, StrictModel
from parti_data.errors import ShardError, SourceError
from parti_data.sources.columns import MAX_TEXT_BYTES, to_captions, to_fields, to_text
from parti_data.sources.image_folder import ImageFolder
from parti_data.sources.listing import digest_splits
from parti_data.sources.pairs import Location, RawPair, SourceSplit, choose_rows
from parti_data.sources.webdataset import IMAGE_EXTENSIONS
from parti_data.storage import absolute, digest_json, list_entries

_CAPTION_EXTENSIONS = ("txt", "json")


class FolderSource(StrictModel):
    """All images below a folder; a split is a part of the images that lie directly in one folder, in name order."""

    kind: Literal["folder"]
    path: Place
    """The folder, as a local path or an fsspec URL. Names that begin with a dot are passed over."""
    pairs_per_split: PositiveInt = 10_000
    """Images of a split."""

    def splits(self) -> list[SourceSplit]:
        """Return the splits by listing alone; raises SourceError where there is no image, or no caption at all."""
        splits: list[SourceSplit] = []
        has_captions = False
        for folder, files in _walk(absolute(self.path).removesuffix("/")):
            rows = _to_rows(files)
            has_captions = has_captions or any(row.captions for row in rows)
            for first in range(0, len(rows), self.pairs_per_split):
                part = rows[first : first + self.pairs_per_split]
                splits.append(SourceSplit(len(splits), folder, first, len(part), (_digest_rows(part),)))
        if not splits:
            raise SourceError(f"{self.path}: expected a folder of images, found none; check source.path")
        if not has_captions:
            self._refuse_no_captions()
        return splits

    def _refuse_no_captions(self) -> None:
        raise SourceError(
            f"{self.path}: expected captions beside the images (.txt or .json), found none; write them there, or "
            "read a table of captions with source.kind=table"
        )

    def digest(self, splits: list[SourceSplit] | None = None) -> str:
        """Return a digest of which files there are, how large, and of what content where the storage says so."""
        return digest_splits(self.splits() if splits is None else splits)

    def read(self, split: SourceSplit, max_image_bytes: int, rows: Container[int] | None = None) -> Iterator[RawPair]:
        """Yield the split's images in name order, with `rows` those of these numbers; cut off where over the limit."""
        part = _part(split)
        if (_digest_rows(part),) != split.marker:
            _rows_of.cache_clear()  # it may have changed since another split of it was read, and back
            part = _part(split)
        if (_digest_rows(part),) != split.marker:
            raise _changed(split.path)
        folder = ImageFolder(self.path)
        inside = split.path.removeprefix(folder.root).strip("/")
        for row in choose_rows(part, rows):
            pair = _read_pair(folder, inside, row, split.path, max_image_bytes)
            if pair.image is not None and row.image and pair.location.size != row.image.marker[0]:
                raise _changed(split.path)
            yield pair

    def fetch(self, location: Location) -> bytes:
        """Return the bytes of one image; raises SourceError where it has gone or lies outside of the folder."""
        return ImageFolder(self.path).fetch(location)


class ImagesSource(FolderSource):
    """The same with or without captions: enough to train an image tokenizer."""

    kind: Literal["images"]  # type: ignore[assignment]

    def _refuse_no_captions(self) -> None:
        """Take images alone."""


class _File(NamedTuple):
    """A file as its storage lists it."""

    name: str
    marker: tuple[int | str, ...]


class _Row(NamedTuple):
    """An image and what lies beside it; no image where there is a .txt alone."""

    name: str
    image: _File | None
    captions: dict[str, _File]
    """By extension."""


def _changed(path: str) -> ShardError:
    return ShardError(
        f"{path}: expected the files that were there when the run began, found others; put them back, or filter into a "
        "new output"
    )


def _part(split: SourceSplit) -> list[_Row]:
    return _rows_of(split.path)[split.first : split.first + split.count]


@lru_cache(maxsize=1)
def _rows_of(folder: str) -> list[_Row]:
    """Return the rows of a folder; those of the last one are kept, as its splits are read one after the other."""
    return _to_rows(_list(folder)[1])


def _walk(root: str) -> Iterator[tuple[str, list[_File]]]:
    """Yield each folder with the files in it, in name order; no link is followed."""
    stack = [root]
    while stack:
        folder = stack.pop()
        folders, files = _list(folder)
        yield folder, files
        stack += [f"{folder}/{name}" for name in sorted(folders, reverse=True)]


def _list(folder: str) -> tuple[list[str], list[_File]]:
    """Return the names of the folders, and the files, in a folder; none where there is no such folder.

    A file whose name is no UTF-8 is listed under one that does not exist, so that its image is missing.
    """
    folders, files = [], []
    for entry in list_entries(folder or "/"):
        name = _to_unicode(entry.name)
        if name.startswith("."):
            continue
        if not entry.is_directory:
            files.append(_File(name, tuple(entry.marker)))
        elif name == entry.name:
            folders.append(name)
        else:
            raise SourceError(f"{folder}/{name}: expected a folder named in UTF-8, found none; rename it")
    return folders, sorted(files)


def _to_unicode(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _to_rows(files: list[_File]) -> list[_Row]:
    """Return the rows that the files of a folder make, by their names without extension, then by their names."""
    captions: dict[str, dict[str, _File]] = {}
    images: dict[str, list[_File]] = {}
    for file in files:
        stem, _, extension = file.name.rpartition(".")
        if extension.lower() in IMAGE_EXTENSIONS:
            images.setdefault(stem, []).append(file)
        elif extension.lower() in _CAPTION_EXTENSIONS:
            captions.setdefault(stem, {})[extension.lower()] = file
    stems = sorted({*images, *(stem for stem, beside in captions.items() if "txt" in beside)})
    return [
        _Row((image or captions[stem]["txt"]).name, image, captions.get(stem, {}))
        for stem in stems
        for image in images.get(stem, [None])
    ]


def _digest_rows(rows: list[_Row]) -> str:
    return digest_json([[row.image, sorted(row.captions.values())] for row in rows])


def _read_pair(folder: ImageFolder, inside: str, row: _Row, path: str, max_image_bytes: int) -> RawPair:
    found = folder.read(_below(inside, row.image.name), max_image_bytes) if row.image else None
    location, image = found or (Location(path, 0, 0), None)
    texts = {extension: _read_text(folder, _below(inside, file.name)) for extension, file in row.captions.items()}
    stated = _parse(texts.get("json"))
    return RawPair(
        posixpath.join(inside, row.name), location, image, _captions(stated, texts.get("txt")), to_fields(stated)
    )


def _below(inside: str, name: str) -> str:
    return posixpath.join(".", inside, name)  # a name may begin with a tilde, which a path in a table may not


def _read_text(folder: ImageFolder, name: str) -> str | None:
    found = folder.read(name, MAX_TEXT_BYTES)
    return to_text(found[1]) if found else None


def _parse(text: str | None) -> dict[str, Any]:
    """Return the object that a .json holds; nothing where it holds none, or is too long."""
    try:
        content = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _captions(stated: dict[str, Any], text: str | None) -> list[str]:
    """Return the json's `captions`, else the .txt, else the json's `caption`."""
    several = stated.get("captions")
    if isinstance(several, list) and several:
        return to_captions([several])
    return to_captions([stated.get("caption") if text is None else text])
