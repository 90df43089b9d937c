"""Batches of square pictures: a function of (dataset, seed, step) alone.

A global batch takes its pictures from the endless sequence of epochs, each shuffled anew, and each rank its slice of
it; so the order is the same for any number of ranks, and resuming is starting at a step.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from parti_data.coming_batches import ComingBatches
from parti_data.errors import ConfigError, SourceError
from parti_data.images import Drop, ImageLimits, decode
from parti_data.ledger import KEPT, LedgerRow, PairDirectory
from parti_data.recipes import Box, resize_center
from parti_data.step_times import timed, timed_each

_PLACELESS = LedgerRow("", "", "", KEPT, "", "", "", [], 0, 0, 0, "", "", {}, {}, "", 0, 0)
_CUT_STREAM = 3
_KEY_BYTES = 16
_PLACE_NUMBERS = 3

Cut = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""A random square of uint8 (height, width, 3): uint8 (S, S, 3), for pixels, S and a generator."""


class Images(Protocol):
    """Images that can be listed and read again."""

    limits: ImageLimits

    def kept(self) -> Iterable[LedgerRow]:
        """Return the rows of the images."""
        ...

    def fetch_each(self, rows: Iterable[LedgerRow]) -> Iterator[tuple[LedgerRow, bytes]]:
        """Yield rows with their images, in order."""
        ...


@dataclass(frozen=True)
class Reading:
    """Who reads a dataset, and how: rank of how many, what is cut out of a picture, and batches ahead in threads."""

    rank: int = 0
    world_size: int = 1
    cut: Cut | None = None
    """None: the same centre square each time."""
    num_threads: int = 0
    """0: none is read ahead."""

    def share(self, batch_size: int) -> int:
        """Return how many pictures of a batch are this rank's; raises ConfigError where ranks cannot share it."""
        if batch_size % self.world_size:
            raise ConfigError(
                f"batch_size: expected a multiple of the {self.world_size} ranks, found {batch_size}; change one of "
                "them"
            )
        return batch_size // self.world_size


class ImagePlaces:
    """Keys and places of images, as rows that say nothing else: 40 bytes each, and what their paths take."""

    def __init__(self, rows: Iterable[LedgerRow]):
        self._keys, self._places = bytearray(), array("q")
        paths: dict[str, int] = {}
        for row in rows:
            self._keys += bytes.fromhex(row.key)
            self._places.extend((paths.setdefault(row.path, len(paths)), row.offset, row.size))
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._places) // _PLACE_NUMBERS

    def __getitem__(self, number: int) -> LedgerRow:
        path, offset, size = self._places[_PLACE_NUMBERS * number : _PLACE_NUMBERS * (number + 1)]
        key = self._keys[_KEY_BYTES * number : _KEY_BYTES * (number + 1)].hex()
        return _PLACELESS._replace(key=key, path=self._paths[path], offset=offset, size=size)


