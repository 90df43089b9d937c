import pytest
from pydantic import ValidationError

from parti_data.images import Drop
from parti_data.ledger import LedgerRow
from parti_data.rules import (
    Rules,
    ScoreRange,
    caption_hash,
    host_of,
    judge_caption,
    judge_image,
    judge_origin,
    judge_row,
    strip_caption,
)


def row(width: int = 64, height: int = 64, **changes) -> LedgerRow:
    measured = LedgerRow(
        "00" * 16, "a.tar", "1", "kept", "", "", "", ["a caption"], width, height, 4096, "PNG", "", {}, {},
        "a.tar", 0, 4096,
    )  # fmt: skip
    return measured._replace(**changes)


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (16, 16, None),
        (32, 16, None),
        (16, 32, None),
        (15, 16, "image_too_small"),
        (16, 15, "image_too_small"),
        (33, 16, "image_too_elongated"),
        (16, 33, "image_too_elongated"),
        (1, 5000, "image_too_small"),
    ],
)
def test_an_image_is_judged_by_its_short_side_and_its_shape(width, height, reason):
    drop = judge_image(row(width, height), Rules())
    assert (drop and drop.reason) == reason


def test_a_drop_states_the_measure_and_the_limit():
    assert judge_image(row(12, 40), Rules()) == Drop("image_too_small", "12x40, at least 16 px a side")
    assert judge_image(row(50, 20), Rules()) == Drop("image_too_elongated", "aspect ratio 2.50, at most 2")
    assert judge_caption("a", Rules()) == Drop("caption_too_short", "1 characters, at least 2")
    assert judge_caption("a" * 11, Rules(max_caption_chars=10)) == Drop("caption_too_long", "11 characters, at most 10")


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (None, "caption_missing"),
        ("", "caption_missing"),
        ("x", "caption_too_short"),
        ("ox", None),
        ("x" * 2000, None),
        ("x" * 2001, "caption_too_long"),
        ("image 3 of 90", "caption_boilerplate"),
        ("Image Not Available", "caption_boilerplate"),
        ("JPEG", "caption_boilerplate"),
        ("photographed on a sunny day", "caption_boilerplate"),
        ("a jpeg of image 3 of 90", None),
        ("雪", "caption_too_short"),
    ],
)
def test_a_caption_is_judged_by_its_length_and_its_phrases(caption, reason):
    drop = judge_caption(caption, Rules())
    assert (drop and drop.reason) == reason


def test_a_drop_states_the_word_or_the_language_that_was_found():
    rules = Rules(languages=["en"], drop_adult_text=True)
    assert judge_caption("Ein kleiner Hund", rules) == Drop("caption_wrong_language", "de 0.92")
    assert judge_caption("Ein kleiner Hund", Rules(languages=["en"], min_language_confidence=0.92))
    assert judge_caption("Ein kleiner Hund", Rules(languages=["en"], min_language_confidence=0.93)) is None
    assert judge_caption("ein PÓRNO", rules) == Drop("caption_with_adult_text", "porno")


def test_a_pair_loses_its_captions_in_other_languages():
    captions = ["Ein Hund spielt im Garten", "a dog plays in the garden"]
    judged = judge_row(row(captions=captions), Rules(languages=["en"]))
    assert (judged.outcome, judged.captions) == ("kept", captions[1:])
    judged = judge_row(row(captions=captions), Rules(languages=["ja"]))
    assert (judged.reason, judged.captions) == ("caption_wrong_language", captions)


def test_thresholds_and_phrases_come_from_the_config():
    rules = Rules(min_side_px=1, max_aspect_ratio=100, min_caption_chars=1, boilerplate=["no.*"])
    assert judge_image(row(1, 50), rules) is None
    assert judge_caption("jpeg", rules) is None
    assert judge_caption("Nothing", rules) == Drop("caption_boilerplate", "Nothing")


def test_a_blank_image_has_few_bits_a_pixel():
    rules = Rules(min_bits_per_pixel=0.5)
    assert judge_image(row(num_bytes=256), rules) is None
    assert judge_image(row(num_bytes=255), rules) == Drop("image_blank", "0.498 bits a pixel, at least 0.5")


