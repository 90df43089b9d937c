import io

import numpy as np
import pytest
from image_files import (
    encode_pixels,
    encoded,
    exif,
    exif_turned,
    frames,
    gif,
    jpeg,
    jpeg_segment,
    picture,
    png,
    png_chunk,
    riff,
    tiff,
    vp8x,
    webp_chunks,
)  # fmt: skip
from PIL import Image, ImageCms

from parti_data.containers import read_container
from parti_data.containers.exif import read_orientation

MARK = b"what nobody needs to see"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RGBA = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)
EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E] = 6, MARK.decode()
FILES = {
    "jpeg": jpeg(1, jpeg_segment(0xFE, MARK), jpeg_segment(0xED, MARK)),
    "jpeg with exif and profile": encoded(picture(2), "JPEG", exif=EXIF, icc_profile=ICC, comment=MARK),
    "jpeg, progressive": encoded(picture(3), "JPEG", progressive=True, comment=MARK),
    "jpeg, ink": encoded(Image.fromarray(RGBA, "CMYK"), "JPEG", comment=MARK),
    "jpeg, grey": encoded(picture(4).convert("L"), "JPEG"),
    "jpeg of two pictures": encoded(picture(5), "MPO", save_all=True, append_images=[picture(99)]),
    "png": png(6, png_chunk(b"tEXt", b"k\0" + MARK), png_chunk(b"tEXt", b"k\0" + MARK)),
    "png with exif and profile": encoded(picture(7), "PNG", exif=EXIF, icc_profile=ICC),
    "png, palette": encoded(picture(8).quantize(30), "PNG", transparency=3),
    "png, bits": encoded(picture(9).convert("1"), "PNG"),
    "png, 16 bits": encode_pixels(np.arange(960, dtype=np.uint16).reshape(24, 40) * 60),
    "png, animated": frames(10, 3, "PNG"),
    "png, animated behind a picture": encoded(
        picture(11), "PNG", save_all=True, append_images=[picture(98), picture(99)], default_image=True
    ),
    "gif": gif(12, b"!\xfe\x18" + MARK + b"\0"),
    "gif, transparent": encoded(picture(13).quantize(30), "GIF", transparency=3, comment=MARK),
    "gif, animated": frames(14, 3, "GIF"),
    "gif, interlaced": encoded(picture(15).quantize(30), "GIF", interlace=1),
    "webp": encoded(picture(16), "WEBP", exif=EXIF, icc_profile=ICC, xmp=MARK),
    "webp, lossless": encoded(picture(17), "WEBP", lossless=True),
    "webp, transparent": encode_pixels(RGBA, "WEBP", exif=EXIF),
    "webp, animated": frames(18, 3, "WEBP"),
    "bmp": encoded(picture(19), "BMP"),
    "bmp, palette": encoded(picture(20).quantize(30), "BMP"),
    "tiff": encoded(picture(21), "TIFF", exif=EXIF, icc_profile=ICC),
    "tiff, big": tiff(22, is_big=True),
    "tiff, other order": tiff(23, order=">"),
    "tiff, pages": encoded(picture(24), "TIFF", save_all=True, append_images=[picture(99)]),
    "tiff, deflated": encoded(picture(25), "TIFF", compression="tiff_deflate", description=MARK.decode()),
    "tiff, floats": encoded(picture(26).convert("F"), "TIFF"),
    "tiff, palette": encoded(picture(27).quantize(30), "TIFF"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_left_of_a_file_has_the_pixels_that_pillow_sees_in_all_of_it(name):
    container = read_container(FILES[name])
    with Image.open(io.BytesIO(FILES[name])) as whole, Image.open(io.BytesIO(container.content)) as left:
        stored = whole if whole.format != "TIFF" else left  # Pillow turns a TIFF when it loads it
        assert container.format == left.format == {"MPO": "JPEG"}.get(str(whole.format), whole.format)
        assert (container.width, container.height) == left.size == stored.size
        assert container.orientation == whole.getexif().get(0x0112, 1)
        assert container.profile == whole.info.get("icc_profile", b"")
        assert container.is_animated == (getattr(whole, "n_frames", 1) > 1 and whole.format not in ("TIFF", "MPO"))
        expected = np.asarray(whole.convert("RGBA" if whole.has_transparency_data else "RGB"))
        found = np.asarray(left.convert("RGBA" if left.has_transparency_data else "RGB"))
        if whole.format == "TIFF" and container.orientation == 6:
            found = np.rot90(found, -1)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", FILES)
def test_what_is_left_of_a_file_holds_nothing_else(name):
    content = read_container(FILES[name]).content
    assert len(content) <= len(FILES[name])
    if not name.startswith("tiff"):  # there it lies where nothing points to
        assert MARK not in content
        assert ICC[:64] not in content
    with Image.open(io.BytesIO(content)) as left:
        assert not left.getexif().get(0x010E)
        assert "icc_profile" not in left.info
        if left.format != "WEBP":
            assert getattr(left, "n_frames", 1) == 1


def test_a_webp_without_its_metadata_says_its_own_length():
    image = riff(vp8x(40, 24, 8), webp_chunks(encoded(picture(1), "WEBP"))[0], (b"EXIF", b"odd"))
    content = read_container(image).content
    assert int.from_bytes(content[4:8], "little") == len(content) - 8


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_found_among_other_entries(order):
    entries = [(0x0100, 3, 1, 7), (0x0112, 3, 1, 6 if order == "<" else 6 << 16), (0x0131, 2, 4, 0)]
    assert read_orientation(exif(entries, order)) == read_orientation(b"Exif\0\0" + exif(entries, order)) == 6
    assert read_orientation(exif([(0x0112, 4, 1, 8)], order)) == 8


@pytest.mark.parametrize("value", [0, 9, 255, 65_535])
def test_an_orientation_that_does_not_exist_is_none(value):
    assert read_orientation(exif_turned(value)) == 1


def test_exif_cut_anywhere_has_an_orientation_or_none():
    whole = exif_turned(6)
    assert {read_orientation(whole[:size]) for size in range(len(whole))} == {1, 6}
