"""A picture as anyone would see it, decoded not the way the encoder's pictures are, to hold decoded tokens against.

Whatever `images` and `colour` might do wrong to every picture alike would else be done to both sides.
"""

import io

import numpy as np
from PIL import Image, ImageOps

from parti_data.containers import read_container

_EXIF_ORIENTATION = 0x0112
_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""What Pillow shows rightly without more being said: not 16 bits, nor inks."""


def reference_picture(
    image: bytes, box: list[int], is_flipped: bool, side: int, background: str = "white"
) -> np.ndarray | None:
    """Return the box of an upright image, uint8 (S, S, 3), resized to `side`; None where it takes more to be shown.

    Colour profiles are not followed, so that colours of wide ones are a little off.
    """
    container = read_container(image)
    with Image.open(io.BytesIO(container.content), formats=(container.format,)) as opened:
        if opened.mode not in _PLAIN_MODES:
            return None
        opened.getexif()[_EXIF_ORIENTATION] = container.orientation
        upright = ImageOps.exif_transpose(opened).convert("RGBA")
    plain = Image.new("RGBA", upright.size, background)
    plain.alpha_composite(upright)
    x, y, width, height = box
    edges = (x, y, min(x + width, plain.width), min(y + height, plain.height))
    resized = plain.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box=edges)
    return np.asarray(ImageOps.mirror(resized) if is_flipped else resized)
