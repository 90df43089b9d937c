"""A small list of English words of pornography, and the pattern that finds whole words of such a list in a caption.

What the list is: terms that hardly mean anything else, so that a caption with one is dropped without a second look.
What it is not: a judgement of the picture, for which a score such as `punsafe` is there; other languages; words of
anatomy, medicine, nudity in art, swearing, and whatever has an innocent meaning (tits and cocks are birds too).
"""

import re
import unicodedata
from functools import lru_cache

ADULT_WORDS = (
    "ahegao", "anal sex", "bdsm", "bestiality", "blow job", "blowjob", "brazzers", "bukkake", "camgirl",
    "cum shot", "cumshot", "cunnilingus", "deepthroating", "dildo", "facesitting", "fellatio", "fisting", "footjob",
    "futanari", "gang bang", "gangbang", "group sex", "handjob", "hardcore sex", "hentai", "masturbate", "masturbated",
    "masturbating", "masturbation", "nsfw", "oral sex", "paizuri", "porn", "pornhub", "porno", "pornographic",
    "pornography", "pornstar", "rimjob", "sex cam", "sex chat", "sex tape", "sex toy", "sex video", "sexcam",
    "sextape", "shemale", "upskirt", "xhamster", "xvideo", "xxx video", "youporn",
)  # fmt: skip
_ACCENTS = re.compile("[\u0300-\u036f]+")


def find_adult_word(caption: str, more_words: tuple[str, ...] = ()) -> str | None:
    """Return the first word of the list, or of `more_words`, that stands in the caption as a whole; None for none.

    Case, accents and width do not count, and a plural in -s or -es is the word. The words of a term of several stand
    side by side, with a space, hyphen or underscore between.
    """
    found = _pattern(more_words).search(fold(caption))
    return found[0] if found else None


def fold(text: str) -> str:
    """Return the text without its case, accents and width."""
    return _ACCENTS.sub("", unicodedata.normalize("NFKD", text).casefold())


@lru_cache(maxsize=8)
def _pattern(more_words: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern of fixed words: it looks at each place of a text once, whatever the text."""
    words = sorted({" ".join(fold(word).split()) for word in (*ADULT_WORDS, *more_words)})
    fixed = "|".join(re.escape(word).replace(r"\ ", "[ _-]") for word in words)
    return re.compile(rf"(?<![^\W_])(?:{fixed})(?:e?s)?(?![^\W_])")
