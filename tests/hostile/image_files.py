"""Image files put together field by field, so that any field can lie."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 40, height: int = 24) -> Image.Image:
    """A small picture that no other seed gives."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    seed: int, before: bytes = b"", after: bytes = b"", size: tuple[int, int] = (40, 24), depth: int = 8,
    colour: int = 2, data: bytes | None = None, end: bytes | None = None,
) -> bytes:  # fmt: skip
    """A PNG with chunks before and after its data; `data` are the compressed rows."""
    if data is None:
        rows = np.asarray(picture(seed))
        data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    end = png_chunk(b"IEND", b"") if end is None else end
    return b"\x89PNG\r\n\x1a\n" + header + before + png_chunk(b"IDAT", data) + after + end


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(seed: int, *segments: bytes, after: bytes = b"", **options) -> bytes:
    """A JPEG with segments behind its first marker and bytes behind its end."""
    plain = encoded(picture(seed), "JPEG", **options)
    return plain[:2] + b"".join(segments) + plain[2:] + after


def find_segment(image: bytes, marker: int) -> int:
    """Where the segment of a marker begins in a JPEG."""
    place = 2
    while image[place + 1] != marker:
        place += 2 + struct.unpack_from(">H", image, place + 2)[0]
    return place


def exif(entries: list[tuple[int, int, int, int]], order: str = "<") -> bytes:
    """EXIF with one directory of (tag, type, count, value)."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    packed = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    return mark + struct.pack(f"{order}IH", 8, len(entries)) + packed + bytes(4)


def exif_turned(orientation: int) -> bytes:
    return exif([(0x0112, 3, 1, orientation)])


def gif_palette(image: bytes) -> int:
    """Where the blocks of a GIF begin."""
    return 13 + (3 << (image[10] & 7) + 1 if image[10] & 0x80 else 0)


def gif(seed: int, blocks: bytes = b"", **options) -> bytes:
    """A GIF with blocks before its first frame."""
    plain = encoded(picture(seed).quantize(64), "GIF", **options)
    return plain[: gif_palette(plain)] + blocks + plain[gif_palette(plain) :]


def frames(seed: int, count: int, kind: str, **options) -> bytes:
    """An animation."""
    first, *others = [picture(1000 * seed + number, 32, 24) for number in range(count)]
    return encoded(first, kind, save_all=True, append_images=others, duration=40, **options)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of chunks."""
    packed = b"".join(
        struct.pack("<4sI", kind, len(content)) + content + bytes(len(content) % 2) for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(packed)) + b"WEBP" + packed


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([flags, 0, 0, 0]) + sizes


def webp_chunks(image: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], 12
    while place < len(image):
        kind, size = struct.unpack_from("<4sI", image, place)
        found.append((kind, image[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2
    return found


def bmp(width: int, height: int, data: bytes, bits: int = 24, compression: int = 0, palette: bytes = b"",
        header_bytes: int = 40) -> bytes:  # fmt: skip
    start = 14 + 40 + len(palette)
    header = struct.pack(
        "<IiiHHIIiiII", header_bytes, width, height, 1, bits, compression, len(data), 0, 0, len(palette) // 4, 0
    )
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def tiff(seed: int, changes: dict[int, tuple[int, list[int]]] | None = None, is_big: bool = False,
         data: bytes | None = None, next_directory: int = 0, order: str = "<") -> bytes:  # fmt: skip
    """A TIFF of one strip of RGB; `changes` are tag: (type, values), no values for a tag that is left out."""
    data = np.asarray(picture(seed)).tobytes() if data is None else data
    head, forms = (16, "HHQ") if is_big else (8, "HHI")
    tags: dict[int, tuple[int, list[int]]] = {
        256: (3, [40]), 257: (3, [24]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2]), 273: (4, [head]),
        277: (3, [3]), 278: (3, [24]), 279: (4, [len(data)]),
    }  # fmt: skip
    tags |= changes or {}
    offset = "Q" if is_big else "I"
    beyond, entries = b"", b""
    place = head + len(data)
    room = 8 if is_big else 4
    for tag, (kind, values) in sorted(tags.items()):
        if not values:
            continue
        form = {1: "B", 3: "H", 4: "I", 7: "B", 9: "i", 16: "Q"}[kind]
        packed = struct.pack(f"{order}{len(values)}{form}", *values)
        if len(packed) > room:
            packed, beyond = struct.pack(order + offset, place + len(beyond)), beyond + packed
        entries += struct.pack(order + forms, tag, kind, len(values)) + packed.ljust(room, b"\0")
    count = struct.pack(order + ("Q" if is_big else "H"), len(entries) // (20 if is_big else 12))
    directory = place + len(beyond)
    mark = b"II" if order == "<" else b"MM"
    header = mark + (struct.pack(f"{order}HHHQ", 43, 8, 0, directory) if is_big
                     else struct.pack(f"{order}HI", 42, directory))  # fmt: skip
    return header + data + beyond + count + entries + struct.pack(order + offset, next_directory or 0)


def encode_pixels(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    return encoded(image if isinstance(image, Image.Image) else Image.fromarray(image), kind, **options)
