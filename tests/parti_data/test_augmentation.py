import numpy as np
import pytest
from PIL import Image

from parti_data.augmentation import LISTING_1, LISTING_2, RandomCrop, cut_random

SIZES = [(400, 500), (500, 400), (300, 300), (64, 900), (70, 50), (9, 3), (1, 1)]
SIDE = 64
GRID = np.stack(np.meshgrid(np.arange(200), np.arange(160), indexing="xy"), -1)
RAMP = np.concatenate([GRID, GRID[..., :1]], -1).astype(np.uint8)
"""160 x 200 pixels that say where they are: red x, green y."""


def views_of(pixels: np.ndarray, crop: RandomCrop, count: int = 100, side: int = SIDE):
    generator = np.random.default_rng(0)
    return [cut_random(pixels, side, crop, generator) for _ in range(count)]


@pytest.mark.parametrize("crop", [LISTING_1, LISTING_2])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_boxes_are_squares_inside_the_picture(crop, height, width):
    for view in views_of(np.zeros((height, width, 3), np.uint8), crop, 30):
        x, y, box_width, box_height = view.box
        assert (view.pixels.shape, view.pixels.dtype) == ((SIDE, SIDE, 3), np.uint8)
        assert 1 <= box_width == box_height <= min(height, width)
        assert min(x, y) >= 0
        assert x + box_width <= width
        assert y + box_height <= height


@pytest.mark.parametrize("crop", [LISTING_1, LISTING_2])
def test_a_view_is_what_its_box_holds(crop):
    pixels = np.random.default_rng(1).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    for view in views_of(pixels, crop, 20):
        x, y, width, height = view.box
        region = Image.fromarray(np.ascontiguousarray(pixels[y : y + height, x : x + width]))
        expected = np.asarray(region.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(view.pixels, expected[:, ::-1] if view.flipped else expected)


def test_a_view_stands_where_its_box_says():
    for view in views_of(RAMP, LISTING_1, 40):
        x, y, length, _ = view.box
        middle = view.pixels[SIDE // 2 - 1 : SIDE // 2 + 1, SIDE // 2 - 1 : SIDE // 2 + 1].reshape(-1, 3).mean(0)
        np.testing.assert_allclose(middle[:2], [x + (length - 1) / 2, y + (length - 1) / 2], atol=1)
        assert (int(view.pixels[0, 0, 0]) > int(view.pixels[0, -1, 0])) == view.flipped


def test_listing_1_zooms_crops_and_flips_as_the_paper_says():
    pixels = np.zeros((200, 300, 3), np.uint8)
    views = views_of(pixels, LISTING_1, 600)
    lengths = np.array([view.box[2] for view in views])
    assert lengths.min() == round(200 * 64 / 96)  # t from 9/8 to 12/8 of the side
    assert lengths.max() == round(200 * 64 / 72)
    assert len(np.unique(lengths)) == 25  # as many as there are whole numbers t
    assert min(view.box[0] for view in views) < 5
    assert max(view.box[0] + view.box[2] for view in views) > 295
    assert 0.4 < np.mean([view.flipped for view in views]) < 0.6


def test_listing_2_stays_near_the_center_and_never_flips():
    pixels = np.zeros((200, 360, 3), np.uint8)
    views = views_of(pixels, LISTING_2, 600)
    lengths = np.array([view.box[2] for view in views])
    assert lengths.min() == round(200 * 64 / 72)  # t from the side to 9/8 of it
    assert lengths.max() == 200
    assert not any(view.flipped for view in views)
    whole = views_of(pixels, LISTING_2._replace(most_zoom=1.0), 600)
    assert {view.box[0] for view in whole} == set(range(60, 100))  # from 3/8 to 5/8 of the 160 pixels left out


@pytest.mark.parametrize("crop", [LISTING_1, LISTING_2])
def test_a_picture_below_the_side_is_enlarged_whole(crop):
    for view in views_of(RAMP[:40, :40], crop, 10):
        assert view.box == (0, 0, 40, 40)


def test_views_depend_on_nothing_but_the_generator():
    first, second = (cut_random(RAMP, 32, LISTING_1, np.random.default_rng(7)) for _ in range(2))
    assert first.box == second.box
    np.testing.assert_array_equal(first.pixels, second.pixels)
    other = cut_random(RAMP, 32, LISTING_1, np.random.default_rng(8))
    assert other.box != first.box
