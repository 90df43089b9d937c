"""Folders with a .npy of codes for each image, as LlamaGen's extract_codes scripts write them.

Source: FoundationVision/LlamaGen. autoregressive/train/extract_codes_c2i.py: `imagenet256_codes/0.npy`, int64
(1, 2, I), an image and its mirrored self, or (1, 10, I), torchvision's ten crops, of which the last five are mirrored;
and `imagenet256_labels/0.npy`, int64 (1,). extract_codes_t2i.py: `STEM/0.npy`, (1, I), for line 0 of `STEM.jsonl`,
whose captions language/extract_t5_feature.py finds under `text`, a list. T5 features are not read: captions are.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import prod
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import model_validator

from parti_data.config import Place, StrictModel
from parti_data.errors import ConfigError, SourceError
from parti_data.sources.columns import to_captions
from parti_data.sources.text_rows import split_lines
from parti_data.storage import (
    Entry,
    digest_json,
    expand,
    file_marker,
    is_file,
    is_local,
    join,
    list_directory,
    list_entries,
    open_file,
    read_range,
)  # fmt: skip
from parti_data.token_sources.class_names import class_captions, digest_class_names, read_class_names
from parti_data.token_sources.npy_tokens import read_npy_tokens
from parti_data.token_sources.tokenized import (
    MAX_IMAGE_BYTES,
    NO_CAPTION,
    UNREADABLE,
    Fault,
    Listing,
    TokenizedImage,
    TokenSlice,
    writable_name,
)

_MIRRORED = {2: (False, True), 10: (False,) * 5 + (True,) * 5}
"""Which views are mirrored, by how many there are."""
_FILES_AT_ONCE = 16
"""Files on their way from an object store, each some 30 ms."""
_MOST_DIGITS = 15


class Folder(NamedTuple):
    """A folder of .npy files."""

    path: str
    files: list[Entry]


class LlamaGenSource(StrictModel):
    """Folders of .npy at a path or of a glob, and those in them."""

    kind: Literal["llamagen"]
    path: Place
    """A folder of codes, or one of such folders, or a glob of either, as a local path or an fsspec URL."""
    labels: str = ""
    """The folder of labels; none stands for the one beside the codes whose name ends in _labels instead of _codes."""
    class_names: str = ""
    """A file of names by class, whose name is then the caption: a line each, or a .json."""
    captions: str = ""
    """A .jsonl, whose line N, counted from 0, has the captions of N.npy, or a folder with one for each folder, named
    alike. Without this and class names captions are empty."""
    caption_key: str = "text"
    """What lines hold a caption, or a list of captions, under."""

    @model_validator(mode="after")
    def _refuse_two_captions(self) -> Self:
        if self.class_names and self.captions:
            raise ConfigError("source: expected captions or class_names, found both; leave one out")
        return self

    def slices(self, images_a_slice: int) -> Listing:
        """Return slices of at most so many files; raises SourceError where there is none."""
        folders = sorted(self._folders())
        if not folders:
            raise SourceError(f"{self.path}: expected folders of .npy files, found none; check source.path")
        parts = []
        for folder in folders:
            names = [file.name for file in folder.files]
            for first in range(0, len(names), images_a_slice):
                some = tuple(names[first : first + images_a_slice])
                parts.append(TokenSlice(folder.path, first, first + len(some), len(some), names=some))
        stated = [
            [writable_name(folder.path), [[writable_name(file.name), *file.marker] for file in folder.files]]
            for folder in folders
        ]
        captions = [file_marker(self._captions_of(folder.path)) for folder in folders] if self.captions else []
        return Listing(parts, digest_json([stated, captions, digest_class_names(self.class_names)]))

    def _folders(self) -> Iterator[Folder]:
        for path in expand(self.path):
            entries = [] if _is_labels(path) else list_entries(path)
            inner = (join(path, entry.name) for entry in entries if entry.is_directory and not _is_labels(entry.name))
            for place, found in [(path, entries), *((place, list_entries(place)) for place in inner)]:
                files = [entry for entry in found if entry.name.endswith(".npy") and not entry.is_directory]
                if files:
                    yield Folder(place, sorted(files, key=lambda file: (len(file.name), file.name)))

    def read(self, part: TokenSlice) -> Iterator[TokenizedImage]:
        """Yield the images of a slice in order."""
        captions = self._captions(part)
        codes = _read_each(join(part.path, name) for name in part.names)
        for name, tokens, texts in zip(part.names, codes, captions, strict=True):
            flipped = () if isinstance(tokens, Fault) else _MIRRORED.get(prod(tokens.shape[:-1]), ())
            yield TokenizedImage(name.removesuffix(".npy"), tokens, texts, flipped)

    def _captions(self, part: TokenSlice) -> Iterator[list[str] | Fault | None]:
        if self.captions:
            numbers = [_line_number(name) for name in part.names]
            found = _read_captions(self._captions_of(part.path), set(numbers), self.caption_key)
            missing = Fault(NO_CAPTION, "no line with a caption")
            yield from (found.get(number, missing) for number in numbers)
        elif self.class_names:
            names = read_class_names(self.class_names)
            labels = self.labels or f"{part.path.rstrip('/').removesuffix('_codes')}_labels"
            for label in _read_each(join(labels, name) for name in part.names):
                if isinstance(label, np.ndarray) and label.size == 1:
                    yield class_captions(label.item(), names)
                else:
                    yield Fault(NO_CAPTION, f"no label in {labels}")
        else:
            yield from (None for _ in part.names)

    def _captions_of(self, folder: str) -> str:
        """Return the .jsonl with the captions of a folder; raises SourceError where there is none."""
        stem = folder.rstrip("/").rpartition("/")[2]
        if self.captions.endswith(".jsonl"):
            found = [self.captions] if is_file(self.captions) else []
        else:
            names = [name for name in list_directory(self.captions) if name.endswith(".jsonl") and _stem(name) == stem]
            found = [join(self.captions, name) for name in names]
        if not found:
            raise SourceError(
                f"{self.captions}: expected the captions of {folder} as a .jsonl, or {stem}.jsonl in it, found none; "
                "check source.captions"
            )
        return found[0]


def _is_labels(folder: str) -> bool:
    return folder.endswith("_labels")


def _stem(name: str) -> str:
    """Return a name up to the first dot, by which LlamaGen names the folder of a .jsonl."""
    return name.partition(".")[0]


def _line_number(name: str) -> int:
    """Return which line has the captions of a file, -1 where its name tells none that a file could have."""
    stem = _stem(name)
    return int(stem) if stem.isdecimal() and len(stem) <= _MOST_DIGITS else -1


def _read_each(paths: Iterable[str]) -> Iterator[np.ndarray | Fault]:
    """Yield the array of each file in order; from an object store several are read at a time."""
    paths = iter(paths)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        while some := list(islice(paths, _FILES_AT_ONCE)):
            yield from map(_read_file, some) if is_local(some[0]) else pool.map(_read_file, some)


def _read_file(path: str) -> np.ndarray | Fault:
    try:
        return read_npy_tokens(read_range(path, 0, MAX_IMAGE_BYTES + 1))
    except FileNotFoundError:
        return Fault(UNREADABLE, "no such file")


def _read_captions(path: str, numbers: set[int], key: str) -> dict[int, list[str] | Fault]:
    """Return the captions of these lines, counted from 0; a line without any is not among them."""
    found: dict[int, list[str] | Fault] = {}
    last = max(numbers)
    with open_file(path) as file:
        for number, line in enumerate(islice(split_lines(file), last + 1)):
            if number in numbers and line and (texts := _captions_in(line, key)):
                found[number] = texts
    return found


def _captions_in(line: bytes, key: str) -> list[str]:
    try:
        stated = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return to_captions([stated.get(key)]) if isinstance(stated, dict) else []
