"""Which images a source has: each is read through once, and its key and place written down, or why it cannot be used.

The index is a ledger file without captions, judged by no rule. Training on a source without a filter run goes by it. It
is made by one process, which decodes every image, and is published whole: stopped before, it begins anew. So for
millions of images run filter first, which goes on where it stopped.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from parti_data.errors import SourceError
from parti_data.image_dataset import Images
from parti_data.images import NO_HEADER, Drop, ImageLimits, image_key, inspect
from parti_data.ledger import DROPPED, KEPT, ImageReader, LedgerRow, read_ledger, write_ledger
from parti_data.progress import show_progress
from parti_data.sources.pairs import PairSource, RawPair, SourceSplit
from parti_data.storage import file_marker, is_file

_WAITING_PER_THREAD = 8


class IndexedImages(ImageReader):
    """The images of a source by its index."""

    def __init__(self, path: str, source: PairSource, limits: ImageLimits):
        super().__init__(source, limits)
        self.path = path

    def kept(self) -> Iterator[LedgerRow]:
        """Yield the rows of the images that can be used."""
        return (row for row in read_ledger(self.path) if row.outcome == KEPT)

    def dropped(self) -> Counter[str]:
        """Return how many images cannot be used, by reason."""
        return Counter(row.reason for row in read_ledger(self.path) if row.outcome == DROPPED)

    def __str__(self) -> str:
        return self.path


class ChosenImages:
    """Those images whose keys are chosen, at most so many: by keys, all copies of an image are chosen or none."""

    def __init__(self, images: Images, is_chosen: Callable[[str], bool], at_most: int | None = None):
        self._images, self._is_chosen, self._at_most = images, is_chosen, at_most
        self.limits = images.limits

    def kept(self) -> Iterator[LedgerRow]:
        """Yield their rows."""
        return islice((row for row in self._images.kept() if self._is_chosen(row.key)), self._at_most)

    def fetch_each(self, rows: Iterable[LedgerRow]) -> Iterator[tuple[LedgerRow, bytes]]:
        """Yield rows with their images, in order."""
        return self._images.fetch_each(rows)

    def __str__(self) -> str:
        return str(self._images)


def index_images(path: str, source: PairSource, limits: ImageLimits, num_threads: int) -> None:
    """Write the index of a source, unless it is there; raises SourceError where a file of it is broken or changes."""
    if is_file(path):
        return
    splits = source.splits()
    with show_progress("index images", len(splits)) as bar, ThreadPoolExecutor(num_threads) as pool:

        def rows() -> Iterator[LedgerRow]:
            total = 0
            for number, split in enumerate(splits):
                for row in _index_split(split, source, limits, pool, num_threads):
                    yield row
                    total += 1
                    bar.update(number, f"{total} images")

        write_ledger(path, rows())


def _index_split(
    split: SourceSplit, source: PairSource, limits: ImageLimits, pool: ThreadPoolExecutor, num_threads: int
) -> Iterator[LedgerRow]:
    """Yield a row for each image of a split, in order; images are decoded in threads, few of them held."""
    waiting: deque[Future[LedgerRow]] = deque()
    for pair in source.read(split, limits.max_bytes):
        waiting.append(pool.submit(index_image, pair, split.path, limits))
        if len(waiting) > _WAITING_PER_THREAD * num_threads:
            yield waiting.popleft().result()
    yield from (future.result() for future in waiting)
    if split.marker and not split.count and tuple(file_marker(split.path)) != split.marker:
        raise SourceError(
            f"{split.path}: expected the file as it was when the run began, found it changed since; let it come to "
            "rest and start again"
        )


def index_image(pair: RawPair, source: str, limits: ImageLimits) -> LedgerRow:
    """Return the row of one image: where it lies, or why it is dropped."""
    header, found = inspect(pair.image, limits, 1) if pair.image is not None else (NO_HEADER, Drop("image_missing"))
    drop = found if isinstance(found, Drop) else None
    is_whole = pair.image is not None and len(pair.image) == pair.location.size
    return LedgerRow(
        key=image_key(pair.image) if pair.image is not None and is_whole else "",
        source=source,
        source_key=pair.source_key,
        outcome=DROPPED if drop else KEPT,
        reason=drop.reason if drop else "",
        detail=drop.detail if drop else "",
        merged_into="",
        captions=[],
        width=header.width,
        height=header.height,
        num_bytes=pair.location.size,
        format=header.format,
        perceptual_hash="",
        scores={},
        attributes={},
        path=pair.location.path,
        offset=pair.location.offset,
        size=pair.location.size,
    )
