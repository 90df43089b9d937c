"""Batches of square pictures from kept pairs: a function of (dataset, seed, step) alone."""

import sys
from collections.abc import Iterator

import numpy as np

from parti_data.errors import SourceError
from parti_data.images import Drop, decode
from parti_data.ledger import KEPT, LedgerRow, PairDirectory
from parti_data.recipes import Box, resize_center
from parti_data.step_times import timed, timed_each

_PLACELESS = LedgerRow("", "", "", KEPT, "", "", "", [], 0, 0, 0, "", "", {}, {}, "", 0, 0)


class ImageDataset:
    """Pictures uint8 (B, S, S, C), shuffled anew each epoch.

    Each picture is decoded once and kept, as long as all of them fit in `cache_bytes`; otherwise it is decoded each
    time that it is asked for.
    """

    def __init__(self, path: str, image_side: int, batch_size: int, seed: int = 0, cache_bytes: int = 1 << 30):
        self._pairs = PairDirectory(path)
        self._rows = [_only_place(row) for row in self._pairs.kept()]
        if not self._rows:
            raise SourceError(f"{path}: expected kept pairs, found none; see its ledger for the reasons")
        self._image_side, self._batch_size, self._seed = image_side, batch_size, seed
        pixels = (len(self._rows), image_side, image_side, 3)
        self._cache = np.empty(pixels, np.uint8) if np.prod(pixels, dtype=np.int64) <= cache_bytes else None
        self._is_cached = np.zeros(len(self._rows), bool)
        self._shuffled = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._rows)

    def batch(self, step: int) -> np.ndarray:
        """Return batch number `step`, uint8 (B, S, S, C)."""
        return self.pictures(self._order(step * self._batch_size, self._batch_size))

    def pictures(self, numbers: np.ndarray | range) -> np.ndarray:
        """Return the pictures with these numbers, uint8 (B, S, S, C)."""
        cache, wanted = self._cache, [int(number) for number in numbers]
        missing = [number for number in dict.fromkeys(wanted) if not self._is_cached[number]]
        loaded = load_pictures(self._pairs, [self._rows[number] for number in missing], self._image_side)
        found = {number: picture for number, (picture, _) in zip(missing, loaded, strict=True)}
        if cache is None:
            return np.stack([found[number] for number in wanted])
        for number, picture in found.items():
            cache[number], self._is_cached[number] = picture, True
        return cache[wanted]

    def _order(self, first: int, count: int) -> np.ndarray:
        """Return the numbers of the pictures at `count` positions of the endless sequence of epochs."""
        numbers = []
        while count:
            epoch, position = divmod(first, len(self))
            numbers.append(self._epoch(epoch)[position : position + count])
            first, count = first + len(numbers[-1]), count - len(numbers[-1])
        return np.concatenate(numbers)

    def _epoch(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch; that of the last one asked for is kept."""
        if self._shuffled[0] != epoch:
            self._shuffled = epoch, np.random.default_rng([self._seed, epoch]).permutation(len(self))
        return self._shuffled[1]


def _only_place(row: LedgerRow) -> LedgerRow:
    """Return what fetching takes of a row: 0.3 KB of memory, where a whole one takes one or two."""
    return _PLACELESS._replace(key=row.key, path=sys.intern(row.path), offset=row.offset, size=row.size)


def load_pictures(pairs: PairDirectory, rows: list[LedgerRow], image_side: int) -> Iterator[tuple[np.ndarray, Box]]:
    """Yield the picture of each kept row, uint8 (S, S, C), and its box."""
    for pixels in load_pixels(pairs, rows):
        with timed("resize"):
            view = resize_center(pixels, image_side)
        yield view.pixels, view.box


def load_pixels(pairs: PairDirectory, rows: list[LedgerRow]) -> Iterator[np.ndarray]:
    """Yield the whole picture of each kept row, uint8 (height, width, C)."""
    for row, image in timed_each("fetch", pairs.fetch_each(rows)):
        with timed("decode"):
            pixels = decode(image, pairs.limits)
        if isinstance(pixels, Drop):
            raise SourceError(
                f"{row.path} at {row.offset}: expected image {row.key} as filter read it, found {pixels.detail}; use "
                "the version of Pillow that filter used"
            )
        yield pixels
