"""Hostile and odd image files, made by code, each with the reason that it must end in ("" for kept).

Limits: `LIMITS` of 1 MB and a million pixels, so that what is too large stays small here.
"""

import gzip
import pickle
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from image_files import (
    bmp,
    encoded,
    exif,
    exif_turned,
    find_segment,
    frames,
    gif,
    gif_palette,
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

from parti_data.images import ImageLimits

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000)
UNREADABLE, UNDECODABLE, PIXELS, BYTES = (
    "image_unreadable", "image_undecodable", "image_too_many_pixels", "image_too_many_bytes",
)  # fmt: skip
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
BOMB = zlib.compress(bytes(64 << 20), 1)
"""64 MB in 300 kB."""
Cases = Iterator[tuple[str, bytes, str]]


def hostile_images() -> dict[str, tuple[bytes, str]]:
    """Every file by its name, with its reason; no two files are the same."""
    families = (no_images, cut_short, pixel_bombs, png_files, jpeg_files, gif_files, webp_files, bmp_files, tiff_files)
    found = {name: (content, reason) for family in families for name, content, reason in family()}
    assert len({content for content, _ in found.values()}) == len(found)
    return found


def no_images() -> Cases:
    """What stands where an image should be."""
    contents = {
        "empty": b"", "one byte": b"\xff", "zeros": bytes(5000), "html": b"<!doctype html><img src=x>",
        "text": b"image not available", "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "pdf": b"%PDF-1.7\n", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n", "elf": b"\x7fELF" + bytes(60),
        "zip": b"PK\x03\x04" + bytes(60), "gzip": gzip.compress(bytes(1000), mtime=0), "pickle": pickle.dumps([1]),
        "mp4": b"\0\0\0\x20ftypisom" + bytes(40), "noise": np.random.default_rng(1).bytes(5000),
        "psd": b"8BPS\0\x01" + bytes(40), "json": b'{"error": 404}', "byte order mark": b"\xef\xbb\xbf\xff\xd8\xff",
    }  # fmt: skip
    yield from ((f"no image: {name}", content, UNREADABLE) for name, content in contents.items())
    for kind in ("ICO", "PPM", "PCX", "TGA", "JPEG2000", "AVIF", "DDS", "SGI", "IM"):
        yield f"format: {kind}", encoded(picture(2), kind), UNREADABLE
    signatures = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "gif": b"GIF89a", "webp": b"RIFF\0\0\0\0WEBP",
                  "bmp": b"BM", "tiff": b"II*\0", "bigtiff": b"MM\0+"}  # fmt: skip
    for name, signature in signatures.items():
        yield f"signature alone: {name}", signature, UNREADABLE
        yield f"signature and zeros: {name}", signature + bytes(400), UNREADABLE
        yield f"signature and 0xff: {name}", signature + b"\xff" * 401, PIXELS if name == "png" else UNREADABLE
    yield "too many bytes", png(3) + bytes(1_000_000), BYTES