@pytest.mark.parametrize(
    ("rules", "caption", "reason"),
    [
        ({"min_caption_words": 3}, "two words", "caption_too_short"),
        ({"min_caption_words": 3}, "three words now", None),
        ({"max_caption_words": 2}, "three words now", "caption_too_long"),
        ({"max_number_share": 0.5}, "IMG 20190412", "caption_mostly_numbers"),
        ({"max_number_share": 0.5}, "7 of 9 wombats", None),
        ({"max_number_share": 0.5}, "...", None),
        ({"drop_contacts": True}, "write to joe.doe@example.com today", "caption_with_contact"),
        ({"drop_contacts": True}, "call +1 (555) 123-4567 now", "caption_with_contact"),
        ({"drop_contacts": True}, "The office at 221B Baker Street, London", "caption_with_contact"),
        ({"drop_contacts": True}, "1600 Pennsylvania Ave., Washington", "caption_with_contact"),
        ({"drop_contacts": True}, "house for sale in Springfield, IL 62704-1234", "caption_with_contact"),
        ({"drop_contacts": True}, "write to P.O. Box 1142", "caption_with_contact"),
        ({"drop_contacts": True}, "Main Street, 1924", None),
        ({"drop_contacts": True}, "The Beatles, 1969 Abbey Road, London", None),
        ({"drop_contacts": True}, "5 people in a street, at night", None),
        ({"drop_contacts": True}, "a house of 1924, 30 x 40 cm", None),
        ({"drop_contacts": True}, "the 1990-2000 decade", None),
        ({"drop_markup": True}, "a <b>bold</b> cat", "caption_with_markup"),
        ({"drop_markup": True}, "cats &amp; dogs", "caption_with_markup"),
        ({"drop_markup": True}, "[img]x.png[/img]", "caption_with_markup"),
        ({"drop_markup": True}, "2 < 3 and 5 > 4", None),
        ({"drop_adult_text": True}, "free Porn here", "caption_with_adult_text"),
        ({"drop_adult_text": True}, "a great tit in Scunthorpe", None),
        ({"drop_adult_text": True, "adult_words": ["great tit"]}, "two Great Tits", "caption_with_adult_text"),
        ({"languages": ["en"]}, "Ein kleiner Hund spielt im Garten", "caption_wrong_language"),
        ({"languages": ["en", "de"]}, "Ein kleiner Hund spielt im Garten", None),
        ({"languages": ["de"]}, "a small dog plays in the garden", "caption_wrong_language"),
        ({"languages": ["en"]}, "a small dog plays in the garden", None),
        ({"languages": ["en"]}, "Ludwig van Beethoven", None),
        ({"languages": ["en"]}, "bond", None),
        ({"languages": ["en"], "min_language_confidence": 0}, "bond", "caption_wrong_language"),
        ({"languages": ["en"], "min_language_confidence": 0}, "the meaning of life", None),
    ],
)
def test_text_rules_are_off_until_they_are_set(rules, caption, reason):
    assert judge_caption(caption, Rules()) is None
    drop = judge_caption(caption, Rules(**rules))
    assert (drop and drop.reason) == reason


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Image 3 of 90: a red barn", "a red barn"),
        ("a red barn free PNG download", "a red barn"),
        ("a red barn jpeg free png download", "a red barn"),
        ("jpeg", ""),
        ("the jpeg format", "the jpeg format"),
        ("jpeg " * 20 + "a barn", "jpeg " * 4 + "a barn"),
    ],
)
def test_prefixes_and_suffixes_are_cut_off_as_often_as_they_occur(caption, expected):
    rules = Rules(strip=[r"image \d+ of \d+:?", "free png download", "jpe?g"])
    assert strip_caption(caption, rules) == expected


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"similarity": 0.3, "punsafe": 0.1}, None),
        ({"similarity": 0.28, "punsafe": 0.5}, None),
        ({"similarity": 0.27, "punsafe": 0.1}, "score_out_of_range"),
        ({"similarity": 0.3, "punsafe": 0.6}, "score_out_of_range"),
        ({"similarity": float("nan")}, "score_out_of_range"),
        ({"similarity": 0.3}, None),
        ({"punsafe": 0.1}, "score_missing"),
    ],
)
def test_scores_lie_in_their_ranges(scores, reason):
    rules = Rules(scores={"similarity": ScoreRange(min=0.28, required=True), "punsafe": ScoreRange(max=0.5)})
    drop = judge_origin(row(scores=scores), rules)
    assert (drop and drop.reason) == reason


