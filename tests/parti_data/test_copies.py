"""Copies and variants, told apart on made pictures whose changes are known."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from parti_data import copies as module
from parti_data.copies import are_copies, fit, largest_differences
from parti_data.thumbnails import make_thumbnail, read_thumbnails


def clock(hour: int = 10, face: tuple[int, int, int] = (250, 220, 90), ground: str = "white") -> Image.Image:
    """A drawing of 160x128 pixels with sharp edges."""
    image = Image.new("RGB", (160, 128), ground)
    pen = ImageDraw.Draw(image)
    pen.ellipse((26, 10, 134, 118), fill=face, outline=(60, 50, 160), width=7)
    pen.rectangle((2, 100, 30, 124), fill=(30, 140, 60))
    across, down = np.sin(hour * np.pi / 6), -np.cos(hour * np.pi / 6)
    pen.line((80, 64, 80 + 34 * across, 64 + 34 * down), fill=(20, 20, 20), width=7)
    return image


def photo(seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    field = sum(
        np.asarray(Image.fromarray(draw.normal(0, 60 / side, (side, side)).astype(np.float32)).resize((200, 150)))
        for side in (2, 4, 8, 16)
    )
    tint = draw.uniform(0.6, 1, 3)
    return Image.fromarray(np.clip((110 + field)[..., None] * tint, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 30) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def crop(image: Image.Image, left: float = 0.02, top: float = 0.04) -> Image.Image:
    left_px, top_px = round(left * image.width), round(top * image.height)
    return image.crop((left_px, top_px, left_px + round(0.95 * image.width), top_px + round(0.95 * image.height)))


def brighten(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


CHANGES = {
    "none": lambda image: image,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "jpeg 30": jpeg,
    "cropped": crop,
    "darker": lambda image: brighten(image, 0.85),
    "brighter": lambda image: brighten(image, 1.15),
    "cropped, brighter, jpeg": lambda image: jpeg(brighten(crop(image), 1.1), 60),
}


def pixels_of(*images: Image.Image) -> np.ndarray:
    return read_thumbnails([make_thumbnail(image) for image in images])


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_of_a_drawing_or_a_photo_is_a_copy(change):
    originals = [clock(), clock(3, (240, 200, 170)), *(photo(seed) for seed in range(10))]
    changed = [CHANGES[change](image) for image in originals]
    assert are_copies(pixels_of(*originals), pixels_of(*changed)).tolist() == [True] * len(originals)


@pytest.mark.parametrize("change", CHANGES)
def test_a_variant_is_none_however_it_was_changed(change):
    variants = [clock(4), clock(9), clock(10, (250, 190, 90)), clock(10, ground=(200, 200, 255))]
    changed = [CHANGES[change](image) for image in variants]
    assert not are_copies(pixels_of(*[clock()] * len(variants)), pixels_of(*changed)).any()


def test_another_photo_is_no_copy():
    assert not are_copies(pixels_of(*map(photo, range(20))), pixels_of(*map(photo, range(1, 21)))).any()


def test_a_mirrored_picture_is_no_copy_until_it_is_mirrored_back():
    one = pixels_of(clock(2))
    other = pixels_of(clock(2).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert not are_copies(one, other)[0]
    assert are_copies(one, other[:, :, ::-1])[0]


def test_either_may_be_the_left_one_and_others_beside_it_change_nothing():
    images = pixels_of(*(clock(hour) for hour in range(12)), *(photo(seed) for seed in range(60)))
    others = np.concatenate([images[::-1], pixels_of(clock(2)), pixels_of(clock(2))[:, :, ::-1]])
    images = np.concatenate([images, pixels_of(clock(2))[:, :, ::-1], pixels_of(clock(2))])
    found = largest_differences(images, others)
    assert largest_differences(others, images).tolist() == found.tolist()
    alone = [largest_differences(images[n : n + 1], others[n : n + 1])[0] for n in range(len(images))]
    assert alone == found.tolist()


def test_no_pairs_are_no_answers():
    assert are_copies(pixels_of(), pixels_of()).shape == (0,)


def test_a_crop_and_a_gain_are_found():
    original = photo(3)
    changed = brighten(crop(original, left=0.01, top=0.05), 1.1)
    darker, brighter = (one.transpose(0, 3, 1, 2).astype(np.int16) for one in (pixels_of(original), pixels_of(changed)))
    found = np.append(*fit(darker, brighter)) / 256
    middle_y, middle_x = (0.05 - 0.025) * 32, (0.01 - 0.025) * 32
    assert found == pytest.approx([middle_y, -0.8, middle_x, -0.8, 1.1], abs=0.1)


def test_equations_are_solved_as_numpy_solves_them():
    draw = np.random.default_rng(0)
    roots, values = draw.normal(size=(7, 5, 5)), draw.normal(size=(7, 5))
    matrices = roots @ roots.transpose(0, 2, 1) + np.eye(5)
    expected = np.linalg.solve(matrices, values[..., None])[..., 0]
    assert module._solve(matrices, values) == pytest.approx(expected)


def test_sums_of_products_stay_below_what_float64_counts(monkeypatch):
    """The hardest contrast there is: every sum is a whole number below 2**53, so exact in any order."""
    largest = []
    solve = module._solve

    def solve_and_look(matrices, values):
        largest.append(max(np.abs(matrices).max(), np.abs(values).max()))
        return solve(matrices, values)

    monkeypatch.setattr(module, "_solve", solve_and_look)
    stripes = np.zeros((2, 32, 32, 3), np.uint8)
    stripes[0, :, (np.arange(32) // 4) % 2 == 1] = 240
    stripes[1, (np.arange(32) // 4) % 2 == 1] = 240
    largest_differences(stripes, stripes[::-1])
    assert 2**40 < max(largest) < 2**53


def test_differences_are_the_recorded_ones():
    y, x, channel = np.indices((32, 32, 3))
    one = (((x - 9) ** 2 * (channel + 1) // 3 + (y - 12) ** 2 // 2) % 230).astype(np.uint8)
    moved = np.roll(one, 1, 1)
    spotted = one.copy()
    spotted[9:13, 20:24] //= 2
    darker = (one * 0.9).astype(np.uint8)
    pairs = np.array([[one, one], [one, moved], [one, spotted], [one, darker]])
    assert largest_differences(pairs[:, 0], pairs[:, 1]).tolist() == GOLDEN


GOLDEN = [0.0, 0.0, 51.96875, 0.0]