def cut_short() -> Cases:
    for number, kind in enumerate(("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")):
        image = encoded(picture(10 + number), kind)
        yield f"cut in the header: {kind}", image[:15], UNREADABLE
        reason = UNREADABLE if kind == "WEBP" else UNDECODABLE  # WebP's decoder reads all when it opens a file
        yield f"cut in the middle: {kind}", image[: len(image) // 2], reason
        yield f"cut near the end: {kind}", image[: len(image) - 60], reason


def pixel_bombs() -> Cases:
    """Headers that claim more pixels than there may be, in files of a few hundred bytes."""
    yield "pixels: png", png(20, size=(65_000, 65_000), data=zlib.compress(bytes(1 << 16))), PIXELS
    yield "pixels: png of 2**31", png(20, size=(2**31 - 1, 2**31 - 1)), PIXELS
    yield "pixels: png of one row", png(20, size=(2**31 - 1, 1)), PIXELS
    yield "side: png", png(20, size=(70_000, 1)), PIXELS
    whole = jpeg(21)
    frame = find_segment(whole, 0xC0)
    yield "pixels: jpeg", whole[: frame + 5] + b"\xff\xff\xff\xff" + whole[frame + 9 :], PIXELS
    screen = gif(22)
    yield "pixels: gif screen", screen[:6] + b"\xff\xff\xff\xff" + screen[10:], PIXELS
    first = screen.index(b",", gif_palette(screen))
    yield "pixels: gif frame", screen[: first + 1] + b"\xff\xff" * 4 + screen[first + 9 :], PIXELS
    yield "pixels: webp canvas", riff(vp8x(1 << 24, 1 << 24, 2), (b"ANIM", bytes(6))), PIXELS
    yield "pixels: webp lossless", riff((b"VP8L", b"\x2f" + b"\xff\xff\xff\x0f" + bytes(20))), PIXELS
    lossy = b"\x30\x01\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383) + bytes(20)
    yield "pixels: webp lossy", riff((b"VP8 ", lossy)), PIXELS
    yield "pixels: bmp", bmp(60_000, 60_000, bytes(100)), PIXELS
    yield "pixels: bmp from the top", bmp(60_000, -60_000, bytes(100)), PIXELS
    yield "side: bmp of run lengths", bmp(900_000, 1, b"\0\2\xff\xff\0\1", 8, 1, bytes(range(256)) * 4), PIXELS
    yield "pixels: tiff", tiff(23, {256: (4, [60_000]), 257: (4, [60_000])}), PIXELS
    yield "pixels: bigtiff", tiff(23, {256: (16, [2**40]), 257: (16, [2**40])}, is_big=True), PIXELS
    tiles = {273: (4, []), 278: (3, []), 279: (4, []), 322: (4, [2**20]), 323: (4, [2**12]), 324: (4, [8]),
             325: (4, [100])}  # fmt: skip
    yield "pixels: tile of a tiff", tiff(23, tiles), PIXELS
    yield "pixels: deflated tile of a tiff", tiff(
        23, {**tiles, 259: (3, [8])}, data=zlib.compress(bytes(1 << 16))
    ), PIXELS  # fmt: skip


def png_files() -> Cases:
    yield "png: zTXt bomb", png(30, png_chunk(b"zTXt", b"k\0\0" + BOMB)), ""
    yield "png: iTXt bomb", png(31, png_chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB)), ""
    yield (
        "png: texts of 800 kB",
        png(32, b"".join(png_chunk(b"tEXt", b"k%d\0" % n + b"x" * 800) for n in range(1000))),
        "",
    )
    yield "png: text bomb behind the data", png(33, after=png_chunk(b"zTXt", b"k\0\0" + BOMB)), ""
    yield "png: profile bomb", png(34, png_chunk(b"iCCP", b"p\0\0" + BOMB)), ""
    yield "png: broken profile", png(35, png_chunk(b"iCCP", b"p\0\0" + b"not zlib")), ""
    yield "png: empty profile", png(36, png_chunk(b"iCCP", b"")), ""
    yield "png: profile of noise", png(37, png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(range(256)) * 20))), ""
    yield "png: text without its checksum", png(38, png_chunk(b"tEXt", b"k\0v")[:-4] + b"oops"), ""
    yield "png: exif behind the data", png(39, after=png_chunk(b"eXIf", exif_turned(6))), ""
    yield "png: exif of noise", png(40, png_chunk(b"eXIf", b"II*\0" + b"\xff" * 400)), ""
    yield "png: exif bomb", png(41, png_chunk(b"eXIf", _exif_bomb(500_000))), ""
    yield "png: unknown critical chunk", png(42, png_chunk(b"ABCD", b"?")), ""
    yield "png: no end", png(43, end=b""), ""
    yield "png: bytes behind the end", png(44) + b"<script>" * 100, ""
    yield "png: data of far more rows", png(45, data=BOMB), ""
    yield "png: animation of 300 frames", frames(46, 300, "PNG"), ""
    yield "png: animation control of noise", png(47, png_chunk(b"acTL", b"\xff" * 3)), ""
    yield "png: frames without an animation", png(48, after=png_chunk(b"fdAT", bytes(40)) * 50), ""
    yield "png: 16 bits", encoded(Image.fromarray(np.arange(960, dtype=np.uint16).reshape(24, 40) * 68), "PNG"), ""
    yield "png: interlaced claim", png(49)[:28] + b"\1" + png(49)[29:], UNREADABLE  # its checksum no longer fits
    whole = png(50)
    yield "png: data that lie about their checksum", whole.replace(whole[-20:-16], b"oops"), UNDECODABLE
    yield "png: header of zero width", png(51, size=(0, 24)), UNREADABLE
    yield "png: header of depth 3", png(52, depth=3), UNREADABLE
    yield "png: header of colour 5", png(53, colour=5), UNREADABLE
    yield "png: no header", whole[:8] + whole[33:], PIXELS  # what stands there instead is read as a size
    yield "png: no data", whole[:33] + whole[-12:], UNDECODABLE
    yield "png: chunk of 4 GB", whole[:33] + b"\xff\xff\xff\xffIDAT" + whole[41:], ""
    yield "png: data that are no zlib", png(54, data=b"nothing" * 30), UNDECODABLE
    yield "png: data that end early", png(55, data=zlib.compress(bytes(300))), UNDECODABLE
    yield "png: rows of a filter that is none", png(56, data=zlib.compress((b"\x09" + bytes(120)) * 24)), UNDECODABLE
    yield "png: palette picture without palette", png(57, colour=3, data=zlib.compress(bytes(41 * 24))), UNDECODABLE
    yield "png: palette entries beyond the palette", png(
        58, png_chunk(b"PLTE", b"\1\2\3"), colour=3, data=zlib.compress((b"\0" + b"\xfe" * 40) * 24)
    ), ""  # fmt: skip


