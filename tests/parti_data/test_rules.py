import pytest

from parti_data.images import Drop, ImageHeader
from parti_data.rules import Rules, judge_caption, judge_image


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
    drop = judge_image(ImageHeader(width, height, "PNG"), Rules())
    assert (drop and drop.reason) == reason


def test_a_drop_states_the_measure_and_the_limit():
    assert judge_image(ImageHeader(12, 40, "PNG"), Rules()) == Drop("image_too_small", "12x40, at least 16 px a side")
    assert judge_image(ImageHeader(50, 20, "PNG"), Rules()) == Drop(
        "image_too_elongated", "aspect ratio 2.50, at most 2"
    )
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


def test_thresholds_and_phrases_come_from_the_config():
    rules = Rules(min_side_px=1, max_aspect_ratio=100, min_caption_chars=1, boilerplate=["no.*"])
    assert judge_image(ImageHeader(1, 50, "PNG"), rules) is None
    assert judge_caption("jpeg", rules) is None
    assert judge_caption("Nothing", rules) == Drop("caption_boilerplate", "Nothing")
