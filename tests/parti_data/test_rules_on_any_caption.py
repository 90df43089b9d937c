import time

import pytest
from hostile_captions import CAPTIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from parti_data.captions import MAX_CAPTION_CHARS, clean_caption
from parti_data.rules import Rules, judge_caption, strip_caption

STRICT = Rules(
    min_caption_chars=0, max_caption_chars=0, max_number_share=1, drop_contacts=True, drop_markup=True,
    drop_adult_text=True, adult_words=["x"], languages=["en"], strip=["jpe?g"], max_caption_words=9000,
)  # fmt: skip
PIECES = [
    "a", "1", "12 Main ", "1969 Abbey Road, ", "+1 (555) 12", ".", "@", "a@b.c", "<a", "</", "&amp", "[img", "porn",
    "sex ", "cum-", " ", "-", "_", ", IL 6270", "P.O. Box ", "photographed on ", "image 1 of ", "雪", "é", "\u0301",
    "ﷺ", "ẞ", "İ", "😀", "Ein Hund ", "\ufffd", "क्", "\u200d",
]  # fmt: skip


@settings(max_examples=500, derandomize=True, deadline=None, database=None)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
def test_every_caption_is_kept_or_dropped_with_a_reason_of_its_own(text):
    for caption in (text, clean_caption(text)):
        drop = judge_caption(strip_caption(caption, STRICT), STRICT)
        assert drop == judge_caption(strip_caption(caption, STRICT), STRICT)
        assert drop is None or (drop.reason.startswith("caption_") and len(drop.detail) <= 80)


@pytest.mark.parametrize("name", CAPTIONS)
def test_hostile_captions_are_judged(name):
    judge_caption(clean_caption(CAPTIONS[name][0].decode("utf-8", "replace")), STRICT)


@pytest.mark.parametrize("piece", PIECES)
def test_the_time_for_a_caption_grows_with_its_length_and_no_faster(piece):
    def seconds(num_chars: int) -> float:
        caption = (piece * num_chars)[:num_chars]
        times = []
        for _ in range(3):
            began = time.process_time()
            for rules in RULES:
                judge_caption(caption, rules)
            times.append(time.process_time() - began)
        return min(times)

    judge_caption("a", STRICT)  # loads the model
    assert seconds(MAX_CAPTION_CHARS) < 16 * seconds(MAX_CAPTION_CHARS // 8) + 0.02
    assert seconds(MAX_CAPTION_CHARS) < 0.25


RULES = [
    Rules(min_caption_chars=0, max_caption_chars=0, boilerplate=[], **rule)
    for rule in (
        {},
        {"max_number_share": 0.99},
        {"drop_contacts": True},
        {"drop_markup": True},
        {"drop_adult_text": True},
        {"languages": ["en"]},
    )
] + [Rules(min_caption_chars=0, max_caption_chars=0)]
"""Each rule alone, so that no other drops the caption first."""
