import time

import numpy as np
from hostile_images import SRGB
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import (
    encoded,
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
)

from parti_data.images import FORMATS, Drop, ImageLimits, decode, inspect

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20)
FILES = [
    jpeg(1), jpeg(2, jpeg_segment(0xE1, b"Exif\0\0" + exif_turned(6)), progressive=True), jpeg(3, icc_profile=SRGB),
    encoded(picture(4).convert("CMYK"), "JPEG"),
    png(5), png(6, png_chunk(b"eXIf", exif_turned(3)) + png_chunk(b"zTXt", b"k\0\0" + SRGB)), frames(7, 3, "PNG"),
    encoded(picture(8).quantize(16), "PNG", transparency=3), encoded(picture(9).convert("LA"), "PNG"),
    gif(10), frames(11, 3, "GIF"), gif(12, b"!\xfe\5hello\0", transparency=1),
    encoded(picture(13), "WEBP"), encoded(picture(14), "WEBP", lossless=True), frames(15, 3, "WEBP"),
    riff(vp8x(40, 24, 8), webp_chunks(encoded(picture(16), "WEBP"))[0], (b"EXIF", exif_turned(5))),
    encoded(picture(17), "BMP"), encoded(picture(18).convert("P"), "BMP"), encoded(picture(19).convert("RGBA"), "BMP"),
    tiff(20), tiff(21, {274: (3, [7])}, order=">"), tiff(22, is_big=True),
    *[encoded(picture(23), "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "zstd", "lzma")],
    encoded(picture(26), "TIFF", icc_profile=SRGB), encoded(picture(24).convert("F"), "TIFF"),
    encoded(picture(25).convert("1"), "TIFF", compression="group4"),
]  # fmt: skip


@settings(max_examples=1500, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_a_mutated_image_gives_pixels_or_a_drop(data):
    image = bytearray(data.draw(st.sampled_from(FILES)))
    for _ in range(data.draw(st.integers(1, 5))):
        near = data.draw(st.sampled_from([64, 600, len(image)]))  # headers stand at the front, TIFF's at the end
        place = data.draw(st.integers(0, min(near, len(image)) - 1))
        place = len(image) - 1 - place if data.draw(st.booleans()) else place
        change = data.draw(st.sampled_from(["set", "flip", "most", "cut", "double", "drop"]))
        if change == "set":
            image[place] = data.draw(st.integers(0, 255))
        elif change == "flip":
            image[place] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "most":
            image[place : place + 4] = b"\xff\xff\xff\xff"[: len(image) - place]
        elif change == "double":
            image[place:place] = image[place : place + 40]
        elif change == "drop":
            del image[place : place + data.draw(st.integers(1, 8))]
        elif place:
            del image[place:]
        if not image:
            break
    began = time.process_time()
    header, picture = inspect(bytes(image), LIMITS)
    assert time.process_time() - began < 2
    if isinstance(picture, Drop):
        assert picture.reason.startswith("image_")
        assert len(picture.detail) <= 200
        assert "\n" not in picture.detail
    else:
        assert (picture.mode, picture.size) == ("RGB", (header.width, header.height))
        assert header.format in FORMATS


def test_every_file_is_valid_before_it_is_mutated():
    for image in FILES:
        assert isinstance(decode(image, LIMITS), np.ndarray)
    assert {inspect(image, LIMITS).header.format for image in FILES} == set(FORMATS)
