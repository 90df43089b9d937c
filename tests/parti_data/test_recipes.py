import hashlib
import sys
from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image

from parti_data import recipes
from parti_data.errors import ConfigError
from parti_data.images import ImageLimits, decode
from parti_data.recipes import RECIPES, apply_recipe, find_recipe, resize_center, ten_crop

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
ANY_SIZE = [(height, width) for height in (1, 7, 31, 32, 33, 100) for width in (1, 9, 32, 63, 64, 65, 200)]
REFERENCE_NAMES = {"squash": "enhancing_val"}
GOLDEN = {
    "resize_center": "6d2abf4ccb37fbb4",
    "squash": "2ae11c969ba5fd02",
    "adm": "aabb473c0b403821",
    "dalle": "e1db919e5c48602a",
    "chameleon": "a57aade1e696deb2",
    "var": "3ac6c0be2ab21efa",
    "taming": "5e2aa36af40201d9",
}
"""The first 16 hex digits of the SHA-256 of views. All but the last are what the projects' lines of Python gave with
Pillow 13.0.0, written anew; the last is OpenCV 5.0.0's."""


def smooth(height: int, width: int) -> np.ndarray:
    """A picture without edges: resizing it in another way gives nearly the same."""
    coarse = np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def cut(pixels: np.ndarray, box: tuple[int, int, int, int], side: int) -> np.ndarray:
    x, y, width, height = box
    crop = Image.fromarray(np.ascontiguousarray(pixels[y : y + height, x : x + width]))
    return np.asarray(crop.resize((side, side), Image.Resampling.BILINEAR)).astype(int)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("image", ["00_300x411.png", "00_300x411.jpeg", "07_200x333.png"])
def test_every_pixel_is_that_of_the_reference(shared, name, image):
    expected = shared / f"conformance/preprocess/{image}.{REFERENCE_NAMES.get(name, name)}.npy"
    if not expected.exists():
        pytest.skip("OpenAI's code refuses pictures below 256 px")
    pixels = decode((shared / "conformance/preprocess" / image).read_bytes(), ImageLimits())
    np.testing.assert_array_equal(apply_recipe(name, pixels, 256).pixels, np.load(expected))


def test_ten_crops_are_those_of_the_reference(shared):
    pixels = np.load(shared / "conformance/preprocess/00_300x411.png.decoded.npy")
    expected = np.load(shared / "conformance/preprocess/00_300x411.png.tencrop.npy")
    np.testing.assert_array_equal(np.stack([view.pixels for view in ten_crop(pixels, 256)]), expected)


@pytest.mark.parametrize("name", RECIPES)
def test_pixels_are_those_that_were_recorded(name):
    digest = hashlib.sha256()
    for height, width, side in ((40, 24, 16), (24, 40, 16), (90, 31, 16), (9, 13, 16), (70, 75, 16), (16, 16, 16)):
        pixels = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)
        digest.update(np.ascontiguousarray(apply_recipe(name, pixels, side).pixels).tobytes())
    assert digest.hexdigest()[:16] == GOLDEN[name]


@pytest.mark.parametrize("name", RECIPES)
def test_the_box_lies_inside_the_picture_for_any_size(name):
    for height, width in ANY_SIZE:
        view = apply_recipe(name, np.zeros((height, width, 3), np.uint8), 32)
        x, y, box_width, box_height = view.box
        assert (view.pixels.shape, view.pixels.dtype, view.flipped) == ((32, 32, 3), np.uint8, False)
        assert min(view.box) >= 0
        assert min(box_width, box_height) > 0
        assert x + box_width <= width
        assert y + box_height <= height
        assert abs(x - (width - box_width) / 2) <= 1 + box_width / 32
        assert abs(y - (height - box_height) / 2) <= 1 + box_width / 32


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [(200, 320), (320, 200), (150, 700), (48, 40), (1000, 700)])
def test_the_box_tells_what_the_view_shows(name, size):
    pixels = smooth(*size)
    view = apply_recipe(name, pixels, 64)
    difference = np.abs(view.pixels.astype(int) - cut(pixels, view.box, 64))
    assert difference.mean() < 4
    moved = cut(pixels, (*[at // 2 for at in view.box[:2]], *view.box[2:]), 64)
    if view.box[:2] != (0, 0):
        assert np.abs(view.pixels.astype(int) - moved).mean() > 3 * difference.mean()


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"var"}))
def test_a_square_of_the_right_side_stays_as_it_is(name):
    square = np.ascontiguousarray(PIXELS[:, :24])
    view = apply_recipe(name, square, 24)
    np.testing.assert_array_equal(view.pixels, square)
    assert view.box == (0, 0, 24, 24)


