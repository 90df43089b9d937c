"""A JSON object with a class and a list of codes on each line, as the scripts of RAR and TiTok write it.

Source: bytedance/1d-tokenizer, scripts/pretokenization.py: lines `{"class_id": 207, "tokens": [...]}` of 256 codes of
1,024. It writes an image's mirrored copy or its ten crops as lines of their own and does not say which belong together,
so each line is an image.
"""

import json
from collections.abc import Iterator
from typing import BinaryIO, Literal

import numpy as np

from parti_data.config import Place, StrictModel
from parti_data.progress import show_progress
from parti_data.sources.columns import to_captions
from parti_data.sources.listing import digest_splits, list_splits
from parti_data.sources.text_rows import MAX_LINE_BYTES, split_lines
from parti_data.storage import digest_json, open_file
from parti_data.token_sources.class_names import class_captions, digest_class_names, read_class_names
from parti_data.token_sources.tokenized import (
    NO_CAPTION,
    NO_TOKENS,
    NOT_INTEGERS,
    UNREADABLE,
    Fault,
    Listing,
    TokenizedImage,
    TokenSlice,
)

_BLOCK_BYTES = 4 << 20


class RarSource(StrictModel):
    """Files of JSON lines at a path, in a directory or of a glob."""

    kind: Literal["rar"]
    path: Place
    """A .jsonl file, a directory of them or a glob, as a local path or an fsspec URL."""
    tokens_key: str = "tokens"
    class_key: str = "class_id"
    class_names: str = ""
    """A file of names by class, whose name is then the caption: a line each, or a .json; without, captions are empty.
    """
    caption_key: str = ""
    """Where lines hold a caption, or a list of captions, themselves."""

    def slices(self, images_a_slice: int) -> Listing:
        """Return slices of at most so many lines, for which all lines are counted; raises SourceError."""
        splits = list_splits(self.path, (".jsonl",), "files of JSON lines")
        parts = []
        total = sum(int(split.marker[0]) for split in splits)
        with show_progress("counting lines, of bytes", total) as progress:
            done = 0
            for split in splits:
                with open_file(split.path) as file:
                    for place in _cut_lines(file, images_a_slice):
                        parts.append(place._replace(path=split.path))
                        progress.update(done + place.end)
                done += int(split.marker[0])
        return Listing(parts, digest_json([digest_splits(splits), digest_class_names(self.class_names)]))

    def read(self, part: TokenSlice) -> Iterator[TokenizedImage]:
        """Yield the lines of a slice in order; one that cannot be read has no tokens. Empty lines are none."""
        names = read_class_names(self.class_names) if self.class_names else []
        with open_file(part.path) as file:
            file.seek(part.first)
            lines = split_lines(_Stretch(file, part.end - part.first))  # type: ignore[arg-type]
            for number, line in enumerate(lines, part.row + 1):
                if line is None or line.strip():
                    yield self._read_line(f"{number:08d}", line, names)

    def _read_line(self, source_key: str, line: bytes | None, names: list[str]) -> TokenizedImage:
        stated = _parse(line)
        if isinstance(stated, Fault):
            return TokenizedImage(source_key, stated, None)
        captions = (
            to_captions([stated.get(self.caption_key)]) or Fault(NO_CAPTION, f"no text under {self.caption_key!r}")
            if self.caption_key
            else class_captions(stated.get(self.class_key), names)
        )
        return TokenizedImage(source_key, self._tokens(stated), captions)

    def _tokens(self, stated: dict) -> np.ndarray | Fault:
        codes = stated.get(self.tokens_key)
        if not isinstance(codes, list):
            return Fault(NO_TOKENS, f"no list under {self.tokens_key!r}")
        try:
            if _has_text_or_booleans(codes):  # as an array all would be as wide as the longest text, or integers
                return Fault(NOT_INTEGERS, "a list with text or booleans in it")
            return np.array(codes, None if codes else np.int64)
        except (ValueError, RecursionError):
            return Fault(NOT_INTEGERS, "a list that is no array")


def _has_text_or_booleans(codes: list) -> bool:
    kinds = set(map(type, codes))
    if kinds & {str, bool}:
        return True
    return list in kinds and any(_has_text_or_booleans(part) for part in codes if isinstance(part, list))


class _Stretch:
    """A part of an open file, from where it stands on."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        """Return at most so many bytes, none at the end of the part."""
        block = self._file.read(min(size, self._left))
        self._left -= len(block)
        return block


def _cut_lines(file: BinaryIO, most: int) -> Iterator[TokenSlice]:
    """Yield the places of so many lines each, without a path."""
    start, row, lines, offset = 0, 0, 0, 0
    while block := file.read(_BLOCK_BYTES):
        place = 0
        while lines + block.count(b"\n", place) >= most:
            for _ in range(most - lines):
                place = block.index(b"\n", place) + 1
            yield TokenSlice("", start, offset + place, most, row)
            start, row, lines = offset + place, row + most, 0
        lines += block.count(b"\n", place)
        offset += len(block)
    if offset > start:
        yield TokenSlice("", start, offset, max(lines, 1), row)


def _parse(line: bytes | None) -> dict | Fault:
    if line is None:
        return Fault(UNREADABLE, f"a line of more than {MAX_LINE_BYTES} bytes")
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Fault(UNREADABLE, "a line that is no UTF-8")
    except (ValueError, RecursionError):
        return Fault(UNREADABLE, "a line that is no JSON")
    return value if isinstance(value, dict) else Fault(UNREADABLE, "a line that is no JSON object")
