import io
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from pydantic import ValidationError

from parti_data import images
from parti_data.images import (
    FORMATS,
    NO_HEADER,
    Drop,
    ImageHeader,
    ImageLimits,
    decode,
    image_key,
    inspect,
    to_png,
)  # fmt: skip

LIMITS = ImageLimits()
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
"""What undoes each EXIF orientation. Source: EXIF 2.32, section 4.6.4, tag Orientation."""


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def read_header(image: bytes, limits: ImageLimits) -> ImageHeader | Drop:
    """What the header says, or why it says nothing."""
    header, picture = inspect(image, limits)
    return header if header != NO_HEADER else picture


def with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(PIXELS, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_and_header_are_upright(orientation):
    expected = UPRIGHT[orientation](PIXELS)
    np.testing.assert_array_equal(decode(with_orientation(orientation), LIMITS), expected)
    assert read_header(with_orientation(orientation), LIMITS)[:2] == (expected.shape[1], expected.shape[0])


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    np.testing.assert_array_equal(decode(with_orientation(orientation), LIMITS), PIXELS)
    assert read_header(with_orientation(orientation), LIMITS) == ImageHeader(40, 24, "PNG")


def test_exif_that_is_broken_does_not_cost_the_image():
    image = encoded(PIXELS, "JPEG", exif=b"Exif\0\0garbage!")
    assert read_header(image, LIMITS) == ImageHeader(40, 24, "JPEG")
    assert decode(image, LIMITS).shape == (24, 40, 3)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


def test_transparency_shows_white():
    rgba = RNG.integers(0, 256, (24, 40, 4), dtype=np.uint8)
    rgba[:4, :, 3], rgba[4:8, :, 3] = 0, 255
    pixels = decode(encoded(rgba), LIMITS)
    np.testing.assert_allclose(pixels, over_white(rgba[..., :3].astype(float), rgba[..., 3]), atol=1)
    assert (pixels[:4] == 255).all()
    np.testing.assert_array_equal(pixels[4:8], rgba[4:8, :, :3])


def test_a_grey_image_with_alpha_shows_white():
    la = RNG.integers(0, 256, (24, 40, 2), dtype=np.uint8)
    grey = np.repeat(la[..., :1], 3, 2).astype(float)
    np.testing.assert_allclose(decode(encoded(la), LIMITS), over_white(grey, la[..., 1]), atol=1)


def test_a_transparent_colour_of_a_palette_shows_white():
    indices = RNG.integers(0, 4, (24, 40), dtype=np.uint8)
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    image = Image.fromarray(indices, "L")
    image = image.convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette(colours.ravel().tolist())
    expected = colours[indices]
    np.testing.assert_array_equal(decode(encoded(image), LIMITS), expected)
    expected = np.where((indices == 2)[..., None], 255, expected)
    np.testing.assert_array_equal(decode(encoded(image, transparency=2), LIMITS), expected)
    np.testing.assert_array_equal(decode(encoded(image, "GIF", transparency=2), LIMITS), expected)


def test_one_transparent_colour_of_an_rgb_image_shows_white():
    pixels = PIXELS.copy()
    pixels[:5] = (1, 2, 3)
    found = decode(encoded(pixels, transparency=(1, 2, 3)), LIMITS)
    assert (found[:5] == 255).all()
    np.testing.assert_array_equal(found[5:], pixels[5:])


def test_grey_becomes_equal_channels():
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(decode(encoded(grey), LIMITS), np.repeat(grey[..., None], 3, 2))
    bits = Image.fromarray(grey > 127)
    np.testing.assert_array_equal(decode(encoded(bits), LIMITS)[..., 0], np.where(grey > 127, 255, 0))


def test_cmyk_becomes_rgb():
    cmyk = RNG.integers(0, 256, (24, 40, 4), dtype=np.uint8)
    ink = cmyk.astype(float) / 255
    expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    found = decode(encoded(Image.fromarray(cmyk, "CMYK"), "TIFF"), LIMITS)
    assert np.abs(found - expected).max() <= 2


def test_sixteen_bits_keep_their_upper_eight():
    deep = RNG.integers(0, 1 << 16, (24, 40), dtype=np.uint16)
    expected = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(decode(encoded(deep), LIMITS), expected)
    np.testing.assert_array_equal(decode(encoded(deep, "TIFF"), LIMITS), expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind):
    image = encoded(PIXELS, kind)
    assert read_header(image, LIMITS) == ImageHeader(40, 24, kind)
    assert decode(image, LIMITS).shape == (24, 40, 3)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_that_is_not_wanted_is_dropped(kind):
    image = encoded(PIXELS, kind)
    assert isinstance(decode(image, ImageLimits(formats=[kind])), np.ndarray)
    refusing = ImageLimits(formats=[name for name in FORMATS if name != kind])
    assert decode(image, refusing) == read_header(image, refusing) == Drop("image_format_not_allowed", kind)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_with_an_orientation_is_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = {"lossless": True} if kind == "WEBP" else {}
    expected = UPRIGHT[orientation](decode(encoded(PIXELS, kind, **plain), LIMITS))
    image = encoded(PIXELS, kind, exif=exif, **plain)
    np.testing.assert_array_equal(decode(image, LIMITS), expected)
    assert read_header(image, LIMITS) == ImageHeader(expected.shape[1], expected.shape[0], kind)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd", "lzma"])
def test_a_compressed_tiff_is_read_as_pillow_reads_it(compression):
    image = encoded(PIXELS, "TIFF", compression=compression)
    with Image.open(io.BytesIO(image)) as opened:
        np.testing.assert_array_equal(decode(image, LIMITS), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame_or_nothing(kind):
    others = [Image.new("RGB", (40, 24), colour) for colour in ("blue", "green")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    image = encoded(Image.new("RGB", (40, 24), (200, 0, 0)), kind, save_all=True, append_images=others, **lossless)
    assert (decode(image, LIMITS) == (200, 0, 0)).all()
    still = encoded(PIXELS, kind)
    dropping = ImageLimits(animated="drop")
    assert decode(image, dropping) == read_header(image, dropping) == Drop("image_animated", kind)
    assert isinstance(decode(still, dropping), np.ndarray)


@pytest.mark.parametrize(("background", "shown"), [("white", (255, 255, 255)), ("#0a0b0c", (10, 11, 12))])
def test_the_background_shows_through(background, shown):
    rgba = np.zeros((24, 40, 4), np.uint8)
    assert (decode(encoded(rgba), ImageLimits(background=background)) == shown).all()


@pytest.mark.parametrize("background", ["no colour", "#12345678", "", "x" * 100_000])
def test_a_background_that_is_no_colour_is_refused(background):
    with pytest.raises(ValidationError, match="background"):
        ImageLimits(background=background)


def test_a_jpeg_with_a_second_picture_behind_it_is_a_jpeg():
    first = Image.new("RGB", (40, 24), (200, 0, 0))
    image = encoded(first, "MPO", save_all=True, append_images=[Image.new("RGB", (40, 24), "blue")])
    assert read_header(image, LIMITS) == ImageHeader(40, 24, "JPEG")
    assert decode(image, LIMITS)[0, 0, 0] > 190


def test_the_first_frame_of_several_is_taken():
    image = encoded(Image.new("RGB", (40, 24), (200, 0, 0)), "GIF", save_all=True,
                    append_images=[Image.new("RGB", (40, 24), "blue")])  # fmt: skip
    assert decode(image, LIMITS)[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("kind", ["ICO", "PPM", "PCX"])
def test_a_format_that_is_not_listed_is_refused(kind):
    assert read_header(encoded(PIXELS, kind), LIMITS).reason == "image_unreadable"


@pytest.mark.parametrize("image", [b"", b"<!doctype html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"])
def test_what_is_not_an_image_is_unreadable(image):
    assert read_header(image, LIMITS).reason == decode(image, LIMITS).reason == "image_unreadable"


def test_a_drop_says_the_same_every_time():
    drops = {decode(b"<!doctype html>" * number, LIMITS) for number in range(1, 20)}
    assert drops == {Drop("image_unreadable", "UnidentifiedImageError: cannot identify image file")}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_a_truncated_image_is_dropped_and_never_an_exception(kind):
    image = encoded(PIXELS, kind)
    reasons = set()
    for size in range(1, len(image) * 4 // 5, max(len(image) // 40, 1)):
        found = decode(image[:size], LIMITS)
        assert isinstance(found, Drop), size
        reasons.add(found.reason)
    assert "image_unreadable" in reasons
    assert reasons <= {"image_unreadable", "image_undecodable"}


@pytest.mark.parametrize("kind", FORMATS)
def test_flipped_bytes_give_pixels_or_a_drop_and_never_an_exception(kind):
    image = encoded(PIXELS, kind)
    for place in range(0, len(image), max(len(image) // 60, 1)):
        spoiled = bytearray(image)
        spoiled[place] ^= 0xFF
        found = decode(bytes(spoiled), ImageLimits(max_pixels=1 << 16))
        assert isinstance(found, Drop) or (found.dtype == np.uint8 and found.shape[2] == 3)


def huge_png(side: int) -> bytes:
    """A PNG whose header claims side x side pixels and whose data would fill the first rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_huge_header_is_refused_before_anything_is_decoded(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    image = huge_png(65_000)
    monkeypatch.setattr(Image.Image, "load", refuse)
    tracemalloc.start()
    try:
        found = decode(image, LIMITS)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == Drop("image_too_many_pixels", "65000x65000, at most 64000000 pixels")
    assert peak_bytes < 1 << 20


def test_too_many_bytes_are_refused_before_the_header_is_read():
    assert read_header(bytes(11), ImageLimits(max_bytes=10)) == Drop("image_too_many_bytes", "11 bytes, at most 10")


def test_the_limits_themselves_are_allowed():
    image = encoded(PIXELS)
    limits = ImageLimits(max_bytes=len(image), max_pixels=PIXELS.shape[0] * PIXELS.shape[1])
    np.testing.assert_array_equal(decode(image, limits), PIXELS)


def test_the_key_is_the_first_half_of_the_sha256():
    assert image_key(b"abc") == "ba7816bf8f01cfea414140de5dae2223"  # FIPS 180-2, appendix B.1


def test_to_png_is_undone_by_decode():
    np.testing.assert_array_equal(decode(to_png(PIXELS), LIMITS), PIXELS)


@pytest.mark.parametrize("name", ["mode_p.png", "mode_l.png", "mode_cmyk.jpeg", "mode_exif6.jpeg"])
def test_colour_modes_are_those_of_the_reference(shared, name):
    folder = shared / "conformance/preprocess"
    expected = np.load(folder / f"{name}.convert_rgb.npy")
    if "exif6" in name:
        expected = UPRIGHT[6](expected)  # the reference ignores the orientation
    np.testing.assert_array_equal(decode((folder / name).read_bytes(), LIMITS), expected)


def test_alpha_over_white_is_that_of_the_reference(shared):
    folder = shared / "conformance/preprocess"
    expected = np.load(folder / "mode_rgba.chameleon_white.npy").astype(int)
    found = decode((folder / "mode_rgba.png").read_bytes(), LIMITS).astype(int)
    assert np.abs(found - expected).max() <= 1


AS_STORED = ImageLimits(rendering="as_stored")
OVER_WHITE = ImageLimits(rendering="as_stored_over_white")


@pytest.mark.parametrize("name", ["mode_p.png", "mode_l.png", "mode_cmyk.jpeg", "mode_exif6.jpeg", "mode_rgba.png"])
def test_images_as_stored_are_those_of_the_reference(shared, name):
    image = (shared / "conformance/preprocess" / name).read_bytes()
    reference = (
        shared / f"conformance/preprocess/{name.removesuffix('.png') if 'rgba' in name else name}.convert_rgb.npy"
    )
    pixels = decode(image, AS_STORED)
    np.testing.assert_array_equal(pixels, np.load(reference))
    assert read_header(image, AS_STORED)[:2] == pixels.shape[1::-1]
    if "rgba" not in name:
        np.testing.assert_array_equal(decode(image, OVER_WHITE), pixels)


def test_alpha_over_white_is_chameleons_in_every_pixel(shared):
    folder = shared / "conformance/preprocess"
    expected = np.load(folder / "mode_rgba.chameleon_white.npy")
    np.testing.assert_array_equal(decode((folder / "mode_rgba.png").read_bytes(), OVER_WHITE), expected)


@pytest.mark.parametrize("limits", [AS_STORED, OVER_WHITE])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_image_as_stored_is_not_turned(limits, orientation):
    image = with_orientation(orientation)
    np.testing.assert_array_equal(decode(image, limits), PIXELS)
    assert read_header(image, limits) == ImageHeader(40, 24, "PNG")


def test_an_image_as_stored_forgets_transparency_or_is_blended_downwards_over_white():
    rgba = RNG.integers(0, 256, (24, 40, 4), dtype=np.uint8)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    np.testing.assert_array_equal(decode(encoded(rgba), AS_STORED), rgba[..., :3])
    alpha = rgba[..., 3:] / 255.0
    np.testing.assert_array_equal(
        decode(encoded(rgba), OVER_WHITE), ((1 - alpha) * 255 + alpha * rgba[..., :3]).astype(np.uint8)
    )


def test_an_image_as_stored_follows_no_profile():
    wide = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    place = wide.index(b"rXYZ")  # the tag table: red's and blue's primaries change places
    other = wide.index(b"bXYZ")
    wide[place : place + 4], wide[other : other + 4] = b"bXYZ", b"rXYZ"
    image = encoded(PIXELS, icc_profile=bytes(wide))
    assert np.abs(decode(image, LIMITS).astype(int) - PIXELS).max() > 50
    np.testing.assert_array_equal(decode(image, AS_STORED), PIXELS)


SMOOTH = np.asarray(Image.fromarray(PIXELS).resize((400, 240), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("least", "width"), [(0, 400), (130, 400), (120, 200), (60, 100), (10, 50)])
def test_a_jpeg_may_come_reduced_and_is_the_same_picture(least, width):
    picture = inspect(encoded(SMOOTH, "JPEG", quality=95), LIMITS, least).picture
    assert picture.size == (width, width * 240 // 400)
    expected = Image.fromarray(SMOOTH).reduce(400 // width)
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(expected)).mean() < 3


@pytest.mark.parametrize("progressive", [False, True])
def test_a_reduced_jpeg_is_dropped_where_the_whole_one_is(progressive):
    image = encoded(SMOOTH, "JPEG", progressive=progressive)
    for size in range(1, len(image), len(image) // 60):
        whole, reduced = decode(image[:size], LIMITS), inspect(image[:size], LIMITS, 32).picture
        assert isinstance(whole, Drop) == isinstance(reduced, Drop), size
        assert not isinstance(whole, Drop) or whole == reduced


def test_other_formats_come_whole():
    for kind in ("PNG", "WEBP", "TIFF"):
        assert inspect(encoded(SMOOTH, kind), LIMITS, 32).picture.size == (400, 240)


def test_what_pillow_warns_of_is_silent_though_another_filter_was_put_before_ours():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    with warnings.catch_warnings():
        for _ in range(2):
            warnings.simplefilter("error")
            images.decode(file.getvalue(), images.ImageLimits())
            assert warnings.filters[0] == images._QUIET
