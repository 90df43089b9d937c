"""TIFF: a directory of entries that point anywhere; in its place comes one of those entries alone that decide pixels.

So its other pages and directories are out of reach, and the entries kept are few, distinct and small.
"""

import struct
from typing import NamedTuple

from parti_data.containers.container import MAX_PROFILE_BYTES, Container

_WIDTH, _HEIGHT, _ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT, _PROFILE = 256, 257, 274, 322, 323, 34675
_KEPT = frozenset(
    (_WIDTH, _HEIGHT, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, _TILE_WIDTH, _TILE_HEIGHT,
     324, 325, 332, 338, 339, 347, 529, 530, 532)
)  # fmt: skip
"""Tags that decide pixels. Source: TIFF 6.0, appendix A; Adobe's technical note 2 for 347."""
_UNIT_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MAX_ENTRY_BYTES = 2 << 20
"""Where 262,144 strips lie, at 8 bytes each."""
_MAX_ENTRIES = 4096


class _Layout(NamedTuple):
    """How a file writes its numbers; BigTIFF's are wider."""

    order: str
    is_big: bool

    def unpack(self, form: str, image: bytes, place: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + form, image, place)

    def pack(self, form: str, value: int) -> bytes:
        return struct.pack(self.order + form, value)

    @property
    def count_form(self) -> str:
        return "Q" if self.is_big else "H"

    @property
    def offset_form(self) -> str:
        return "Q" if self.is_big else "I"

    @property
    def offset_bytes(self) -> int:
        return 8 if self.is_big else 4

    @property
    def entry_bytes(self) -> int:
        return 20 if self.is_big else 12


class _Entry(NamedTuple):
    kind: int
    count: int
    raw: bytes
    """The entry as it stands in the directory."""

    @property
    def num_bytes(self) -> int:
        return self.count * _UNIT_BYTES[self.kind]


def read_tiff(image: bytes) -> Container:
    """Return what a TIFF says of its first page."""
    layout = _Layout("<" if image[:1] == b"I" else ">", b"+" in image[2:4])
    (place,) = layout.unpack(layout.offset_form, image, 8 if layout.is_big else 4)
    entries = _read_entries(image, layout, place)
    width, height = _number(entries, _WIDTH, layout), _number(entries, _HEIGHT, layout)
    tile_width, tile_height = _number(entries, _TILE_WIDTH, layout), _number(entries, _TILE_HEIGHT, layout)
    if bool(tile_width) != bool(tile_height):
        raise ValueError(f"tiles of {tile_width}x{tile_height} pixels")
    return Container(
        "TIFF", width, height, _rewrite(image, layout, place, entries),
        _orientation(entries, layout), _read_profile(image, layout, entries),
        padded_pixels=_padded(width, tile_width) * _padded(height, tile_height),
    )  # fmt: skip


def _read_entries(image: bytes, layout: _Layout, place: int) -> dict[int, _Entry]:
    """Return the first entry of each tag that is of use, in the order of tags."""
    (count,) = layout.unpack(layout.count_form, image, place)
    if count > _MAX_ENTRIES:
        raise ValueError(f"{count} entries, at most {_MAX_ENTRIES}")
    place += 8 if layout.is_big else 2
    entries: dict[int, _Entry] = {}
    for start in range(place, place + count * layout.entry_bytes, layout.entry_bytes):
        tag, kind, values = layout.unpack(f"HH{layout.offset_form}", image, start)
        if tag not in entries and tag in (*_KEPT, _ORIENTATION, _PROFILE) and kind in _UNIT_BYTES:
            entry = _Entry(kind, values, image[start : start + layout.entry_bytes])
            if entry.num_bytes > (_MAX_ENTRY_BYTES if tag in _KEPT else MAX_PROFILE_BYTES):
                if tag in _KEPT:
                    raise ValueError(f"{entry.num_bytes} bytes in tag {tag}, at most {_MAX_ENTRY_BYTES}")
                continue
            entries[tag] = entry
    return dict(sorted(entries.items()))


def _number(entries: dict[int, _Entry], tag: int, layout: _Layout) -> int:
    """Return the number that stands in a tag's entry; 0 where there is no entry.

    Raises ValueError where it is written in a way that no program writes: a decoder might read another number.
    """
    if tag not in entries:
        return 0
    entry = entries[tag]
    if entry.count != 1 or entry.kind not in _INTEGERS or entry.num_bytes > layout.offset_bytes:
        raise ValueError(f"{entry.count} values of type {entry.kind} in tag {tag}")
    return layout.unpack(_INTEGERS[entry.kind], entry.raw, layout.entry_bytes - layout.offset_bytes)[0]


def _orientation(entries: dict[int, _Entry], layout: _Layout) -> int:
    try:
        orientation = _number(entries, _ORIENTATION, layout)
    except ValueError:
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _rewrite(image: bytes, layout: _Layout, place: int, entries: dict[int, _Entry]) -> bytes:
    """Return the file with the kept entries in the place of its directory, and none after it.

    In its place, so that the file does not grow: data that are cut short must not find bytes behind them.
    """
    kept = [entry.raw for tag, entry in entries.items() if tag in _KEPT]
    end = layout.pack(layout.offset_form, 0)
    directory = b"".join([layout.pack(layout.count_form, len(kept)), *kept, end])
    return b"".join([image[:place], directory, image[place + len(directory) :]])


def _read_profile(image: bytes, layout: _Layout, entries: dict[int, _Entry]) -> bytes:
    if _PROFILE not in entries:
        return b""
    entry = entries[_PROFILE]
    (place,) = layout.unpack(layout.offset_form, entry.raw, layout.entry_bytes - layout.offset_bytes)
    return image[place : place + entry.num_bytes]


def _padded(side: int, tile_side: int) -> int:
    return -(-side // tile_side) * tile_side if tile_side else side
