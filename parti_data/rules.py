"""The rules by which a pair is kept: each a pure function of what was measured, thresholds in the config.

A rule returns None, or the Drop with its reason. Rules about the image or its source drop the pair; rules about
captions take the caption away, and drop the pair when none is left.
"""

import hashlib
import math
import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from parti_data.adult_words import find_adult_word, fold
from parti_data.config import StrictModel
from parti_data.held_out import HeldOut
from parti_data.images import Drop
from parti_data.languages import find_other_language, known_languages
from parti_data.ledger import DROPPED, LedgerRow

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
CONTACT = re.compile(
    r"[\w.+-]{1,64}@[\w-]{1,64}\.\w{2,}"  # an address of mail
    r"|(?<!\w)\+?\(?\d{1,4}\)?[\s./-]?\(?\d{2,4}\)?[\s./-]\d{3,4}[\s./-]?\d{2,4}(?!\w)"  # a telephone number
    r"|(?<!\w)(?!1[89]\d\d |20\d\d )\d{1,5}[A-Za-z]? (?:[A-Z][\w'.-]{0,20} ){1,3}"  # a house (and no year)
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Terrace|Drive)\.?,"  # in a street
    r"|, [A-Z]{2},? \d{5}(?:-\d{4})?(?!\w)"  # a state and its ZIP code
    r"|(?<!\w)P\.? ?O\.? Box \d{1,6}(?!\w)"
)
MARKUP = re.compile(r"</?[a-z][^<>]{0,200}>|&(?:[a-z]{2,8}|#\d{1,6});|\[/?(?:img|url|caption)\b", re.IGNORECASE)
"""Tags, entities and the codes of forums."""


_STRIPPED_TIMES = 16


class ScoreRange(StrictModel):
    """What a score may be."""

    min: float | None = None
    max: float | None = None
    required: bool = False
    """Whether a pair without the score is dropped."""


