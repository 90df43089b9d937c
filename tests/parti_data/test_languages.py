import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from parti_data import languages
from parti_data.languages import OtherLanguage, find_other_language, known_languages


def test_languages_are_known_by_two_letters():
    known = known_languages()
    assert {"en", "de", "zh", "ar", "hi"} <= known
    assert {len(code) for code in known} == {2}


@pytest.mark.parametrize(
    ("caption", "language"),
    [
        ("Ein kleiner Hund spielt im Garten mit einem Ball", "de"),
        ("Une petite fille court dans un champ", "fr"),
        ("Маленькая девочка играет с собакой в саду", "ru"),
        ("公園でサッカーをする子供たち", "ja"),
        ("FERIENWOHNUNG MIT BLICK AUF DIE OSTSEE", "de"),
    ],
)
def test_another_language_is_found_and_is_none_where_it_is_asked_for(caption, language):
    other = find_other_language(caption, ["en"])
    assert other
    assert other.language == language
    assert other.confidence >= 0.9
    assert find_other_language(caption, ["en", language]) is None


@pytest.mark.parametrize("caption", ["a red barn in the snow", "Woman wearing a red dress walking on the beach"])
def test_a_caption_in_a_language_asked_for_is_in_no_other(caption):
    assert find_other_language(caption, ["en"]) is None


@pytest.mark.parametrize("caption", ["", "42", "😀", "bond", "Tom Hanks", "DSC_0231"])
def test_of_what_says_little_little_is_known(caption):
    other = find_other_language(caption, ["en"])
    assert other is None or other.confidence < 0.5


def test_languages_that_resemble_each_other_are_sure_together():
    assert find_other_language("Flores amarelas no campo", ["en"]) == OtherLanguage("gl", 0.89)


def test_threads_that_ask_at_once_load_one_model_and_get_the_same_answers():
    captions = ["Ein kleiner Hund", "Une petite fille", "Un perro pequeño", "a small dog"] * 50
    expected = [find_other_language(caption, ["en"]) for caption in captions]
    languages._load_once.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda caption: find_other_language(caption, ["en"]), captions)) == expected
    assert languages._load_once.cache_info().misses == 1


def test_the_model_is_loaded_by_whoever_asks_and_by_no_one_else():
    code = (
        "from parti_data.rules import Rules, judge_caption\n"
        "from parti_data import languages\n"
        "assert judge_caption('Ein kleiner Hund', Rules()) is None\n"
        "assert languages._load_once.cache_info().currsize == 0\n"
        "Rules(languages=['en'])\n"
        "assert languages._load_once.cache_info().currsize == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
