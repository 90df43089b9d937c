import time
import tracemalloc
import unicodedata

import pytest
from hostile_captions import CAPTIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from parti_data.captions import MAX_CAPTION_CHARS, clean_caption

ODD = (
    "ab \n\t\0\xad\u200b\u200c\u200d\u0301\u0327\u0316\ufe0f😀❤👩\u0645\u06cc\u094d\u0915\u2800\u1160\u1100\u1161"
    "\u202e\ufeff\u2000\ufb2c\U000e0041\U0001f3f4\U000e0067\U000e007f\ud83d\ude00\ue000\ufdd0"
)


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_becomes_what_can_be_seen_of_it(name):
    content, expected = CAPTIONS[name]
    assert clean_caption(content.decode("utf-8", "replace")) == expected


def test_halves_of_a_surrogate_pair_are_joined_or_replaced():
    assert clean_caption("\ud83d\ude00 \ud83d \ude00") == "😀 \ufffd \ufffd"


@pytest.mark.parametrize(
    "unit", ["x", " ", "\u200d", "\0", "a\u0301\u0327", "\u0f71\u0f74", "\u200d\ufe0f", "👩\u200d", "\ud83d"]
)
def test_ten_megabytes_cost_milliseconds_and_next_to_no_memory(unit):
    text = unit * (10_000_000 // len(unit))
    clean_caption(text[:100])
    tracemalloc.start()
    began = time.process_time()
    try:
        cleaned = clean_caption(text)
        taken_s = time.process_time() - began
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert len(cleaned) <= MAX_CAPTION_CHARS
    assert taken_s < 2  # milliseconds; the rest is for tracing on a busy machine


@settings(max_examples=500, derandomize=True, deadline=None, database=None)
@given(st.one_of(st.text(st.characters(), max_size=60), st.text(st.sampled_from(ODD), max_size=30)))
def test_a_clean_caption_is_clean(text):
    cleaned = clean_caption(text)
    assert clean_caption(cleaned) == cleaned
    assert cleaned == " ".join(cleaned.split())
    assert unicodedata.is_normalized("NFC", cleaned)
    assert cleaned.encode().decode() == cleaned
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Co") for character in cleaned)
    assert not set(cleaned) & set("\u200b\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\xad")