def _exif_bomb(count_bytes: int) -> bytes:
    """A directory whose every entry claims the same bytes."""
    entries = [(tag, 7, count_bytes, 8) for tag in range(1, 5000)]
    return exif(entries).ljust(count_bytes + 8, b"\0")


def jpeg_files() -> Cases:
    parts = [jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 2]) + SRGB[::2]) for number in (1, 2)]
    yield "jpeg: exif bomb", jpeg(60, jpeg_segment(0xE1, b"Exif\0\0" + _exif_bomb(60_000))), ""
    yield "jpeg: exif bomb in ten segments", jpeg(61, *[jpeg_segment(0xE1, b"Exif\0\0" + _exif_bomb(60_000))] * 10), ""
    yield "jpeg: exif of noise", jpeg(62, jpeg_segment(0xE1, b"Exif\0\0" + b"\xff" * 999)), ""
    yield "jpeg: exif that points at itself", jpeg(63, jpeg_segment(0xE1, b"Exif\0\0II*\0" + struct.pack("<I", 4))), ""
    yield "jpeg: turned", jpeg(64, jpeg_segment(0xE1, b"Exif\0\0" + exif_turned(8))), ""
    yield "jpeg: profile lacks a part", jpeg(65, parts[0]), ""
    yield "jpeg: profile has a part twice", jpeg(66, *parts, parts[1]), ""
    yield "jpeg: profile of noise", jpeg(67, jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(range(256)) * 4)), ""
    yield "jpeg: profile of 14 parts, too large", jpeg(
        68, *[jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes([n + 1, 14]) + bytes(65_000)) for n in range(14)]
    ), ""  # fmt: skip
    yield "jpeg: profile that says it is of 4 GB", jpeg(69, icc_profile=b"\xff\xff\xff\xff" + SRGB[4:]), ""
    yield "jpeg: profile of a program", jpeg(70, icc_profile=SRGB + b"mpet" * 1000), ""
    yield "jpeg: 3,000 comments", jpeg(71, *[jpeg_segment(0xFE, b"")] * 3000), ""
    yield "jpeg: 200,000 comments", jpeg(72, *[jpeg_segment(0xFE, b"")] * 200_000), UNREADABLE
    yield "jpeg: padding of 900 kB", jpeg(73, b"\xff" * 900_000), ""
    yield "jpeg: zeros between segments", jpeg(74, jpeg_segment(0xFE, b"") + bytes(900_000)), ""
    yield "jpeg: bytes behind the end", jpeg(75, after=b"<?php" * 1000), ""
    yield "jpeg: another picture behind it", encoded(picture(76), "MPO", save_all=True, append_images=[picture(9)]), ""
    yield "jpeg: index of pictures that is broken", jpeg(77, jpeg_segment(0xE2, b"MPF\0" + b"\xff" * 30)), ""
    yield "jpeg: Photoshop's block broken", jpeg(78, jpeg_segment(0xED, b"Photoshop 3.0\x008BIM\xff\xff\xff")), ""
    yield "jpeg: Adobe's segment short", jpeg(79, jpeg_segment(0xEE, b"Adobe")), UNREADABLE
    cmyk = Image.fromarray(np.random.default_rng(80).integers(0, 256, (24, 40, 4), dtype=np.uint8), "CMYK")
    yield "jpeg: four inks", encoded(cmyk, "JPEG"), ""
    progressive = jpeg(81, progressive=True)
    yield "jpeg: progressive", progressive, ""
    scan = progressive.index(b"\xff\xda")
    end = progressive.index(b"\xff", scan + 2)
    yield "jpeg: 20,000 scans", progressive[:end] + progressive[scan:end] * 20_000 + progressive[end:], UNREADABLE
    plain = jpeg(82)
    frame, scan = find_segment(plain, 0xC0), plain.index(b"\xff\xda")
    yield "jpeg: zero width", plain[: frame + 7] + b"\0\0" + plain[frame + 9 :], UNREADABLE
    yield "jpeg: zero height", plain[: frame + 5] + b"\0\0" + plain[frame + 7 :], UNREADABLE
    yield "jpeg: 12 bits a channel", plain[: frame + 4] + b"\x0c" + plain[frame + 5 :], UNREADABLE
    yield "jpeg: two frames", plain[:frame] + plain[frame : frame + 19] * 2 + plain[frame + 19 :], UNDECODABLE
    yield "jpeg: no frame", plain[:frame] + plain[frame + 19 :], UNREADABLE
    yield "jpeg: no Huffman tables", plain[: frame + 19] + plain[scan:], ""  # the standard's own are taken
    yield "jpeg: no quantization tables", plain[:20] + plain[frame:], UNDECODABLE
    yield "jpeg: no scan", plain[:scan] + b"\xff\xd9", UNREADABLE
    yield "jpeg: end before all", b"\xff\xd8\xff\xd9" + plain[2:], UNREADABLE
    yield "jpeg: segment of length 0", plain[:2] + b"\xff\xe5\0\0" + plain[2:], ""
    yield "jpeg: components of 255", plain[: frame + 9] + b"\xff" + plain[frame + 10 :], UNREADABLE
    yield "jpeg: arithmetic claim", plain[: frame + 1] + b"\xc9" + plain[frame + 2 :], ""
    yield "jpeg: lossless claim", plain[: frame + 1] + b"\xc3" + plain[frame + 2 :], UNDECODABLE


