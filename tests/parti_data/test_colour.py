import struct

import numpy as np
import pytest
from image_files import encode_pixels as encoded
from PIL import Image, ImageCms

from parti_data.colour import to_eight_bits, to_rgb
from parti_data.images import ImageLimits, decode

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
SRGB_TO_XYZ = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
"""sRGB's primaries under D50. Source: ICC's sRGB profile, adapted by Bradford's matrix."""
P3_TO_XYZ = np.array(
    [[0.515102, 0.291965, 0.157153], [0.241182, 0.692236, 0.0665819], [-0.00104941, 0.0418818, 0.784378]]
)
"""Those of Display P3."""
WHITE = (0.9642, 1.0, 0.8249)


def profile(primaries: np.ndarray | None, gamma: float, space: bytes = b"RGB ") -> bytes:
    """An ICC profile of primaries and one gamma, or grey where there are none."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(gamma * 256))
    if primaries is None:
        return packed({b"kTRC": curve}, space)
    columns = {name: xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True)}
    return packed({**columns, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}, space)


def ink_profile() -> bytes:
    """An ICC profile in which four inks are grey, and black darkens by 0.7, the others together by 0.3."""
    corners = np.stack(np.meshgrid(*[(0.0, 1.0)] * 4, indexing="ij"), -1).reshape(-1, 4)
    lightness = 1 - 0.7 * corners[:, 3] - 0.3 * corners[:, :3].mean(1)
    lab = np.stack([lightness * 0xFF00, *[np.full(16, 0x8000)] * 2], -1).astype(">u2").tobytes()
    identity = struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    ends = struct.pack(">2H", 0, 0xFFFF)
    table = b"mft2\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + struct.pack(">2H", 2, 2) + ends * 4 + lab + ends * 3
    return packed({b"A2B0": table}, b"CMYK", b"prtr", b"Lab ")


def packed(tags: dict[bytes, bytes], space: bytes, kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    """A profile of version 2 put together by hand. Source: ICC.1:2001-04, section 6."""
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(79)
    tags = {b"desc": text.ljust(96, b"\0"), b"wtpt": xyz(WHITE), b"cprt": b"text\0\0\0\0none", **tags}
    place, table, data = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(">I4sI4s4s4s12x4s", 128 + len(body), b"lcms", 0x02100000, kind, space, connection, b"acsp")
    return (head.ljust(68, b"\0") + xyz(WHITE)[8:]).ljust(128, b"\0") + body


def xyz(values) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def to_srgb(xyz: np.ndarray) -> np.ndarray:
    """XYZ under D50 to sRGB, 0 to 255. Source: IEC 61966-2-1."""
    linear = np.clip(xyz @ np.linalg.inv(SRGB_TO_XYZ).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("primaries", "gamma"), [(P3_TO_XYZ, 2.2), (SRGB_TO_XYZ, 1.0), (SRGB_TO_XYZ[:, ::-1], 1.8)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_the_colours_of_a_profile_are_those_that_its_numbers_say(primaries, gamma, kind):
    expected = to_srgb((PIXELS / 255) ** gamma @ primaries.T)
    options = {"lossless": True} if kind == "WEBP" else {}
    image = encoded(PIXELS, kind, icc_profile=profile(primaries, gamma), **options)
    found = decode(image, ImageLimits()).astype(float)
    assert np.abs(found - PIXELS).mean() > 3
    inside = ((expected > 8) & (expected < 247)).all(-1)  # at the ends the ways to fit colours in differ
    assert np.abs(found - expected)[inside].max() <= 3


def test_a_grey_profile_is_followed():
    grey = np.arange(16, 256, dtype=np.uint8).reshape(15, 16)  # darker ones are interpolated, and 10 levels off
    icc = profile(None, 1.0, b"GRAY")
    expected = to_srgb((grey / 255)[..., None] * np.array(WHITE))
    assert np.abs(decode(encoded(grey, icc_profile=icc), ImageLimits()) - expected).max() <= 2
    with_alpha = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (16, 15), 255)])
    assert np.abs(decode(encoded(with_alpha, icc_profile=icc), ImageLimits()) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_the_inks_of_a_profile_are_mixed_as_it_says(kind):
    black = np.repeat(np.arange(0, 240, 16, dtype=np.uint8), 16).reshape(15, 16)
    inks = np.dstack([255 - black, black // 4, black // 2, black])
    lightness = 100 - (70.0 * inks[..., 3] + 30 * inks[..., :3].mean(-1)) / 255
    luminance = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    expected = to_srgb(luminance[..., None] * np.array(WHITE))
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image = encoded(Image.fromarray(inks, "CMYK"), kind, icc_profile=ink_profile(), **options)
    assert np.abs(decode(image, ImageLimits()) - expected).max() <= 3


def test_a_profile_converts_what_is_seen_and_leaves_the_transparency():
    rgba = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])
    rgba[:6, :, 3] = 0
    icc = profile(P3_TO_XYZ, 2.2)
    found = decode(encoded(rgba, icc_profile=icc), ImageLimits())
    assert (found[:6] == 255).all()
    np.testing.assert_array_equal(found[6:], decode(encoded(PIXELS, icc_profile=icc), ImageLimits())[6:])


SRGB_LIKE = {
    "Pillow's": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "said otherwise": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    .tobytes()
    .replace(b"s\0R\0G\0B", b"x\0y\0z\0!"),
}
USELESS = {
    "noise": RNG.bytes(3000),
    "empty": b"",
    "short": profile(P3_TO_XYZ, 2.2)[:100],
    "cut": profile(P3_TO_XYZ, 2.2)[:300],
    "of other colours": profile(None, 1.0, b"GRAY"),
    "of ink": profile(P3_TO_XYZ, 2.2, b"CMYK"),
    "of a program": profile(P3_TO_XYZ, 2.2) + b"mpet",
    "too large": profile(P3_TO_XYZ, 2.2) + bytes(1 << 20),
}


@pytest.mark.parametrize("icc", [*SRGB_LIKE.values(), *USELESS.values()], ids=[*SRGB_LIKE, *USELESS])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_profile_of_srgb_or_of_no_use_changes_nothing(icc, kind):
    plain = decode(encoded(PIXELS, kind), ImageLimits())
    np.testing.assert_array_equal(decode(encoded(PIXELS, kind, icc_profile=icc), ImageLimits()), plain)


def test_ink_without_a_profile_that_fits_is_as_without_any():
    ink = Image.fromarray(RNG.integers(0, 256, (24, 40, 4), dtype=np.uint8), "CMYK")
    np.testing.assert_array_equal(np.asarray(to_rgb(ink, profile=profile(P3_TO_XYZ, 2.2))), np.asarray(to_rgb(ink)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 127.4, 255.0], [0, 127, 255]),
        ([0.0, 32768.0, 65535.0], [0, 128, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 50_000.0, 100_000.0], [0, 128, 255]),
        ([7.0, 7.0, 7.0], [7, 7, 7]),
        ([-7.0, -7.0, -7.0], [0, 0, 0]),
        ([np.nan, 0.5, 1.0], [0, 128, 255]),
        ([np.inf, 0.5, -np.inf], [255, 128, 0]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
    ],
)
def test_floats_are_scaled_from_the_smallest_range_that_holds_them(values, expected):
    found = to_eight_bits(np.array(values, np.float32))
    assert found.dtype == np.uint8
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1, 255], [0, 1, 255]), ([0, 256, 65535], [0, 1, 255]), ([0, 1, 1], [0, 1, 1]),
     ([-100, 0, 100], [0, 128, 255]), ([-(2**31), 0, 2**31 - 1], [0, 128, 255])],
)  # fmt: skip
def test_integers_are_scaled_from_the_smallest_range_that_holds_them(values, expected):
    assert to_eight_bits(np.array(values, np.int32)).tolist() == expected


def test_deep_images_are_scaled_and_not_clipped():
    floats = np.linspace(0, 1, 960, dtype=np.float32).reshape(24, 40)
    expected = np.rint(floats * 255).astype(np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(floats), "TIFF"), ImageLimits())[..., 0], expected)
    integers = (np.arange(960, dtype=np.int32) * 68).reshape(24, 40)
    found = decode(encoded(Image.fromarray(integers), "TIFF"), ImageLimits())[..., 1]
    np.testing.assert_array_equal(found, np.rint(integers / 257).astype(np.uint8))


def test_a_transparent_grey_of_16_bits_shows_the_background():
    deep = np.full((24, 40), 0x1234, np.uint16)
    deep[:5] = 0x0FFF
    found = decode(encoded(Image.fromarray(deep), transparency=0x1234), ImageLimits(background="#0a0b0c"))
    assert (found[5:] == (10, 11, 12)).all()
    assert (found[:5] == 0x0F).all()
