"""A directory that `parti sample` finished: samples with their prompts, and their pictures, decoded within limits."""

import io
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.sampling.sample_files import TABLE
from parti_data.errors import ShardError
from parti_data.images import Drop, ImageLimits, decode
from parti_data.manifest import manifest_digest, read_manifest
from parti_data.storage import join, read_bytes, read_range

_COLUMNS = ("prompt", "category", "sample", "picture")
_CHALLENGE = "challenge"
"""A column that directories of older versions have not."""


class Sample(NamedTuple):
    """One generated image."""

    prompt: str
    category: str
    challenge: str
    number: int
    """Among those of its prompt."""
    picture: str
    """The name of its file."""


class SampleDirectory:
    """The samples in the order of their prompts; raises ShardError where the directory is none of sample's."""

    def __init__(self, path: str):
        self.path, self.digest = path, manifest_digest(path)
        self._listed = {shard.name for shard in read_manifest(path, ("sample",)).shards}
        self.samples = self._read()
        if not self.samples:
            raise ShardError(f"{path}: expected samples, found none; run sample into a new directory")
        self.side_px = len(self._decoded(self.samples[0]))

    def _read(self) -> list[Sample]:
        place = join(self.path, TABLE)
        try:
            table = pq.ParquetFile(io.BytesIO(read_bytes(place)))
            names = [*_COLUMNS, *([_CHALLENGE] if _CHALLENGE in table.schema_arrow.names else [])]
            rows = table.read(columns=names).to_pylist()
            return [
                Sample(row["prompt"], row["category"], row.get(_CHALLENGE, ""), row["sample"], row["picture"])
                for row in rows
            ]
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

    def pixels(self, sample: Sample) -> np.ndarray:
        """Return a picture, uint8 (S, S, 3); raises ShardError where there is none, or one of another side."""
        pixels = self._decoded(sample)
        if len(pixels) != self.side_px:
            raise ShardError(
                f"{join(self.path, sample.picture)}: expected {self.side_px} px like the first picture, found "
                f"{len(pixels)}; run sample into a new directory"
            )
        return pixels

    def _decoded(self, sample: Sample) -> np.ndarray:
        pixels = decode(self.content(sample), ImageLimits())
        if isinstance(pixels, Drop) or pixels.shape[0] != pixels.shape[1]:
            found = pixels.detail if isinstance(pixels, Drop) else f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
            raise ShardError(
                f"{join(self.path, sample.picture)}: expected a square picture, found {found}; run sample into a new "
                "directory"
            )
        return pixels