def test_licences_domains_and_opt_outs_are_the_sources_word():
    rules = Rules(licences=["cc0", "cc-by"], blocked_domains=["example.com"], opt_out=["noai"])
    assert rules.fields() == ["license", "url", "noai"]
    allowed = {"license": "cc0", "url": "https://notexample.com/a.jpg", "noai": "False"}
    assert judge_origin(row(attributes=allowed), rules) is None
    for changes, reason in (
        ({"license": "all rights reserved"}, "licence_not_allowed"),
        ({"license": ""}, "licence_not_allowed"),
        ({"url": "http://example.com/x"}, "domain_blocked"),
        ({"url": "HTTPS://Img.Example.COM./x"}, "domain_blocked"),
        ({"noai": "true"}, "opted_out"),
    ):
        drop = judge_origin(row(attributes=allowed | changes), rules)
        assert drop, changes
        assert drop.reason == reason
    assert judge_origin(row(attributes=allowed, scores={"noai": 1.0}), rules) == Drop("opted_out", "noai false")


def test_domains_are_blocked_whatever_their_case():
    blocked = judge_origin(row(attributes={"url": "https://Example.com/x"}), Rules(blocked_domains=["Example.COM."]))
    assert blocked == Drop("domain_blocked", "example.com")


def test_a_licence_may_be_a_number():
    rules = Rules(licences=["4"])
    assert judge_origin(row(scores={"license": 4.0}), rules) is None
    assert judge_origin(row(scores={"license": 5.0}), rules) == Drop("licence_not_allowed", "5")


def test_a_zero_turns_a_threshold_off():
    rules = Rules(min_side_px=0, max_aspect_ratio=0, min_caption_chars=0, max_caption_chars=0, max_number_share=0)
    assert judge_row(row(1, 5000, captions=["7" * 5000]), rules).outcome == "kept"


@pytest.mark.parametrize("pattern", ["(", "(?i)stock photo"])
def test_a_pattern_that_cannot_be_part_of_another_is_refused(pattern):
    with pytest.raises(ValidationError, match="should be a regular expression"):
        Rules(strip=[pattern])


@pytest.mark.parametrize("code", ["english", "EN", "nb", ""])
def test_a_language_that_the_model_does_not_know_is_refused(code):
    with pytest.raises(
        ValidationError, match=f"'{code}' should be the code of a language known here, such as en, de or zh"
    ):
        Rules(languages=["en", code])


def test_an_adult_word_has_letters_and_is_looked_for():
    with pytest.raises(ValidationError, match="'--' should be a word, of letters or digits"):
        Rules(drop_adult_text=True, adult_words=["--"])
    with pytest.raises(ValidationError, match="should stand beside drop_adult_text = true, found false; set it"):
        Rules(adult_words=["nude"])


@pytest.mark.parametrize("confidence", [-0.1, 1.1])
def test_a_confidence_is_a_share(confidence):
    with pytest.raises(ValidationError, match="than or equal to"):
        Rules(min_language_confidence=confidence)


def test_a_threshold_is_a_finite_number():
    with pytest.raises(ValidationError):
        Rules(max_aspect_ratio=float("inf"))


@pytest.mark.parametrize("url", ["", "no url", "http://[::1", "//", "data:image/png;base64,AAAA"])
def test_a_url_without_a_host_is_nobodys(url):
    assert host_of(url) == ""


def test_a_pair_lives_as_long_as_one_of_its_captions_does():
    judged = judge_row(row(captions=["x", "a barn", "jpeg", "A barn", "a barn"]), Rules())
    assert (judged.outcome, judged.captions) == ("kept", ["a barn", "A barn"])
    judged = judge_row(row(captions=["x", "jpeg"]), Rules())
    assert (judged.outcome, judged.reason, judged.captions) == ("dropped", "caption_too_short", ["x", "jpeg"])
    assert judge_row(row(captions=[]), Rules()).reason == "caption_missing"


def test_a_repeated_caption_is_taken_away_whatever_its_case():
    rules, repeated = Rules(max_rows_per_caption=2), frozenset({caption_hash("My Photo")})
    judged = judge_row(row(captions=["my photo", "a barn"]), rules, repeated)
    assert judged.captions == ["a barn"]
    judged = judge_row(row(captions=["MY PHOTO"]), rules, repeated)
    assert (judged.reason, judged.detail) == ("caption_repeated", "beside more than 2 rows")


def test_what_measuring_dropped_stays_dropped():
    dropped = row(outcome="dropped", reason="image_unreadable", width=0, height=0)
    assert judge_row(dropped, Rules(min_side_px=1)) is dropped
