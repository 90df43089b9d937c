"""The rules by which a pair is kept: each a pure function that returns None or the Drop, thresholds in the config."""

import re

from pydantic import Field, field_validator

from parti_data.config import StrictModel
from parti_data.images import Drop, ImageHeader

BOILERPLATE = (
    r"image \d+ of \d+",
    r"free png download",
    r"jpe?g",
    r"photographed on .{0,40}",
    r"image not available",
)
"""Captions that say nothing of the picture.

Source: the FIT400M data card (frequent prefixes and suffixes); DALL-E, arXiv 2102.12092v2, section 2.3.
"""


class Rules(StrictModel):
    """Thresholds; a pair is kept when every rule lets it pass."""

    min_side_px: int = 16
    max_aspect_ratio: float = 2.0
    """Long side over short side. Source: DALL-E, section 2.3, keeps [1/2, 2]."""
    min_caption_chars: int = 2
    max_caption_chars: int = 2000
    boilerplate: list[str] = Field(default_factory=lambda: list(BOILERPLATE))
    """Regular expressions; a caption that one matches as a whole, whatever its case, is dropped."""

    @field_validator("boilerplate")
    @classmethod
    def _refuse_bad_patterns(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} should be a regular expression ({error})") from None
        return patterns


def judge_image(header: ImageHeader, rules: Rules) -> Drop | None:
    """Return why the image's size or shape is refused, or None."""
    return _too_small(header, rules) or _too_elongated(header, rules)


def judge_caption(caption: str | None, rules: Rules) -> Drop | None:
    """Return why the caption is refused, or None; the caption comes without white space around it."""
    if not caption:
        return Drop("caption_missing")
    return _wrong_length(caption, rules) or _boilerplate(caption, rules)


def _too_small(header: ImageHeader, rules: Rules) -> Drop | None:
    if min(header.width, header.height) < rules.min_side_px:
        return Drop("image_too_small", f"{header.width}x{header.height}, at least {rules.min_side_px} px a side")
    return None


def _too_elongated(header: ImageHeader, rules: Rules) -> Drop | None:
    ratio = max(header.width, header.height) / min(header.width, header.height)
    if ratio > rules.max_aspect_ratio:
        return Drop("image_too_elongated", f"aspect ratio {ratio:.2f}, at most {rules.max_aspect_ratio:g}")
    return None


def _wrong_length(caption: str, rules: Rules) -> Drop | None:
    if len(caption) < rules.min_caption_chars:
        return Drop("caption_too_short", f"{len(caption)} characters, at least {rules.min_caption_chars}")
    if len(caption) > rules.max_caption_chars:
        return Drop("caption_too_long", f"{len(caption)} characters, at most {rules.max_caption_chars}")
    return None


def _boilerplate(caption: str, rules: Rules) -> Drop | None:
    if any(re.fullmatch(pattern, caption, re.IGNORECASE) for pattern in rules.boilerplate):
        return Drop("caption_boilerplate", caption[:80])
    return None