def gif_files() -> Cases:
    yield "gif: comment of 900 kB", gif(90, b"!\xfe" + (b"\xff" + b"x" * 255) * 3500 + b"\0"), ""
    yield "gif: 4,000 comments", gif(91, b"!\xfe\1x\0" * 4000), ""
    yield "gif: 100,000 controls", gif(92, b"!\xf9\4\0\0\0\0\0" * 100_000), UNREADABLE
    yield "gif: 400 frames", frames(93, 400, "GIF"), ""
    yield "gif: blocks that never end", gif(94)[:800] + b"!\xfe" + b"\1x" * 200_000, UNDECODABLE
    whole = gif(95)
    first = whole.index(b",", gif_palette(whole))
    yield "gif: no frame", whole[:first] + b";", UNREADABLE
    yield "gif: frame of zero size", whole[: first + 5] + bytes(4) + whole[first + 9 :], UNDECODABLE
    yield "gif: screen of zero size", whole[:6] + bytes(4) + whole[10:], ""
    yield "gif: frame beyond the screen", whole[:6] + b"\x09\0\x09\0" + whole[10:], ""
    yield "gif: frame without data", whole[: first + 10] + b"\x06\0;", UNDECODABLE
    yield "gif: code size of 200", whole[: first + 10] + b"\xc8" + whole[first + 11 :], UNDECODABLE
    noise = np.random.default_rng(96).bytes(250)
    yield "gif: codes of noise", whole[: first + 10] + b"\x06\xfa" + noise + b"\0;", UNDECODABLE
    yield "gif: no end", gif(97)[:-1], ""
    yield "gif: zeros before the frame", gif(98, bytes(500_000)), ""
    yield "gif: control too short", gif(99, b"!\xf9\1\1\0"), UNREADABLE


