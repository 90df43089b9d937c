"""What every token source speaks: slices that say where to read, and the tokenized images read from them."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

MAX_IMAGE_BYTES = 16 << 20
"""Of the file or the line of one image's tokens; ten crops of 64x64 tokens in 64 bits take 320 KiB."""
UNREADABLE, NOT_INTEGERS, NO_TOKENS, NO_CAPTION = "unreadable", "not_integers", "no_tokens", "no_caption"
WRONG_SHAPE, NEGATIVE, OUTSIDE_CODEBOOK = "wrong_shape", "negative_code", "outside_codebook"
"""Why an image's tokens are dropped."""


class TokenSlice(NamedTuple):
    """A part of a source that one worker reads as a stream."""

    path: str
    """A file, or a folder of files."""
    first: int
    end: int
    """What of it, from `first` to before `end`: rows, bytes or samples; 0 is the end of the file."""
    num_images: int
    """About how many images it has."""
    row: int = 0
    """The number of its first row, where `first` does not tell it."""
    names: tuple[str, ...] = ()
    """Of the files in a folder."""


class Listing(NamedTuple):
    """What there is to read, and a digest of it."""

    slices: list[TokenSlice]
    digest: str

    @property
    def num_images(self) -> int:
        """About how many images there are."""
        return sum(part.num_images for part in self.slices)


class Fault(NamedTuple):
    """Why an image's tokens cannot be taken."""

    reason: str
    detail: str


class TokenizedImage(NamedTuple):
    """One image as the source has it."""

    source_key: str
    tokens: np.ndarray | Fault
    """Of any shape and type: they are judged later."""
    captions: list[str] | Fault | None
    """None where the source has no captions at all."""
    flipped: tuple[bool, ...] = ()
    """Which views show it mirrored, where the source knows; none stands for none of them."""


def writable_name(name: str) -> str:
    """Return the name of a file or a key as it can be written: what is no UTF-8 in it is spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()


class ReadsTokens(Protocol):
    """What each kind of source can do; a config's `source` table is one."""

    path: str

    def slices(self, images_a_slice: int) -> Listing:
        """Return slices of about so many images; raises SourceError where there is none."""
        ...

    def read(self, part: TokenSlice) -> Iterator[TokenizedImage]:
        """Yield the images of a slice in order."""
        ...
