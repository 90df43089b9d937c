import numpy as np
import pytest
from pydantic import ValidationError

from parti_data.errors import ConfigError
from parti_data.ledger import PairDirectory
from parti_data.recipes import RECIPES, apply_recipe, ten_crop
from parti_data.views import CENTER, Cut, Views, load_views, make_views

KEYS = ["00" * 16, "ab" * 16, "ff" * 16]
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
RANDOM = Views(kind="random", count=5, seed=3)


def test_a_center_view_is_the_recipes_square():
    for recipe in RECIPES:
        (view,) = make_views(PIXELS, KEYS[0], 32, recipe, CENTER)
        np.testing.assert_array_equal(view.pixels, apply_recipe(recipe, PIXELS, 32).pixels)


def test_ten_crops_are_those_of_the_recipe():
    found = make_views(PIXELS, KEYS[0], 32, "var", Views(kind="ten_crop"))
    assert len(found) == Views(kind="ten_crop").num_views == 10
    for view, expected in zip(found, ten_crop(PIXELS, 32, "var"), strict=True):
        np.testing.assert_array_equal(view.pixels, expected.pixels)


def test_random_views_are_a_function_of_seed_key_and_number():
    boxes = {}
    for seed in (3, 4):
        for key in KEYS:
            views = Views(kind="random", count=5, seed=seed)
            cut = make_views(PIXELS, key, 32, "adm", views)
            assert [view.box for view in cut] == [view.box for view in make_views(PIXELS, key, 32, "adm", views)]
            boxes |= {(seed, key, number): view.box for number, view in enumerate(cut)}
    assert len(set(boxes.values())) > len(boxes) / 2


def test_more_views_leave_the_first_as_they_are():
    more = RANDOM.model_copy(update={"count": 9})
    few, many = (make_views(PIXELS, KEYS[1], 32, "adm", views) for views in (RANDOM, more))
    assert (len(few), len(many)) == (5, 9)
    for view, same in zip(few, many[:5], strict=True):
        assert view.box == same.box
        np.testing.assert_array_equal(view.pixels, same.pixels)


def test_random_views_are_those_of_listing_2_unless_told():
    views = make_views(PIXELS, KEYS[0], 32, "adm", Views(kind="random", count=200))
    assert not any(view.flipped for view in views)
    assert {view.box[2] for view in views} == {round(60 * 32 / t) for t in (32, 33, 34, 35, 36)}
    anywhere = Views(kind="random", count=200, near_center=False, may_flip=True, least_zoom=1.5, most_zoom=1.5)
    views = make_views(PIXELS, KEYS[0], 32, "adm", anywhere)
    assert {view.flipped for view in views} == {True, False}
    assert {view.box[2] for view in views} == {40}


def test_an_image_is_fetched_and_decoded_once_for_all_its_views(filtered, monkeypatch):
    pairs, fetched = PairDirectory(filtered), []
    fetch = PairDirectory.fetch
    monkeypatch.setattr(PairDirectory, "fetch", lambda self, row: fetched.append(row.key) or fetch(self, row))
    rows = list(pairs.kept(0, 4))
    loaded = list(load_views(pairs, iter(rows), Cut(16, "adm", RANDOM)))
    assert fetched == [row.key for row in rows]
    assert [len(views) for views in loaded] == [5] * 4


@pytest.mark.parametrize(
    ("views", "recipe", "library"),
    [
        (CENTER, "taming", "opencv"),
        (Views(kind="ten_crop"), "ten_crop of taming", "opencv"),
        (RANDOM, "random", "pillow"),
    ],
)
def test_a_shard_says_how_its_views_were_made(views, recipe, library):
    pytest.importorskip("cv2")
    assert views.name_recipe("taming") == recipe
    assert views.library("taming").startswith(f"{library} ")


@pytest.mark.parametrize("count", [0, 257])
def test_more_views_than_a_shard_can_number_are_refused(count):
    with pytest.raises(ValidationError, match="count"):
        Views(kind="random", count=count)


def test_a_zoom_without_room_is_refused():
    from pipelines.tokenize import TokenizeConfig

    needed = ["output=x", "source=y", "image_tokenizer=i", "text_tokenizer=t"]
    with pytest.raises(ConfigError, match="least_zoom should be at most most_zoom, found 2.0 and 1.125"):
        TokenizeConfig.load(None, [*needed, "views.least_zoom=2.0"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["views.count=4"], "count goes with kind random, not with center"),
        (["views.kind=ten_crop", "views.seed=1"], "seed goes with kind random, not with ten_crop"),
        (["views.may_flip=true", "views.near_center=false"], "may_flip goes with kind random, not with center"),
    ],
)
def test_what_does_not_go_with_the_kind_is_refused(overrides, message):
    from pipelines.tokenize import TokenizeConfig

    needed = ["output=x", "source=y", "image_tokenizer=i", "text_tokenizer=t"]
    with pytest.raises(ConfigError, match=message):
        TokenizeConfig.load(None, [*needed, *overrides])


@pytest.mark.parametrize("views", [Views(), Views(kind="ten_crop"), Views(kind="random", seed=7, most_zoom=3.0)])
def test_views_that_are_written_are_read_again(views):
    assert Views.model_validate(views.model_dump(mode="json")) == views
