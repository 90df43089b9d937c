"""Captions of strangers to plain text of bounded length: nothing invisible, one form for each character, single spaces.

A pure function of the text; rules, tokenizers and hashes see only what leaves it.
"""

import re
import unicodedata

MAX_CAPTION_CHARS = 8192
"""What follows is cut off, before anything else looks at the text."""
MAX_MARKS = 8
"""Accents on one letter; more are a game, and sorting them takes the square of their number."""
_EMOJI = "\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_JOINING = "\u0600-\u109f\u1780-\u18af\u1a00-\u1cff\ua800-\uabff\U00010a00-\U00011fff"
"""Arabic, the scripts of India and their neighbours, whose letters joiners shape."""
_BLANK_BRAILLE = "\u2800"
_INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # control characters that are no white space
    "\xad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # no width
    "\u3164\uffa0\ufff9-\ufffb\ufffe\uffff\ufdd0-\ufdef\ue000-\uf8ff\U000f0000-\U0010ffff]"  # fillers, private use
)
_TAGS = re.compile("(\U0001f3f4[\U000e0020-\U000e007e]{2,8}\U000e007f)|[\U000e0000-\U000e007f]")
"""Flags of regions spell their name in tags; elsewhere tags hide text."""
_LONE_SELECTORS = re.compile("(?<!\\S)[\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
_LONE_JOINERS = re.compile(
    f"(?<![{_JOINING}])\u200c|\u200c(?![{_JOINING}])"
    f"|(?<![{_JOINING}{_EMOJI}\ufe0f])\u200d|\u200d(?![{_JOINING}{_EMOJI}])"
)
_MARK = (
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
)
_ROUNDS = 4
_MANY_MARKS = re.compile(f"({_MARK}{{{MAX_MARKS}}}){_MARK}+")


def clean_caption(text: str) -> str:
    """Return a caption as it is kept: at most `MAX_CAPTION_CHARS` characters, in NFC, that can be written as UTF-8.

    Control characters, marks of direction and what has no width are gone, but for joiners inside emoji and between
    letters that they shape; half a surrogate pair becomes the replacement character; white space is single spaces.
    """
    text = text[:MAX_CAPTION_CHARS]
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = _TAGS.sub(lambda found: found[1] or "", _INVISIBLE.sub("", text.replace(_BLANK_BRAILLE, " ")))
    text = _MANY_MARKS.sub(r"\1", text)
    for _ in range(_ROUNDS):  # what goes may bring others together
        text = unicodedata.normalize("NFC", _LONE_JOINERS.sub("", _LONE_SELECTORS.sub("", text)))
    return " ".join(text[:MAX_CAPTION_CHARS].split())