def webp_files() -> Cases:
    lossy, lossless = encoded(picture(110), "WEBP"), encoded(picture(111), "WEBP", lossless=True)
    data = webp_chunks(lossy)[0]
    yield "webp: lossy", lossy, ""
    yield "webp: lossless", lossless, ""
    yield "webp: 100 frames", frames(112, 100, "WEBP"), ""
    yield "webp: exif bomb", riff(vp8x(40, 24, 8), data, (b"EXIF", _exif_bomb(500_000))), ""
    yield "webp: exif of noise", riff(vp8x(40, 24, 8), data, (b"EXIF", b"\xff" * 99)), ""
    yield "webp: profile of noise", riff(vp8x(40, 24, 32), (b"ICCP", b"\xff" * 999), data), ""
    yield "webp: profile that is not there", riff(vp8x(40, 24, 32), data), ""
    yield "webp: 50,000 chunks", riff(vp8x(40, 24), data, *[(b"JUNK", b"")] * 50_000), ""
    yield "webp: 100,000 chunks", riff(vp8x(40, 24), data, *[(b"JUNK", b"")] * 100_000), UNREADABLE
    yield "webp: canvas larger than its picture", riff(vp8x(90, 90), data), UNREADABLE
    yield "webp: no picture", riff(vp8x(40, 24)), UNREADABLE
    yield "webp: alpha of noise", riff(vp8x(40, 24, 16), (b"ALPH", b"\xff" * 30), data), UNDECODABLE
    yield "webp: length of 4 GB", lossy[:4] + b"\xf0\xff\xff\xff" + lossy[8:], UNREADABLE
    yield "webp: noise in the picture", lossless[:30] + bytes(len(lossless) - 30), UNDECODABLE


def bmp_files() -> Cases:
    rows = np.asarray(picture(120)).tobytes()
    palette = bytes(range(256)) * 4
    yield "bmp: plain", bmp(40, 24, rows), ""
    yield "bmp: from the top", bmp(40, -24, rows), ""
    yield "bmp: data missing", bmp(40, 24, rows[:99]), UNDECODABLE
    yield "bmp: 7 bits", bmp(40, 24, rows, bits=7), UNREADABLE
    yield "bmp: header of 4 GB", bmp(40, 24, rows, header_bytes=2**32 - 1), UNREADABLE
    yield "bmp: header of an unknown kind", bmp(40, 24, rows, header_bytes=41), UNREADABLE
    yield "bmp: compressed as jpeg", bmp(40, 24, rows, compression=4), UNREADABLE
    yield "bmp: run lengths", bmp(40, 24, (b"\x28\7\0\0" * 24) + b"\0\1", 8, 1, palette), ""
    yield "bmp: run lengths that jump", bmp(40, 24, b"\0\2\xff\xff" * 50 + b"\0\1", 8, 1, palette), ""
    yield "bmp: run lengths that end early", bmp(40, 24, b"\x28\7\0\0", 8, 1, palette), UNDECODABLE
    yield "bmp: negative width", bmp(-40, 24, rows), UNREADABLE
    yield "bmp: zero height", bmp(40, 0, rows), UNREADABLE
    broken = bmp(40, 24, rows[:960], 8, 0, palette)
    yield "bmp: palette of 2**31 colours", broken[:46] + struct.pack("<I", 2**31) + broken[50:], UNREADABLE


