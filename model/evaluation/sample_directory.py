"""A directory that `parti sample` finished: samples with their prompts, and their pictures, read within limits."""

from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.sampling.sample_files import TABLE
from parti_data.errors import ShardError
from parti_data.images import Drop, ImageLimits, decode
from parti_data.manifest import manifest_digest, read_manifest
from parti_data.storage import join, open_scattered, read_range

_COLUMNS = ("prompt", "category", "sample", "picture")
_LATER = ("challenge", "score", "rank")
"""Columns that directories of older versions have not."""
_MAX_TABLE_BYTES, _MAX_FOOTER_BYTES = 1 << 28, 1 << 26
"""Of these columns, unpacked, and of what lists their parts: a million samples take less."""
_BATCH_ROWS = 1024
_TAIL_BYTES, _MAGIC = 8, b"PAR1"
"""A Parquet file ends with the length of its footer and these letters."""


class Sample(NamedTuple):
    """One generated image."""

    prompt: str
    category: str
    challenge: str
    number: int
    """Among those of its prompt."""
    picture: str
    """The name of its file."""
    score: float | None = None
    rank: int | None = None
    """1 for the best of its prompt; None where samples were not ranked."""


class SampleDirectory:
    """The samples that were kept, in the order of their prompts; raises ShardError where the directory is none of
    sample's.
    """

    def __init__(self, path: str):
        self.path, self.digest = path, manifest_digest(path)
        self._listed = {shard.name for shard in read_manifest(path, ("sample",)).shards}
        drawn = self._read()
        self.num_drawn = len(drawn)
        self.samples = [sample for sample in drawn if sample.picture]
        if not self.samples:
            raise ShardError(f"{path}: expected samples, found none; run sample into a new directory")
        self.side_px = len(self._decoded(self.samples[0], self.content(self.samples[0])))

    def _read(self) -> list[Sample]:
        place = join(self.path, TABLE)
        try:
            with open_scattered(place) as file:
                return _read_samples(file, place)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise ShardError(
                f"{place}: expected a table with {', '.join(_COLUMNS)}, found {error}; run sample into a new directory"
            ) from None

    def content(self, sample: Sample) -> bytes:
        """Return a picture's file; raises ShardError for one that the manifest does not list."""
        if sample.picture not in self._listed:
            raise ShardError(
                f"{self.path}: expected pictures that its manifest lists, found {sample.picture[:80]!r}; run sample "
                "into a new directory"
            )
        return read_range(join(self.path, sample.picture), 0, ImageLimits().max_bytes + 1)

    def checked_content(self, sample: Sample) -> bytes:
        """Return a picture's file; raises ShardError as `pixels` does."""
        content = self.content(sample)
        self._refuse_other_side(sample, self._decoded(sample, content))
        return content

    def pixels(self, sample: Sample) -> np.ndarray:
        """Return a picture, uint8 (S, S, 3); raises ShardError where there is none, or one of another side."""
        pixels = self._decoded(sample, self.content(sample))
        self._refuse_other_side(sample, pixels)
        return pixels

    def _refuse_other_side(self, sample: Sample, pixels: np.ndarray) -> None:
        if len(pixels) != self.side_px:
            raise ShardError(
                f"{join(self.path, sample.picture)}: expected {self.side_px} px like the first picture, found "
                f"{len(pixels)}; run sample into a new directory"
            )

    def _decoded(self, sample: Sample, content: bytes) -> np.ndarray:
        pixels = decode(content, ImageLimits())
        if isinstance(pixels, Drop) or pixels.shape[0] != pixels.shape[1]:
            found = pixels.detail if isinstance(pixels, Drop) else f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
            raise ShardError(
                f"{join(self.path, sample.picture)}: expected a square picture, found {found}; run sample into a new "
                "directory"
            )
        return pixels


def _read_samples(file: BinaryIO, place: str) -> list[Sample]:
    """Return the rows of a table that may be anyone's; raises ShardError where they would take too much memory."""
    file.seek(max(file.seek(0, 2) - _TAIL_BYTES, 0))
    tail = file.read(_TAIL_BYTES)
    if tail[4:] == _MAGIC:  # what ends otherwise is refused without being read
        _refuse_larger(int.from_bytes(tail[:4], "little"), _MAX_FOOTER_BYTES, "footer", place)
    table = pq.ParquetFile(file)
    names = [*_COLUMNS, *(name for name in _LATER if name in table.schema_arrow.names)]
    groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    unpacked = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in names)
    _refuse_larger(unpacked, _MAX_TABLE_BYTES, "table", place)
    samples: list[Sample] = []
    num_bytes = 0
    for batch in table.iter_batches(_BATCH_ROWS, columns=names):
        num_bytes += batch.nbytes  # of a repeated text a column holds one
        _refuse_larger(num_bytes, _MAX_TABLE_BYTES, "table", place)
        samples += [
            Sample(
                row["prompt"], row["category"], row.get("challenge", ""), row["sample"], row["picture"],
                row.get("score"), row.get("rank"),
            )
            for row in batch.to_pylist()
        ]  # fmt: skip
    return samples


def _refuse_larger(num_bytes: int, at_most: int, what: str, place: str) -> None:
    if num_bytes > at_most:
        raise ShardError(
            f"{place}: expected a {what} of at most {at_most >> 20} MiB, found {num_bytes >> 20}; sample fewer prompts "
            "into a directory"
        )