class ImageDataset:
    """Pictures uint8 (B, S, S, C), shuffled anew each epoch.

    Each picture is decoded once and kept, as long as all of them fit in `cache_bytes` and no random square is cut;
    otherwise it is decoded each time that it is asked for.
    """

    def __init__(
        self,
        images: str | Images,
        image_side: int,
        batch_size: int,
        seed: int = 0,
        cache_bytes: int = 1 << 30,
        reading: Reading | None = None,
    ):
        self._images = PairDirectory(images) if isinstance(images, str) else images
        self._rows = ImagePlaces(self._images.kept())
        if not len(self._rows):
            raise SourceError(f"{images}: expected kept pairs, found none; see its ledger for the reasons")
        self._image_side, self._batch_size, self._seed = image_side, batch_size, seed
        self._reading = reading or Reading()
        self._share = self._reading.share(batch_size)
        pixels = (len(self._rows), image_side, image_side, 3)
        is_small = np.prod(pixels, dtype=np.int64) <= cache_bytes
        self._cache = np.empty(pixels, np.uint8) if is_small else None
        self._is_cached = np.zeros(len(self._rows), bool)
        self._shuffled = -1, np.empty(0, np.int64)
        self._ahead = ComingBatches(self._load, self._reading.num_threads) if self._reading.num_threads else None

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._rows)

    def batch(self, step: int) -> np.ndarray:
        """Return this rank's slice of batch number `step`, uint8 (B, S, S, C)."""
        return self._ahead.get(step) if self._ahead else self._load(step)

    def close(self) -> None:
        """Let go of the threads that read ahead, and of what they have read."""
        if self._ahead:
            self._ahead.close()

    def keys(self, step: int) -> list[str]:
        """Return the keys of this rank's slice of batch number `step`."""
        return [self._rows[number].key for number in self._order(*self._slice(step))]

    def epoch(self, step: int) -> int:
        """Return the number of the epoch in which batch number `step` begins."""
        return step * self._batch_size // len(self)

    def pictures(self, numbers: np.ndarray | range) -> np.ndarray:
        """Return the centre squares of the pictures with these numbers, uint8 (B, S, S, C)."""
        cache, wanted = self._cache, [int(number) for number in numbers]
        missing = [number for number in dict.fromkeys(wanted) if not self._is_cached[number]]
        loaded = load_pictures(self._images, [self._rows[number] for number in missing], self._image_side)
        found = {number: picture for number, (picture, _) in zip(missing, loaded, strict=True)}
        if cache is None:
            return np.stack([found[number] for number in wanted])
        for number, picture in found.items():
            cache[number] = picture
            self._is_cached[number] = True  # last: another thread may look
        return cache[wanted]

    def _load(self, step: int) -> np.ndarray:
        first, count = self._slice(step)
        numbers = self._order(first, count)
        return self._cut_each(numbers, first) if self._reading.cut else self.pictures(numbers)

    def _cut_each(self, numbers: np.ndarray, first: int) -> np.ndarray:
        """Return a random square of each picture: a function of the seed and of its position in all epochs."""
        assert self._reading.cut
        rows = [self._rows[number] for number in numbers]
        squares = []
        for position, pixels in enumerate(load_pixels(self._images, rows), first):
            with timed("resize"):
                generator = np.random.default_rng([self._seed, position, _CUT_STREAM])
                squares.append(self._reading.cut(pixels, self._image_side, generator))
        return np.stack(squares)

    def _slice(self, step: int) -> tuple[int, int]:
        """Return the first position, in the endless sequence of epochs, and the length of this rank's slice."""
        return step * self._batch_size + self._reading.rank * self._share, self._share

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
        known, order = self._shuffled
        if known != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self))
            self._shuffled = epoch, order
        return order


def load_pictures(images: Images, rows: list[LedgerRow], image_side: int) -> Iterator[tuple[np.ndarray, Box]]:
    """Yield the picture of each kept row, uint8 (S, S, C), and its box."""
    for pixels in load_pixels(images, rows):
        with timed("resize"):
            view = resize_center(pixels, image_side)
        yield view.pixels, view.box


def load_pixels(images: Images, rows: list[LedgerRow]) -> Iterator[np.ndarray]:
    """Yield the whole picture of each kept row, uint8 (height, width, C)."""
    for row, image in timed_each("fetch", images.fetch_each(rows)):
        yield decode_kept(row, image, images.limits)


def decode_kept(row: LedgerRow, image: bytes, limits: ImageLimits) -> np.ndarray:
    """Return the picture of a kept row, uint8 (height, width, C); raises SourceError where there is none any more."""
    with timed("decode"):
        pixels = decode(image, limits)
    if isinstance(pixels, Drop):
        raise SourceError(
            f"{row.path} at {row.offset}: expected image {row.key} as filter read it, found {pixels.detail}; use "
            "the version of Pillow that filter used"
        )
    return pixels
