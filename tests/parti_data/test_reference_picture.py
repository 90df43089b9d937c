import io

import numpy as np
import pytest
from PIL import Image

from parti_data.images import ImageLimits, decode, to_png
from parti_data.quality import psnr_db
from parti_data.recipes import apply_recipe, resize_center, ten_crop
from parti_data.reference_picture import reference_picture


def photo(height: int = 90, width: int = 140) -> np.ndarray:
    """A smooth picture that no turn, flip or swap leaves as it is."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 90 * np.sin(x / 19)], -1).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("rendering", ["as_seen", "as_stored", "as_stored_over_white"])
def test_the_reference_is_what_the_encoder_sees_whatever_the_orientation(orientation, rendering):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = saved(Image.fromarray(photo()), "JPEG", exif=exif, quality=95)
    limits = ImageLimits(rendering=rendering)
    pixels = decode(image, limits)
    assert isinstance(pixels, np.ndarray)
    seen = resize_center(pixels, 32)
    found = reference_picture(image, list(seen.box), False, 32, limits)
    assert found is not None
    assert psnr_db(seen.pixels, found) > 35
    mirrored = reference_picture(image, list(seen.box), True, 32, limits)
    assert mirrored is not None
    assert (mirrored == found[:, ::-1]).all()


def test_the_background_stands_behind_what_is_transparent():
    clear = Image.fromarray(np.zeros((8, 8, 4), np.uint8))
    for mode in ("RGBA", "LA", "P"):
        found = reference_picture(saved(clear.convert(mode), "PNG", transparency=0 if mode == "P" else None),
                                  [0, 0, 8, 8], False, 8, ImageLimits(background="#ff8000"))  # fmt: skip
        assert found is not None
        assert (found == (255, 128, 0)).all(), mode


@pytest.mark.parametrize("recipe", ["resize_center", "squash", "adm", "dalle", "chameleon", "var"])
def test_the_box_tells_what_any_recipe_shows(recipe):
    seen = apply_recipe(recipe, photo(), 40)
    found = reference_picture(to_png(photo()), list(seen.box), seen.flipped, 40, ImageLimits())
    assert found is not None
    assert psnr_db(seen.pixels, found) > 35


def test_the_boxes_of_ten_crops_tell_what_they_show():
    for seen in ten_crop(photo(), 40):
        found = reference_picture(to_png(photo()), list(seen.box), seen.flipped, 40, ImageLimits())
        assert found is not None
        assert psnr_db(seen.pixels, found) > 30


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
def test_plain_modes_are_shown_as_they_are(mode):
    image = saved(Image.fromarray(photo()).convert(mode), "PNG")
    found, expected = reference_picture(image, [0, 0, 140, 90], False, 64, ImageLimits()), decode(image, ImageLimits())
    assert found is not None
    assert isinstance(expected, np.ndarray)
    resized = Image.fromarray(expected).resize((64, 64), Image.Resampling.BILINEAR)
    assert psnr_db(np.asarray(resized), found) > 35


def test_what_takes_more_to_be_shown_is_left_out():
    deep = saved(Image.fromarray(photo()[..., 0].astype(np.uint16) * 257), "PNG")
    inks = saved(Image.fromarray(photo()).convert("CMYK"), "JPEG")
    assert reference_picture(deep, [0, 0, 90, 90], False, 16, ImageLimits()) is None
    assert reference_picture(inks, [0, 0, 90, 90], False, 16, ImageLimits()) is None


def test_it_shares_no_decoder_with_the_encoder_s_pictures(monkeypatch):
    from parti_data import colour, images, recipes

    image = to_png(photo())
    expected = reference_picture(image, [0, 0, 90, 90], False, 16, ImageLimits())
    for module, name in ((images, "to_rgb"), (images, "_decode"), (colour, "to_rgb"), (recipes, "_resize")):
        monkeypatch.setattr(module, name, None)
    assert (reference_picture(image, [0, 0, 90, 90], False, 16, ImageLimits()) == expected).all()
