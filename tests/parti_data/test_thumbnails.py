import numpy as np
from PIL import Image

from parti_data.perceptual_hash import hash_and_squeeze
from parti_data.thumbnails import THUMBNAIL_SIDE, make_thumbnail, read_thumbnails

SQUARE = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)


def picture(seed: int, size: tuple[int, int] = (125, 100)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def test_a_thumbnail_is_nearly_the_whole_picture_squeezed_into_a_square():
    pictures = [picture(seed) for seed in range(20)]
    found = read_thumbnails([make_thumbnail(one) for one in pictures])
    squeezed = np.array([one.resize(SQUARE, Image.Resampling.BOX) for one in pictures])
    assert make_thumbnail(hash_and_squeeze(pictures[0])[1]) == make_thumbnail(pictures[0])
    assert found.shape == (20, *SQUARE, 3)
    assert found.dtype == np.uint8
    apart = np.abs(found.astype(int) - squeezed)
    assert apart.mean() < 2.5
    assert apart.max() < 20


def test_colour_is_kept_to_the_pixel():
    pixels = np.zeros((*SQUARE, 3), np.uint8)
    pixels[:, ::2] = (200, 30, 60)
    pixels[:, 1::2] = (40, 60, 180)
    (found,) = read_thumbnails([make_thumbnail(Image.fromarray(pixels))])
    assert np.abs(found.astype(int) - pixels).max() < 16


def test_any_picture_has_one_of_less_than_three_kilobytes():
    noise = np.random.default_rng(0).integers(0, 256, (*SQUARE, 3), np.uint8)
    for one in (Image.new("RGB", (1, 1)), Image.new("RGB", (3, 5000)), Image.fromarray(noise)):
        assert len(make_thumbnail(one)) < 3500
        assert read_thumbnails([make_thumbnail(one)]).shape == (1, *SQUARE, 3)


def test_no_thumbnails_are_no_pixels():
    assert read_thumbnails([]).shape == (0, *SQUARE, 3)
