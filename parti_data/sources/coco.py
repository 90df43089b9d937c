"""COCO's captions: a JSON file of images and of annotations with captions, several an image, and a folder of images.

The JSON is read as a stream, once for the captions and once for the images; in memory are the captions of one file.
Images are only read below the folder: what the JSON calls them is no path to trust.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import ijson

from parti_data.config import Place, StrictModel
from parti_data.errors import SourceError
from parti_data.sources.columns import to_captions, to_fields, to_text
from parti_data.sources.image_folder import ImageFolder, refuse_no_folder
from parti_data.sources.listing import digest_splits, list_splits
from parti_data.sources.pairs import Location, RawPair, SourceSplit
from parti_data.storage import open_file

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_DEPTH = 64


class CocoSource(StrictModel):
    """JSON files of captions at a path, in a directory or of a glob; each is a split."""

    kind: Literal["coco"]
    path: Place
    """A captions file such as annotations/captions_train2017.json, a directory or a glob, local or an fsspec URL."""
    root: Place
    """The folder that images are read below, such as train2017."""

    def splits(self) -> list[SourceSplit]:
        """Return a split for each file, in name order; raises SourceError where there is none, or no root."""
        refuse_no_folder(self.root)
        return list_splits(self.path, (".json",), "JSON files of COCO captions")

    def digest(self, splits: list[SourceSplit] | None = None) -> str:
        """Return a digest of which files there are, how large, and of what content where the storage says so."""
        return digest_splits(self.splits() if splits is None else splits)

    def read(self, split: SourceSplit, max_image_bytes: int, rows: Container[int] | None = None) -> Iterator[RawPair]:
        """Yield the images in the file's order, each with its captions in theirs; cut off where over the limit.

        With `rows` only those of these numbers; the others' images are not opened.
        """
        folder = ImageFolder(self.root)
        said = _read_captions(split.path)
        number = -1
        for number, (_, image) in enumerate(_items(split.path, ("images",))):
            if rows is not None and number not in rows:
                continue
            name, key = image.get("file_name"), _id(image.get("id"))
            found = folder.read(name, max_image_bytes) if isinstance(name, str) else None
            location, content = found or (Location(split.path, 0, 0), None)
            source_key = f"row {number}" if key is None else to_text(str(key))
            captions = [] if key is None else said.captions.get(key, [])
            yield RawPair(source_key, location, content, captions, _fields(image, said.licenses))
        if number < 0:
            raise SourceError(f"{split.path}: expected images, found none; use the file of captions")

    def fetch(self, location: Location) -> bytes:
        """Return the bytes of one image; raises SourceError where it has gone or lies outside of the root."""
        return ImageFolder(self.root).fetch(location)


def count_images(path: str) -> int:
    """Return how many images a file lists; reads it whole, but no image."""
    return sum(1 for _ in _items(path, ("images",)))


class _Said(NamedTuple):
    """What a file says of its images, by their ids, and the names of its licences."""

    captions: dict[int | str, list[str]]
    licenses: dict[int | str, Any]


def _read_captions(path: str) -> _Said:
    """Return the captions of each image; raises SourceError where there is none at all."""
    said = _Said(defaultdict(list), {})
    for name, item in _items(path, ("annotations", "licenses")):
        key = _id(item.get("image_id" if name == "annotations" else "id"))
        if key is not None and name == "annotations":
            said.captions[key] += to_captions([item.get("caption")])
        elif key is not None:
            said.licenses[key] = item.get("name")
    if not any(said.captions.values()):
        raise SourceError(
            f"{path}: expected annotations with captions, found {len(said.captions)} annotated images without one; use "
            "the file of captions"
        )
    return said


def _fields(image: dict[str, Any], licenses: dict[int | str, Any]) -> dict[str, Any]:
    """Return what else the file says of an image, the licence by its name."""
    stated = _id(image.get("license"))
    return to_fields(image if stated is None else image | {"license": licenses.get(stated, stated)})


def _id(value: Any) -> int | str | None:
    return value if isinstance(value, int | str) else None


def _items(path: str, lists: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the items of some of the file's lists with the list's name, empty for what is no object.

    Raises SourceError where the file is no JSON, or cut short.
    """
    try:
        with open_file(path) as file:
            if file.read(len(_BYTE_ORDER_MARK)) != _BYTE_ORDER_MARK:
                file.seek(0)
            for name, item in _build_items(ijson.basic_parse(file, use_float=True), lists):
                yield name, item if isinstance(item, dict) else {}
    except (ijson.JSONError, ValueError) as error:
        found = " ".join(str(error).split())[:200]
        raise SourceError(f"{path}: expected a whole JSON file, found {found}; download it again") from None


def _build_items(events: Iterable[tuple[str, Any]], lists: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the items of some lists of the outermost object, from the events of its parsing."""
    builder, name, depth = ijson.ObjectBuilder(), "", 0
    for event, value in events:
        depth -= event in ("end_map", "end_array")
        if depth == 1:
            name = value if event == "map_key" else name if event == "start_array" else ""
        elif depth > 1 and name in lists:
            builder.event(event, value)
            if depth == 2 and event not in ("start_map", "start_array"):
                yield name, builder.value
                builder = ijson.ObjectBuilder()
        depth += event in ("start_map", "start_array")
        if depth > _MAX_DEPTH:
            raise ValueError(f"lists in lists, more than {_MAX_DEPTH} deep")
