"""GIF: a screen, then blocks; the first frame and its control block stay, comments and further frames go."""

import re
import struct

from parti_data.containers.container import Container

_MAX_EXTENSIONS = 4096
_BLOCK = re.compile(rb"[!,;]")
_EXTENSION, _FRAME, _END = b"!", b",", b";"
_CONTROL = 0xF9
"""The extension that says which colour of the next frame is transparent."""


def read_gif(image: bytes) -> Container:
    """Return what a GIF says of its first frame; the size is that of the screen, or of the frame where it is larger."""
    width, height, flags = struct.unpack_from("<HHB", image, 6)
    place = 13 + _palette_bytes(flags)
    kept = [image[:place]]
    for _ in range(_MAX_EXTENSIONS):
        found = _BLOCK.search(image, place)
        if found is None or found[0] == _END:
            raise ValueError("no frame")
        place = found.start()
        if found[0] == _FRAME:
            break
        end = _skip_blocks(image, place + 2)
        if image[place + 1] == _CONTROL:
            kept[1:] = [image[place:end]]  # the last one counts
        place = end
    else:
        raise ValueError(f"more than {_MAX_EXTENSIONS} extensions before the first frame")
    left, top, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", image, place + 1)
    end = _skip_blocks(image, place + 11 + _palette_bytes(flags))
    content = b"".join([*kept, image[place:end], _END])
    return Container(
        "GIF", max(width, left + frame_width), max(height, top + frame_height), content,
        is_animated=_has_frame(image, end),
    )  # fmt: skip


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(image: bytes, place: int) -> int:
    """Return where a run of data blocks that begins at `place` has ended; the end of the file ends it too."""
    while place < len(image):
        size = image[place]
        place += 1 + size
        if not size:
            return place
    return len(image)


def _has_frame(image: bytes, place: int) -> bool:
    while image[place : place + 1] == _EXTENSION:
        place = _skip_blocks(image, place + 2)
    return image[place : place + 1] == _FRAME
