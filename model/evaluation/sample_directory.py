"""A directory that `parti sample` finished: samples with their prompts, and their pictures, read within limits."""

import hashlib
import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from model.sampling.sample_files import TABLE
from parti_data.errors import ShardError
from parti_data.images import Drop, ImageLimits, decode
from parti_data.manifest import manifest_digest, read_manifest
from parti_data.small_tables import read_rows
from parti_data.storage import join, read_range

_COLUMNS = pa.schema(
    [
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("sample", pa.int64(), nullable=False),
        pa.field("picture", pa.string(), nullable=False),
    ]
)
_LATER = pa.schema(
    [
        pa.field("challenge", pa.string(), nullable=False),
        pa.field("rank", pa.int64()),
        pa.field("given_rows", pa.int64(), nullable=False),
        pa.field("given_key", pa.string(), nullable=False),
    ]
)
"""Columns that directories of older versions have not."""
_TOKENS = pa.schema([pa.field("image_tokens", pa.list_(pa.int64()), nullable=False)])


class Sample(NamedTuple):
    """One generated image."""

    prompt: str
    category: str
    challenge: str
    number: int
    """Among those of its prompt."""
    picture: str
    """The name of its file."""
    rank: int | None = None
    """1 for the best of its prompt; None where samples were not ranked."""
    given_rows: int = 0
    """Rows of the token grid that were given, not drawn."""
    given_key: str = ""
    """The content key of the picture that they are of; empty where none was given."""


class SampleDirectory:
    """The samples that were kept, in the order of their prompts; raises ShardError where the directory is none of
    sample's.
    """

    def __init__(self, path: str):
        self.path, self.digest = path, manifest_digest(path)
        self._digests = {shard.name: shard.sha256 for shard in read_manifest(path, ("sample",)).shards}
        drawn = self._read()
        self.num_drawn = len(drawn)
        self.samples = [sample for sample in drawn if sample.picture]
        if not self.samples:
            raise ShardError(f"{path}: expected samples, found none; run sample into a new directory")
        self.side_px = len(self._decoded(self.samples[0], self.content(self.samples[0])))

    def _read(self) -> list[Sample]:
        rows = read_rows(join(self.path, TABLE), "sample", _COLUMNS, _LATER)
        return [
            Sample(
                row["prompt"],
                row["category"],
                row.get("challenge", ""),
                row["sample"],
                row["picture"],
                row.get("rank"),
                row.get("given_rows", 0),
                row.get("given_key", ""),
            )
            for row in rows
        ]

    def grid_side(self) -> int:
        """Return the rows of a token grid; raises ShardError where the tokens make none."""
        path = join(self.path, TABLE)
        num_tokens = len(next(read_rows(path, "sample", _TOKENS))["image_tokens"])
        side = math.isqrt(num_tokens)
        if not num_tokens or side**2 != num_tokens:
            raise ShardError(
                f"{path}: expected image tokens of a square grid, found {num_tokens}; run sample into a new directory"
            )
        return side

    def content(self, sample: Sample) -> bytes:
        """Return a picture's file; raises ShardError where it is not the one that the manifest lists."""
        if sample.picture not in self._digests:
            raise ShardError(
                f"{self.path}: expected pictures that its manifest lists, found {sample.picture[:80]!r}; run sample "
                "into a new directory"
            )
        path = join(self.path, sample.picture)
        try:
            content = read_range(path, 0, ImageLimits().max_bytes + 1)
        except OSError as error:
            raise ShardError(
                f"{path}: expected a picture, found none ({error.strerror}); run sample into a new directory"
            ) from None
        if hashlib.sha256(content).hexdigest() != self._digests[sample.picture]:
            raise ShardError(
                f"{path}: expected the picture that sample wrote, found other bytes; run sample into a new directory"
            )
        return content

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