def tiff_files() -> Cases:
    yield "tiff: plain", tiff(130), ""
    yield "tiff: other byte order", tiff(131, order=">"), ""
    yield "tiff: big", tiff(132, is_big=True), ""
    yield "tiff: turned", tiff(133, {274: (3, [5])}), ""
    yield "tiff: turned by 99", tiff(134, {274: (3, [99])}), ""
    yield "tiff: directory after itself", tiff(135, next_directory=8), ""
    yield "tiff: ten pages", encoded(picture(136), "TIFF", save_all=True, append_images=[picture(9)] * 9), ""
    texts = {tag: (7, [1] * 900) for tag in range(40_000, 40_200)}
    yield "tiff: 200 unknown tags", tiff(137, texts), ""
    bomb = tiff(138, {tag: (4, [0, 0]) for tag in range(40_000, 44_000)})
    wide = bomb.replace(struct.pack("<HI", 4, 2), struct.pack("<HI", 4, len(bomb) // 8))
    yield "tiff: 4,000 tags of the whole file each", wide, ""
    yield "tiff: 5,000 tags", tiff(139, {tag: (3, [1]) for tag in range(40_000, 45_000)}), UNREADABLE
    yield "tiff: exif directory at the end", tiff(140, {34665: (4, [2**32 - 1])}), ""
    yield "tiff: profile of noise", tiff(141, {34675: (7, [255] * 4000)}), ""
    yield "tiff: profile beyond the file", _with_count(tiff(142, {34675: (7, [255] * 4000)}), 34675, 900_000), ""
    yield "tiff: profile of 4 GB", _with_count(tiff(143, {34675: (7, [255] * 4000)}), 34675, 2**32 - 1), ""
    yield "tiff: strips of 4 GB", _with_count(tiff(144), 273, 2**32 - 1), UNREADABLE
    yield "tiff: 260,000 strips", _with_count(tiff(145), 273, 260_000), UNREADABLE
    yield "tiff: strip beyond the file", tiff(146, {273: (4, [2**31])}), UNDECODABLE
    yield "tiff: no strips", tiff(147, {273: (4, [])}), UNREADABLE
    yield "tiff: no width", tiff(148, {256: (3, [])}), UNREADABLE
    yield "tiff: 65,535 channels", tiff(149, {277: (3, [65_535])}), UNREADABLE
    yield "tiff: 4 billion channels", tiff(150, {277: (4, [2**32 - 1])}), UNREADABLE
    yield "tiff: 9 bits", tiff(151, {258: (3, [9, 9, 9])}), UNREADABLE
    yield "tiff: unknown compression", tiff(152, {259: (3, [777])}), UNREADABLE
    for name, compression in {"LZW": 5, "deflate": 8, "fax": 4, "jpeg": 7, "old jpeg": 6, "zstd": 50_000}.items():
        yield f"tiff: {name} of noise", tiff(153, {259: (3, [compression])}), UNDECODABLE
    yield "tiff: deflate bomb", tiff(154, {259: (3, [8])}, data=BOMB), ""
    yield "tiff: directory in the middle of nowhere", b"II*\0\xff\xff\xff\x7f" + bytes(400), UNREADABLE
    yield "tiff: floats", encoded(Image.fromarray(np.linspace(0, 1, 960, dtype=np.float32).reshape(24, 40)), "TIFF"), ""
    infinite = np.full((24, 40), np.nan, np.float32)
    infinite[0, :2] = np.inf, -np.inf
    yield "tiff: floats that are none", encoded(Image.fromarray(infinite), "TIFF"), ""
    deep = np.arange(960, dtype=np.int32).reshape(24, 40) * 2_000_000 - 10**9
    yield "tiff: 32 bits", encoded(Image.fromarray(deep), "TIFF"), ""
    huge = {273: (4, []), 278: (3, []), 279: (4, []), 322: (9, [2**20]), 323: (9, [2**12]), 324: (4, [8]),
            325: (4, [100])}  # fmt: skip
    yield "tiff: huge tiles of signed sides", tiff(157, huge), UNREADABLE
    yield "tiff: huge tiles of wide sides", tiff(157, {**huge, 322: (16, [2**20]), 323: (16, [2**12])}), UNREADABLE
    yield (
        "tiff: huge tiles of two sides each",
        tiff(157, {**huge, 322: (4, [2**20] * 2), 323: (4, [2**12] * 2)}),
        UNREADABLE,
    )
    yield "tiff: tiles of no height", tiff(157, {**huge, 322: (4, [2**20]), 323: (4, [])}), UNREADABLE
    yield "tiff: turned by a text", tiff(158, {274: (7, [6, 6])}), ""
    yield "tiff: zero height", tiff(155, {257: (3, [0])}), UNREADABLE
    tiles = {273: (4, []), 278: (3, []), 279: (4, []), 322: (4, [0]), 323: (4, [0]), 324: (4, [8]), 325: (4, [100])}
    yield "tiff: tiles of zero size", tiff(156, tiles), UNDECODABLE


def _with_count(image: bytes, tag: int, count: int) -> bytes:
    """The same TIFF, little endian, whose entry of a tag claims another count."""
    for kind in (3, 4, 7):
        place = image.rfind(struct.pack("<HH", tag, kind))
        if place >= 0:
            return image[: place + 4] + struct.pack("<I", count) + image[place + 8 :]
    raise AssertionError(tag)
