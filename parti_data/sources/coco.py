"""COCO's captions: a JSON file of images and of annotations with captions, several an image, and a folder of images.

The JSON is read as a stream, once for the captions and once for the images; in memory are the captions of one file.
Images are only read below the folder: what the JSON calls them is no path to trust.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal

import ijson

from parti_data.config import StrictModel
from parti_data.errors import SourceError
from parti_data.sources.columns import to_captions, to_fields, to_text
from parti_data.sources.image_folder import ImageFolder
from parti_data.sources.listing import digest_splits, list_splits
from parti_data.sources.pairs import Location, RawPair, SourceSplit
from parti_data.storage import open_file

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class CocoSource(StrictModel):
    """JSON files of captions at a path, in a directory or of a glob; each is a split."""

    kind: Literal["coco"]
    path: str
    """A captions file such as annotations/captions_train2017.json, a directory or a glob, local or an fsspec URL."""
    root: str
    """The folder that images are read below, such as train2017."""

    def splits(self) -> list[SourceSplit]:
        """Return a split for each file, in name order; raises SourceError where there is none."""
        return list_splits(self.path, (".json",), "JSON files of COCO captions")

    def digest(self) -> str:
        """Return a digest of which files there are, how large, and of what content where the storage says so."""
        return digest_splits(self.splits())

    def read(self, split: SourceSplit, max_image_bytes: int) -> Iterator[RawPair]:
        """Yield the images in the file's order, each with its captions in theirs; cut off where over the limit."""
        folder = ImageFolder(self.root)
        captions = _read_captions(split.path)
        licenses = _read_licenses(split.path)
        for number, image in enumerate(_items(split.path, "images")):
            name, key = image.get("file_name"), _id(image.get("id"))
            found = folder.read(name, max_image_bytes) if isinstance(name, str) else None
            location, content = found or (Location(split.path, 0, 0), None)
            source_key = f"row {number}" if key is None else to_text(str(key))
            yield RawPair(source_key, location, content, captions.get(key, []), _fields(image, licenses))

    def fetch(self, location: Location) -> bytes:
        """Return the bytes of one image; raises SourceError where it has gone or lies outside of the root."""
        return ImageFolder(self.root).fetch(location)


def _read_captions(path: str) -> dict[int | str | None, list[str]]:
    """Return the captions of each image; raises SourceError where there is none at all."""
    captions: dict[int | str | None, list[str]] = defaultdict(list)
    for annotation in _items(path, "annotations"):
        key = _id(annotation.get("image_id"))
        if key is not None:
            captions[key] += to_captions([annotation.get("caption")])
    if not any(captions.values()):
        raise SourceError(
            f"{path}: expected annotations with captions, found {len(captions)} annotated images without one; use the "
            "file of captions"
        )
    return dict(captions)


def _read_licenses(path: str) -> dict[int | str | None, Any]:
    """Return the name of each licence."""
    return {_id(license.get("id")): license.get("name") for license in _items(path, "licenses")}


def _fields(image: dict[str, Any], licenses: dict[int | str | None, Any]) -> dict[str, Any]:
    """Return what the file says of an image, the licence by its name."""
    stated = _id(image.get("license"))
    return to_fields(image if stated is None else image | {"license": licenses.get(stated, stated)})


def _id(value: Any) -> int | str | None:
    return value if isinstance(value, int | str) else None


def _items(path: str, name: str) -> Iterator[dict[str, Any]]:
    """Yield the items of one of the file's lists, an empty one for what is no object; raises SourceError."""
    try:
        with open_file(path) as file:
            if file.read(len(_BYTE_ORDER_MARK)) != _BYTE_ORDER_MARK:
                file.seek(0)
            for item in ijson.items(file, f"{name}.item", use_float=True):
                yield item if isinstance(item, dict) else {}
    except (ijson.JSONError, ValueError) as error:
        found = " ".join(str(error).split())[:200]
        raise SourceError(f"{path}: expected a whole JSON file, found {found}; download it again") from None