class Rules(StrictModel):
    """Thresholds; a pair is kept when every rule lets it pass. Zeros and empty lists turn a rule off."""

    min_side_px: int = 16
    max_aspect_ratio: float = 2.0
    """Long side over short side. Source: DALL-E, section 2.3, keeps [1/2, 2]."""
    min_bits_per_pixel: float = 0.0
    """Of the file; blank pictures compress to nearly nothing."""
    min_caption_chars: int = 2
    max_caption_chars: int = 2000
    min_caption_words: NonNegativeInt = 0
    """Source: the FIT400M data card drops fewer than 3 tokens."""
    max_caption_words: NonNegativeInt = 0
    boilerplate: list[str] = Field(default_factory=lambda: list(BOILERPLATE))
    """Regular expressions; a caption that one matches as a whole, whatever its case, is dropped."""
    strip: list[str] = Field(default_factory=list)
    """Regular expressions; what one matches at the start or the end of a caption, whatever its case, is cut off first.
    Source: the FIT400M data card strips frequent prefixes and suffixes."""
    max_rows_per_caption: NonNegativeInt = 0
    """A caption that stands in more rows of the source, whatever their images, says nothing of any of them."""
    max_number_share: float = 0.0
    """Largest share of digits among the letters and digits of a caption. Source: the FIT400M data card drops text that
    is mostly numbers."""
    drop_contacts: bool = False
    """Drops captions with an address of mail, a telephone number, or a postal address as English writes it. Source: the
    FIT400M data card."""
    drop_markup: bool = False
    drop_adult_text: bool = False
    """Drops captions with a word of pornography, of a small English list. No substitute for the score `punsafe`, which
    looks at the picture. Source: the FIT400M data card drops adult text, and does not say how it is found."""
    adult_words: list[str] = Field(default_factory=list)
    """Words, or terms of several words, that `drop_adult_text` looks for beside its own."""
    languages: list[str] = Field(default_factory=list)
    """Codes of ISO 639-1, such as en; captions in other languages are dropped. Source: DALL-E, section 2.3, drops what
    cld3 does not call English."""
    min_language_confidence: float = Field(default=0.7, ge=0, le=1)
    """How sure it must be that a caption is in another language. A caption of which less is known is kept, as names and
    captions of one or two words mostly are; at 0 the likeliest language decides, as in DALL-E. Source: 0.7 is the
    FIT400M data card's number, of another classifier."""
    scores: dict[str, ScoreRange] = Field(default_factory=dict)
    """By the name of a field of the source: similarity, punsafe, pwatermark, aesthetic."""
    licences: list[str] = Field(default_factory=list)
    """The licences allowed, as the source's `license` says them."""
    blocked_domains: list[str] = Field(default_factory=list)
    """Hosts of the source's `url`, whatever their case; their subdomains are blocked with them."""
    opt_out: list[str] = Field(default_factory=list)
    """Fields that drop a pair when they are true or say something other than no, none or false."""
    held_out: HeldOut = Field(default_factory=HeldOut)
    """Of what all other rules let pass, the share that is not to be trained on."""

    @field_validator("boilerplate", "strip")
    @classmethod
    def _refuse_bad_patterns(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(rf"^(?:{pattern})$")
            except re.error as error:
                raise ValueError(f"{pattern!r} should be a regular expression ({error})") from None
        return patterns

    @field_validator("languages")
    @classmethod
    def _refuse_unknown_languages(cls, languages: list[str]) -> list[str]:
        if unknown := sorted(set(languages) - known_languages()) if languages else []:
            raise ValueError(f"{unknown[0]!r} should be the code of a language known here, such as en, de or zh")
        return languages

    @field_validator("adult_words")
    @classmethod
    def _refuse_words_without_letters(cls, words: list[str]) -> list[str]:
        for word in words:
            if not any(character.isalnum() for character in fold(word)):
                raise ValueError(f"{word!r} should be a word, of letters or digits")
        return words

    @model_validator(mode="after")
    def _refuse_words_that_nothing_looks_for(self) -> Self:
        if self.adult_words and not self.drop_adult_text:
            raise ValueError("adult_words should stand beside drop_adult_text = true, found false; set it")
        return self

    @field_validator("blocked_domains")
    @classmethod
    def _lower_domains(cls, domains: list[str]) -> list[str]:
        return [domain.lower().strip(".") for domain in domains]

    def fields(self) -> list[str]:
        """Return the fields of a source that these rules look at."""
        return [*self.scores, *(["license"] if self.licences else []), *(["url"] if self.blocked_domains else []),
                *self.opt_out]  # fmt: skip


def caption_hash(caption: str) -> str:
    """Return 16 hex digits that captions share which differ in case alone."""
    return hashlib.sha256(caption.casefold().encode()).hexdigest()[:16]


def judge_row(row: LedgerRow, rules: Rules, repeated: frozenset[str] = frozenset()) -> LedgerRow:
    """Return a measured row with its outcome: dropped with the first reason, or kept with the captions that pass."""
    if row.outcome == DROPPED:
        return row
    if drop := judge_image(row, rules) or judge_origin(row, rules):
        return row._replace(outcome=DROPPED, reason=drop.reason, detail=drop.detail)
    captions: dict[str, None] = {}
    drops: list[Drop] = []
    for caption in row.captions or [""]:
        stripped = strip_caption(caption, rules)
        if drop := _repeated(caption, repeated, rules) or judge_caption(stripped, rules):
            drops.append(drop)
        else:
            captions[stripped] = None
    if not captions:
        return row._replace(outcome=DROPPED, reason=drops[0].reason, detail=drops[0].detail)
    if drop := rules.held_out.judge(row.key, list(captions)):
        return row._replace(outcome=DROPPED, reason=drop.reason, detail=drop.detail)
    return row._replace(captions=list(captions))


def judge_image(row: LedgerRow, rules: Rules) -> Drop | None:
    """Return why the image's size or shape is refused, or None."""
    return _too_small(row, rules) or _too_elongated(row, rules) or _blank(row, rules)


def judge_origin(row: LedgerRow, rules: Rules) -> Drop | None:
    """Return why what the source says of the pair is refused, or None."""
    return _opted_out(row, rules) or _wrong_licence(row, rules) or _blocked(row, rules) or _wrong_score(row, rules)


def judge_caption(caption: str | None, rules: Rules) -> Drop | None:
    """Return why the caption is refused, or None; the caption comes without white space around it."""
    if not caption:
        return Drop("caption_missing")
    return (
        _wrong_length(caption, rules)
        or _boilerplate(caption, rules)
        or _mostly_numbers(caption, rules)
        or _contact(caption, rules)
        or _markup(caption, rules)
        or _adult(caption, rules)
        or _wrong_language(caption, rules)
    )


def strip_caption(caption: str, rules: Rules) -> str:
    """Return the caption without what the `strip` patterns match at its ends, as often as they do, within bounds."""
    for _ in range(_STRIPPED_TIMES):
        before = caption
        for pattern in rules.strip:
            for at_an_end in (rf"^(?:{pattern})\s*", rf"\s*(?:{pattern})$"):
                caption = re.sub(at_an_end, "", caption, flags=re.IGNORECASE).strip()
        if not caption or caption == before:
            break
    return caption


def _too_small(row: LedgerRow, rules: Rules) -> Drop | None:
    if min(row.width, row.height) < rules.min_side_px:
        return Drop("image_too_small", f"{row.width}x{row.height}, at least {rules.min_side_px} px a side")
    return None


def _too_elongated(row: LedgerRow, rules: Rules) -> Drop | None:
    ratio = max(row.width, row.height) / min(row.width, row.height)
    if 0 < rules.max_aspect_ratio < ratio:
        return Drop("image_too_elongated", f"aspect ratio {ratio:.2f}, at most {rules.max_aspect_ratio:g}")
    return None


def _blank(row: LedgerRow, rules: Rules) -> Drop | None:
    bits = 8 * row.num_bytes / (row.width * row.height)
    if bits < rules.min_bits_per_pixel:
        return Drop("image_blank", f"{bits:.3g} bits a pixel, at least {rules.min_bits_per_pixel:g}")
    return None


def _opted_out(row: LedgerRow, rules: Rules) -> Drop | None:
    for name in rules.opt_out:
        text = row.attributes.get(name, "").strip().lower()
        if row.scores.get(name, 0) or text not in ("", "no", "none", "false", "0"):
            return Drop("opted_out", f"{name} {text}".strip()[:80])
    return None


def _wrong_licence(row: LedgerRow, rules: Rules) -> Drop | None:
    number = row.scores.get("license")
    licence = row.attributes.get("license", "" if number is None else f"{number:g}")
    if rules.licences and licence not in rules.licences:
        return Drop("licence_not_allowed", licence[:80] or "none stated")
    return None


def _blocked(row: LedgerRow, rules: Rules) -> Drop | None:
    host = host_of(row.attributes.get("url", "")) if rules.blocked_domains else ""
    if host and any(host == domain or host.endswith(f".{domain}") for domain in rules.blocked_domains):
        return Drop("domain_blocked", host[:80])
    return None


def host_of(url: str) -> str:
    """Return the host of a URL in lower case; empty where there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _wrong_score(row: LedgerRow, rules: Rules) -> Drop | None:
    for name, allowed in rules.scores.items():
        score = row.scores.get(name)
        if score is None:
            if allowed.required:
                return Drop("score_missing", name)
        elif not _is_within(score, allowed):
            return Drop("score_out_of_range", f"{name} {score:g}, from {allowed.min} to {allowed.max}")
    return None


def _is_within(score: float, allowed: ScoreRange) -> bool:
    """Whether the score is in the range; what is not a number is in none."""
    return (
        (allowed.min is None or score >= allowed.min)
        and (allowed.max is None or score <= allowed.max)
        and not (math.isnan(score))
    )


def _wrong_length(caption: str, rules: Rules) -> Drop | None:
    if len(caption) < rules.min_caption_chars:
        return Drop("caption_too_short", f"{len(caption)} characters, at least {rules.min_caption_chars}")
    if 0 < rules.max_caption_chars < len(caption):
        return Drop("caption_too_long", f"{len(caption)} characters, at most {rules.max_caption_chars}")
    words = len(caption.split())
    if words < rules.min_caption_words:
        return Drop("caption_too_short", f"{words} words, at least {rules.min_caption_words}")
    if rules.max_caption_words and words > rules.max_caption_words:
        return Drop("caption_too_long", f"{words} words, at most {rules.max_caption_words}")
    return None


def _boilerplate(caption: str, rules: Rules) -> Drop | None:
    if any(re.fullmatch(pattern, caption, re.IGNORECASE) for pattern in rules.boilerplate):
        return Drop("caption_boilerplate", caption[:80])
    return None


def _repeated(caption: str, repeated: frozenset[str], rules: Rules) -> Drop | None:
    if caption and repeated and caption_hash(caption) in repeated:
        return Drop("caption_repeated", f"beside more than {rules.max_rows_per_caption} rows")
    return None


def _mostly_numbers(caption: str, rules: Rules) -> Drop | None:
    digits = sum(character.isdigit() for character in caption)
    share = digits / max(sum(character.isalnum() for character in caption), 1)
    if 0 < rules.max_number_share < share:
        return Drop("caption_mostly_numbers", f"{share:.0%} digits, at most {rules.max_number_share:.0%}")
    return None


def _contact(caption: str, rules: Rules) -> Drop | None:
    return Drop("caption_with_contact") if rules.drop_contacts and CONTACT.search(caption) else None


def _markup(caption: str, rules: Rules) -> Drop | None:
    found = MARKUP.search(caption) if rules.drop_markup else None
    return Drop("caption_with_markup", found[0][:80]) if found else None


def _adult(caption: str, rules: Rules) -> Drop | None:
    found = find_adult_word(caption, tuple(rules.adult_words)) if rules.drop_adult_text else None
    return Drop("caption_with_adult_text", found[:80]) if found else None


def _wrong_language(caption: str, rules: Rules) -> Drop | None:
    other = find_other_language(caption, rules.languages) if rules.languages else None
    if other and other.confidence >= rules.min_language_confidence:
        return Drop("caption_wrong_language", f"{other.language} {other.confidence:.2f}")
    return None
