import pytest

from parti_data.adult_words import ADULT_WORDS, find_adult_word, fold

INNOCENT = """
Scunthorpe United; Penistone railway station; Essex, Sussex and Middlesex; the cockpit of an Airbus; a chicken breast;
a great tit on a branch; blue tits; data analysis; a canal at dusk; cocktails; a cock and three hens; a shuttlecock;
pussy willow; a pussycat; Moby-Dick; Dick Van Dyke; magna cum laude; cumin seeds; a naked mole rat; nude by
Modigliani; the birth of Venus; erotic temple carvings; Boston cream pie; bareback rider; glory hole spillway; XXX
Olympiad; size XXX; same-sex marriage; sextant; sexton beetle; unisex shirt; sex of a chick; Safe sex. Video lesson;
safe sex: toys R us; popcorn; porcelain; Pornic, France; a dilemma; bestiary; a medical drawing of a penis; a man shot
from a cannon; MILF rebels in Mindanao; golf threesome; first hand job experience; deep throat singing; fisticuffs;
hentaigana; oral history; group sexton; anal fin of a fish; gangway; blow dryer; skirting board of a wall; a cam
girl's gears
"""


def innocent() -> list[str]:
    return [caption for caption in " ".join(INNOCENT.split()).split("; ") if caption]


@pytest.mark.parametrize("caption", innocent())
def test_innocent_words_are_left_alone(caption):
    assert find_adult_word(caption) is None


@pytest.mark.parametrize("word", ADULT_WORDS)
def test_each_word_is_found_as_a_whole_and_in_the_plural(word):
    for caption in (word, f"a {word}.", f"({word.upper()})", f"two {word}s", word.replace(" ", "-")):
        assert find_adult_word(caption), caption
    assert find_adult_word(f"un{word}") is None
    assert find_adult_word(f"{word}land") is None


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("free PÓRN here", "porn"),
        ("ｐｏｒｎ", "porn"),
        ("𝐩𝐨𝐫𝐧", "porn"),
        ("best_porn_2019.jpg", "porn"),
        ("porn-star", "porn"),
        ("dildoes", "dildoes"),
        ("a SEX_TAPE and more", "sex_tape"),
        ("sex  tape", None),
    ],
)
def test_case_accents_and_width_do_not_hide_a_word(caption, found):
    assert find_adult_word(caption) == found


def test_more_words_are_looked_for_as_they_stand():
    assert find_adult_word("eine Büste", ("busten",)) is None
    assert find_adult_word("zwei BÜSTEN", ("Büste n", "büsten")) == "busten"
    assert find_adult_word("a.b", ("a b",)) is None
    assert find_adult_word("axb", ("a.b",)) is None
    assert find_adult_word("ポルノ 写真", ("ポルノ",)) == fold("ポルノ")
