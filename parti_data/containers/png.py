"""PNG: chunks; those that decide pixels stay, texts, frames of an animation and other metadata go."""

import struct
import zlib

from parti_data.containers.container import MAX_PROFILE_BYTES, Container
from parti_data.containers.exif import read_orientation

_SIGNATURE_BYTES = 8
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MAX_CHUNKS = 1 << 16


def read_png(image: bytes) -> Container:
    """Return what a PNG says of its default picture."""
    width, height = struct.unpack_from(">II", image, 16)
    kept: list[bytes] = [image[:_SIGNATURE_BYTES]]
    found: dict[bytes, bytes] = {}
    place = _SIGNATURE_BYTES
    for _ in range(_MAX_CHUNKS):
        if len(image) < place + 12:
            break  # cut short: the decoder tells what is missing
        size, kind = struct.unpack_from(">I4s", image, place)
        end = place + 12 + size
        if kind in _KEPT:
            kept.append(image[place:end])
        elif kind in (b"iCCP", b"eXIf", b"acTL") and kind not in found:
            found[kind] = image[place + 8 : end - 4]
        place = end
        if kind == b"IEND":
            break
    else:
        raise ValueError(f"more than {_MAX_CHUNKS} chunks")
    return Container(
        "PNG", width, height, b"".join(kept), read_orientation(found.get(b"eXIf", b"")),
        _inflate_profile(found.get(b"iCCP", b"")), _num_frames(found.get(b"acTL", b"")) > 1,
    )  # fmt: skip


def _inflate_profile(chunk: bytes) -> bytes:
    """Return the profile behind its name; empty where it is broken or larger than may be."""
    _, _, rest = chunk.partition(b"\0")
    inflating = zlib.decompressobj()
    try:
        profile = inflating.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return b"" if inflating.unconsumed_tail else profile


def _num_frames(chunk: bytes) -> int:
    return struct.unpack_from(">I", chunk)[0] if len(chunk) >= 4 else 1
