"""WebP: chunks of RIFF; the size is read here, since the decoder reserves the canvas when it opens the file."""

import struct
from collections.abc import Iterator

from parti_data.containers.container import MAX_PROFILE_BYTES, Container
from parti_data.containers.exif import read_orientation

_MAX_CHUNKS = 1 << 16
_DROPPED = (b"EXIF", b"XMP ", b"ICCP")
_ANIMATED = 0x02
"""The flag of VP8X. Source: RFC 9649, section 2.7."""


def read_webp(image: bytes) -> Container:
    """Return what a WebP says of its first frame; the size is that of the canvas."""
    chunks = list(_chunks(image))
    if not chunks:
        raise ValueError("no chunk")
    kind, first = chunks[0]
    width, height = _read_size(kind, first)
    found = dict(reversed(chunks))
    profile = found.get(b"ICCP", b"")
    animated = kind == b"VP8X" and bool(first[0] & _ANIMATED)
    return Container(
        "WEBP", width, height, _without_metadata(image, chunks), read_orientation(found.get(b"EXIF", b"")),
        profile if len(profile) <= MAX_PROFILE_BYTES else b"",
        animated and sum(kind == b"ANMF" for kind, _ in chunks) > 1,
    )  # fmt: skip


def _chunks(image: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of each chunk; the last one may be cut short."""
    place = 12
    for _ in range(_MAX_CHUNKS):
        if len(image) < place + 8:
            return
        kind, size = struct.unpack_from("<4sI", image, place)
        yield kind, image[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
    raise ValueError(f"more than {_MAX_CHUNKS} chunks")


def _read_size(kind: bytes, content: bytes) -> tuple[int, int]:
    """Return width and height of the canvas. Source: RFC 9649, sections 2.5 to 2.7; RFC 6386, section 9.1."""
    if kind == b"VP8X":
        sizes = struct.unpack_from("<HBHB", content, 4)
        return 1 + sizes[0] + (sizes[1] << 16), 1 + sizes[2] + (sizes[3] << 16)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 1)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(f"unknown chunk {kind!r}")


def _without_metadata(image: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    if not any(kind in _DROPPED for kind, _ in chunks):
        return image
    kept = [
        struct.pack("<4sI", kind, len(content)) + content + b"\0" * (len(content) % 2)
        for kind, content in chunks
        if kind not in _DROPPED
    ]
    return b"".join([b"RIFF", struct.pack("<I", 4 + sum(map(len, kept))), b"WEBP", *kept])
