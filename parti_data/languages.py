"""How sure a packaged model is that a caption is in another language; offline, a pure function of the text.

The model of py3langid lies in its wheel as plain arrays, knows 114 languages by their codes of ISO 639-1, takes half a
second and 100 MiB to load, once a process and only when it is asked, and then 0.06 ms a caption; any thread may ask.

Few words say little: "bond" could be in any of fifty languages, and the model says so by giving each a few percent.
The likeliest language alone is therefore a bad witness: DALL-E's classifier, cld3, calls 77% of PartiPrompts' prompts
of one to three words, and 14% of the longer ones, something else than English. On the other hand languages that
resemble each other share what is sure: "Flores amarelas no campo" is Galician or Portuguese, and surely not English. So
confidence is what the three likeliest of the other languages have together. tests/benchmarks/languages.py measures it,
and names the packages that were compared.
"""

import threading
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

from py3langid.langid import MODEL_FILE, LanguageIdentifier

RESEMBLING = 3
"""How many languages share the confidence: where 1% of English captions is lost, three miss 0.3% of those in others,
one alone 3.8%."""
_LOADING = threading.Lock()


class OtherLanguage(NamedTuple):
    """The likeliest language that is not asked for, and how sure it is that the caption is in it or one like it."""

    language: str
    confidence: float
    """In hundredths, from 0 to 1: further digits differ between processors."""


def find_other_language(caption: str, languages: Collection[str]) -> OtherLanguage | None:
    """Return what other language a caption is in, or None where one of `languages` is the likeliest."""
    ranked = load_model().rank(caption)
    if ranked[0][0] in languages:
        return None
    others = [share for language, share in ranked if language not in languages][:RESEMBLING]
    return OtherLanguage(ranked[0][0], round(sum(others), 2))


def known_languages() -> frozenset[str]:
    """Return the codes of ISO 639-1 that the model knows."""
    return frozenset(load_model().labels)


def load_model() -> LanguageIdentifier:
    """Return the model, one a process; its `rank` gives every language its share, the likeliest first."""
    with _LOADING:
        return _load_once()


@lru_cache(maxsize=1)
def _load_once() -> LanguageIdentifier:
    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages([label for label in model.labels if len(label) == 2])
    return model