@pytest.mark.parametrize(
    ("height", "width", "side", "box"),
    [
        (24, 40, 24, (8, 0, 24, 24)),
        (40, 24, 24, (0, 8, 24, 24)),
        (32, 64, 16, (16, 0, 32, 32)),
        (8, 8, 16, (0, 0, 8, 8)),
    ],
)
def test_the_middle_square_is_taken(height, width, side, box):
    pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized, found, _ = resize_center(pixels, side)
    assert (resized.shape, resized.dtype, found) == ((side, side, 3), np.uint8, box)
    inner = slice(side // 4, -side // 4)  # at the border the crop lacks the pixels beside it
    assert np.abs(resized.astype(int) - cut(pixels, box, side))[inner, inner].max() <= 1


@pytest.mark.parametrize("order", ["height first", "width first"])
def test_a_tall_picture_is_resized_in_the_order_of_pillow_13(order):
    height, width = (90, 31) if order == "height first" else (90, 60)
    pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    bilinear, image = Image.Resampling.BILINEAR, Image.fromarray(pixels)
    size = (16, int(16 * height / width))
    orders = {
        "height first": image.resize((width, size[1]), bilinear).resize(size, bilinear),
        "width first": image.resize((16, height), bilinear).resize(size, bilinear),
    }
    top = round((size[1] - 16) / 2)
    found = resize_center(pixels, 16).pixels
    for name, resized in orders.items():
        assert np.array_equal(found, np.asarray(resized)[top : top + 16]) == (name == order)


def test_a_strip_is_cut_before_it_is_enlarged(monkeypatch):
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, size, *rest: sizes.append(size) or resize(image, size, *rest)
    )
    for name in RECIPES.keys() - {"taming"}:
        for shape in ((1, 60_000, 3), (60_000, 1, 3)):
            assert (
                apply_recipe(name, np.full(shape, 7, np.uint8), 64).pixels.tolist() == np.full((64, 64, 3), 7).tolist()
            )
    assert max(width * height for width, height in sizes) <= 72 * 72 * 17


def test_ten_crops_come_in_torchvisions_order():
    marked = np.zeros((40, 40, 3), np.uint8)
    corners = {(0, 0): 50, (0, 1): 100, (1, 0): 150, (1, 1): 200}
    for (down, right), value in corners.items():
        marked[down * 39, right * 39] = value
    views = ten_crop(marked, 37, "squash")  # 1.1 times 37 is 40: nothing is resized
    seen = [sorted(set(np.unique(view.pixels).tolist()) - {0}) for view in views]
    assert seen == [[50], [100], [150], [200], [], [100], [50], [200], [150], []]
    assert [view.flipped for view in views] == 5 * [False] + 5 * [True]
    assert [view.box[:2] for view in views] == [
        (0, 0), (3, 0), (0, 3), (3, 3), (2, 2), (3, 0), (0, 0), (3, 3), (0, 3), (1, 2),
    ]  # fmt: skip
    for view in views:
        x, y, width, height = view.box
        region = marked[y : y + height, x : x + width]
        np.testing.assert_array_equal(view.pixels, region[:, ::-1] if view.flipped else region)


@pytest.mark.parametrize("name", RECIPES)
def test_ten_crops_lie_inside_a_picture_of_any_size(name):
    for height, width in ANY_SIZE:
        for view in ten_crop(np.zeros((height, width, 3), np.uint8), 32, name):
            x, y, box_width, box_height = view.box
            assert view.pixels.shape == (32, 32, 3)
            assert min(view.box) >= 0
            assert min(box_width, box_height) > 0
            assert x + box_width <= width
            assert y + box_height <= height


def test_a_recipe_names_the_library_that_its_pixels_depend_on():
    assert find_recipe("adm").library == f"pillow {version('pillow')}"
    cv2 = pytest.importorskip("cv2")
    assert find_recipe("taming").library == f"opencv {cv2.__version__}"


def test_an_unknown_recipe_is_refused():
    with pytest.raises(
        ConfigError, match="resize recipe: expected one of resize_center, .*, found 'crop'; choose one of"
    ):
        find_recipe("crop")


def test_a_recipe_without_its_library_is_refused(monkeypatch):
    recipes._opencv.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        ConfigError, match="recipe taming: expected OpenCV, found none; pip install 'parti\\[opencv\\]'"
    ):
        apply_recipe("taming", PIXELS, 16)
    recipes._opencv.cache_clear()
