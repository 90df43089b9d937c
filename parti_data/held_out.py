"""Which pairs are held out of training: a share of all, by their images' keys or by what their captions name.

A side is decided by a hash of the pair alone, so it is the same in every run, and whatever else a source holds.
"""

import hashlib
import re
from typing import Literal

from pydantic import Field, field_validator

from parti_data.config import StrictModel
from parti_data.images import Drop

HELD_OUT, FOR_TRAINING = "held_out", "for_training"
"""Why a pair is dropped that is on the other side."""
_HASH_BITS = 32


class HeldOut(StrictModel):
    """A share of the pairs that is not to be trained on, and which side is kept."""

    share: float = Field(default=0.0, ge=0, lt=1)
    """Of the images, or of what their captions name; 0: nothing is held out and all is kept."""
    keep: Literal["training", "held_out"] = "training"
    variants: list[str] = Field(default_factory=list)
    """Regular expressions for what tells variants of one motif apart in a caption, such as ": .*" in "judge: dark skin
    tone". Pairs whose first captions are equal without it, but for case, commas and white space, lie on one side; so an
    image beside several captions may lie on both. Without any, images decide by their keys: copies lie on one side,
    variants on either."""

    @field_validator("variants")
    @classmethod
    def _refuse_bad_patterns(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} should be a regular expression ({error})") from None
        return patterns

    def judge(self, key: str, captions: list[str]) -> Drop | None:
        """Return why a pair is not on the side that is kept, or None."""
        if not self.share:
            return None
        name = self.motif(captions[0]) if self.variants else ""
        luck = hashlib.sha256(name.encode()).hexdigest() if self.variants else key
        found = is_held_out(luck, self.share)
        if found == (self.keep == "held_out"):
            return None
        return Drop(HELD_OUT if found else FOR_TRAINING, name[:80])

    def motif(self, caption: str) -> str:
        """Return what a caption names, whichever variant of it."""
        for pattern in self.variants:
            caption = re.sub(pattern, " ", caption, flags=re.IGNORECASE)
        return " ".join(caption.replace(",", " ").casefold().split())


def is_held_out(key: str, share: float) -> bool:
    """Whether a key, or any other hash in hex, belongs to the held-out share, by its last bits."""
    return int(key[-_HASH_BITS // 4 :], 16) < share * 2**_HASH_BITS
