"""JPEG: segments, then scans; what other programs wrote beside the picture goes, and further pictures behind it stay
unseen.
"""

import re
import struct

from parti_data.containers.container import MAX_PROFILE_BYTES, Container
from parti_data.containers.exif import read_orientation

_MAX_SEGMENTS = 4096
_MAX_SCANS = 100
"""A progressive picture has about ten; each costs a pass over all pixels, however few its bytes."""
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_SCAN_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START_OF_SCAN, _END = 0xDA, 0xD9
_STANDALONE = frozenset((0x01, 0xD8, *range(0xD0, 0xD8)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset((0xC0, 0xC1, 0xC9))
"""Frames that end with the scan that holds all components."""
_METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))
"""Applications' segments and comments; JFIF's 0xE0 and Adobe's 0xEE decide colours. Source: ITU-T T.81, table B.1."""


def read_jpeg(image: bytes) -> Container:
    """Return what a JPEG says of its first picture."""
    kept, metadata, size, place = [image[:2]], [], (0, 0), 2
    is_one_scan, num_components = False, 0
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(image, place)
        if found is None:
            raise ValueError("no scan")
        marker, start = found[1][0], found.end()
        if marker == _END:
            raise ValueError("no scan")
        if marker in _STANDALONE:
            place = start
            continue
        place = start + struct.unpack_from(">H", image, start)[0]
        if marker == _START_OF_SCAN:
            if not is_one_scan or image[start + 2] < num_components:
                _refuse_many_scans(image, start)
            kept.append(image[start - 2 :])
            return Container(
                "JPEG", *size, b"".join(kept), _find_orientation(metadata), _join_profile(metadata)
            )  # fmt: skip
        if marker in _METADATA:
            metadata.append((marker, image[start + 2 : place]))
        else:
            kept.append(image[start - 2 : place])
        if marker in _FRAMES:
            height, width, num_components = struct.unpack_from(">HHB", image, start + 3)
            size, is_one_scan = (width, height), marker in _SEQUENTIAL
    raise ValueError(f"more than {_MAX_SEGMENTS} segments")


def _refuse_many_scans(image: bytes, place: int) -> None:
    """Count the scans, exactly where the bytes alone do not show that they are few."""
    if image.count(b"\xff\xda") <= _MAX_SCANS:
        return
    scans = 1
    while found := _SCAN_MARKER.search(image, place):
        place, marker = found.end(), found[1][0]
        if marker == _END:
            return
        scans += marker == _START_OF_SCAN
        if scans > _MAX_SCANS:
            raise ValueError(f"more than {_MAX_SCANS} scans")
        if marker not in _STANDALONE and len(image) >= place + 2:
            place += struct.unpack_from(">H", image, place)[0]


def _find_orientation(metadata: list[tuple[int, bytes]]) -> int:
    exif = next((part for marker, part in metadata if marker == 0xE1 and part.startswith(b"Exif\0\0")), b"")
    return read_orientation(exif)


def _join_profile(metadata: list[tuple[int, bytes]]) -> bytes:
    """Return the ICC profile of its numbered parts; empty where they are incomplete or too large together."""
    parts = sorted(part[12:] for marker, part in metadata if marker == 0xE2 and part.startswith(b"ICC_PROFILE\0"))
    if not parts or any(len(part) < 2 for part in parts):
        return b""
    numbered = [(part[0], part[1]) for part in parts]
    if numbered != [(number, len(parts)) for number in range(1, len(parts) + 1)]:
        return b""
    return b"".join(part[2:] for part in parts) if sum(map(len, parts)) <= MAX_PROFILE_BYTES else b""
