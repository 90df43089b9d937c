"""WebDataset tars with a .npy of tokens and a caption in .txt or .json under each key, in any member order.

Conventions are WebDataset's: the key is the member's name up to the first dot of its last part. What other projects
pickle (.pyd, .pth) is not read.
"""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice, pairwise
from typing import BinaryIO, Literal

from pydantic import PositiveInt

from parti_data.config import Place, StrictModel
from parti_data.sources.listing import digest_splits, list_splits
from parti_data.sources.pairs import SourceSplit
from parti_data.sources.unpacked_tar import TAR_ENDINGS, open_tar
from parti_data.sources.webdataset import Members, index_members, read_captions, read_json, read_member
from parti_data.token_sources.npy_tokens import read_npy_tokens
from parti_data.token_sources.tokenized import (
    MAX_IMAGE_BYTES,
    NO_CAPTION,
    NO_TOKENS,
    Fault,
    Listing,
    TokenizedImage,
    TokenSlice,
)


class NpyTarsSource(StrictModel):
    """Tars at a path, in a directory or of a glob."""

    kind: Literal["npy_tars"]
    path: Place
    """A tar, a directory of tars or a glob, as a local path or an fsspec URL; tars may be compressed."""
    tokens_member: str = "npy"
    """What the names of tokens end in, after the key and a dot."""
    max_tar_bytes: PositiveInt = 16 << 30
    """What a compressed tar may unpack to, on the disk of temporary files."""

    def slices(self, images_a_slice: int) -> Listing:
        """Return slices of about so many samples; raises SourceError.

        Samples are counted in the first tar that has any; the others are taken for as densely filled.
        """
        splits = list_splits(self.path, TAR_ENDINGS, "tar files")
        density = next(filter(None, map(self._density, splits)), 0)
        parts = []
        for split in splits:
            num_samples = max(round(density * int(split.marker[0])), 1)
            bounds = [*range(0, num_samples, images_a_slice), num_samples]
            for first, end in pairwise(bounds):
                parts.append(TokenSlice(split.path, first, end if end < num_samples else 0, end - first))
        return Listing(parts, digest_splits(splits))

    def _density(self, split: SourceSplit) -> float:
        """Return samples a byte of a tar."""
        with closing(open_tar(split.path, self.max_tar_bytes)) as file:
            return len(index_members(file, split.path)) / int(split.marker[0])

    def read(self, part: TokenSlice) -> Iterator[TokenizedImage]:
        """Yield the samples of a slice in the order of their first member."""
        with closing(open_tar(part.path, self.max_tar_bytes)) as file:
            samples = index_members(file, part.path)
            for key, members in islice(samples.items(), part.first, part.end or None):
                content = read_member(file, members, self.tokens_member, MAX_IMAGE_BYTES + 1)
                missing = Fault(NO_TOKENS, f"no member .{self.tokens_member}")
                captions = _captions_of(file, members)
                yield TokenizedImage(key, missing if content is None else read_npy_tokens(content), captions)


def _captions_of(file: BinaryIO, members: Members) -> list[str] | Fault | None:
    stated = read_json(file, members)
    if stated.get("captions") == [""] and not read_member(file, members, "txt", 1):
        return None  # as our export writes an image of a source without captions
    return read_captions(file, members, stated) or Fault(NO_CAPTION, "no member .txt or .json with a caption")
