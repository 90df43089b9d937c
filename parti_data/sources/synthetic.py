"""The embedded source: synthetic scenes of a seed, with rows spoiled on request in every way that the web knows."""

import io
import struct
import zlib
from collections.abc import Container, Iterator
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import PositiveInt

from parti_data.config import StrictModel
from parti_data.errors import SourceError
from parti_data.images import to_png
from parti_data.scenes import Split, draw_scene, make_scene
from parti_data.sources.pairs import Location, RawPair, SourceSplit, choose_rows
from parti_data.storage import digest_json

SPOILS = (
    "truncated",
    "not_an_image",
    "one_pixel",
    "huge_header",
    "empty_caption",
    "boilerplate_caption",
    "exact_duplicate",
    "same_image_other_caption",
)
"""The kinds of bad row, taken in turn."""
PATH = "synthetic"
"""Stands for a path in a location, whose offset is then the number of the row."""


class SyntheticSource(StrictModel):
    """`num_pairs` scenes of a split, a function of the seed; every `spoil_every`-th row is a bad one."""

    kind: Literal["synthetic"] = "synthetic"
    seed: int = 0
    split: Split = "train"
    num_pairs: int = 1000
    num_objects: Literal[0, 1, 2, 3] = 0
    """0 draws one to three objects by their weights."""
    side_px: int = 64
    spoil_every: int = 0
    """0 spoils nothing."""
    pairs_per_split: PositiveInt = 2000

    def splits(self) -> list[SourceSplit]:
        """Return slices of the rows; raises SourceError where there is none."""
        if self.num_pairs < 1 or self.side_px < 8:
            raise SourceError(
                f"synthetic: expected num_pairs from 1 and side_px from 8 on, found {self.num_pairs} and "
                f"{self.side_px}; change them"
            )
        starts = range(0, self.num_pairs, self.pairs_per_split)
        return [
            SourceSplit(number, PATH, first, min(self.pairs_per_split, self.num_pairs - first))
            for number, first in enumerate(starts)
        ]

    def digest(self, splits: list[SourceSplit] | None = None) -> str:
        """Return a digest of what decides the rows."""
        return digest_json(self.model_dump(mode="json"))

    def read(self, split: SourceSplit, max_image_bytes: int, rows: Container[int] | None = None) -> Iterator[RawPair]:
        """Yield the split's rows in order, with `rows` those of these numbers; no scene is over the limit."""
        for row in choose_rows(range(split.first, split.first + split.count), rows):
            image, caption = self._row(row)
            yield RawPair(f"{row:08d}", Location(PATH, row, len(image)), image, [caption], {})

    def fetch(self, location: Location) -> bytes:
        """Return the bytes of one image, drawn again."""
        return self._row(location.offset)[0]

    def _row(self, row: int) -> tuple[bytes, str]:
        if self.spoil_every and row % self.spoil_every == self.spoil_every - 1:
            return self._spoil(row, SPOILS[row // self.spoil_every % len(SPOILS)])
        return self._scene(row)

    def _scene(self, row: int) -> tuple[bytes, str]:
        scene = make_scene(self.seed, row, self.split, self.num_objects or None)
        return to_png(draw_scene(scene, self.side_px)), scene.caption()

    def _spoil(self, row: int, kind: str) -> tuple[bytes, str]:
        image, caption = self._scene(row)
        before = max(row - 1, 0)
        match kind:
            case "truncated":
                return image[: len(image) // 2], caption
            case "not_an_image":
                return b"<!doctype html><title>404 Not Found</title>", caption
            case "one_pixel":
                return to_png(np.full((1, 1, 3), row % 256, np.uint8)), caption
            case "huge_header":
                return _claim_size(image, 65_000), caption
            case "empty_caption":
                return image, " "
            case "boilerplate_caption":
                return image, f"image {row % 90 + 1} of 90"
            case "exact_duplicate":
                return self._scene(before)
            case _:
                return self._scene(before)[0], f"another picture: {caption}"


def _claim_size(png: bytes, side: int) -> bytes:
    """Return the PNG with a header that claims side x side pixels, its checksum right."""
    width, height = Image.open(io.BytesIO(png)).size
    start = png.index(struct.pack(">II", width, height))
    chunk = png[start - 4 : start] + struct.pack(">II", side, side) + png[start + 8 : start + 13]
    return png[: start - 4] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[start + 17 :]
