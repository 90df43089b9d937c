"""A picture as anyone would see it, decoded not the way the encoder's pictures are, to hold decoded tokens against.

Whatever `images` and `colour` might do wrong to every picture alike would else be done to both sides.
"""

import io

import numpy as np
from PIL import Image, ImageOps

from parti_data.containers import read_container
from parti_data.images import ImageLimits

_EXIF_ORIENTATION = 0x0112
_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""What Pillow shows rightly without more being said: not 16 bits, nor inks."""


def reference_picture(
    image: bytes, box: list[int], is_flipped: bool, side: int, limits: ImageLimits
) -> np.ndarray | None:
    """Return the box of an image, uint8 (S, S, 3), resized to `side`; None where it takes more to be shown.

    Upright and before `limits.background`, unless `limits.rendering` asks for less. Colour profiles are not
    followed, so that colours of wide ones are a little off.
    """
    container = read_container(image)
    with Image.open(io.BytesIO(container.content), formats=(container.format,)) as opened:
        if opened.mode not in _PLAIN_MODES:
            return None
        if limits.rendering == "as_seen":
            opened.getexif()[_EXIF_ORIENTATION] = container.orientation
            opened = ImageOps.exif_transpose(opened)
        plain = opened.convert("RGB") if limits.rendering == "as_stored" else _over(opened, limits)
    x, y, width, height = box
    edges = (x, y, min(x + width, plain.width), min(y + height, plain.height))
    resized = plain.resize((side, side), Image.Resampling.BILINEAR, box=edges)
    return np.asarray(ImageOps.mirror(resized) if is_flipped else resized)


def _over(picture: Image.Image, limits: ImageLimits) -> Image.Image:
    """Return a picture before its background, in RGB."""
    background = limits.background if limits.rendering == "as_seen" else "white"
    plain = Image.new("RGBA", picture.size, background)
    plain.alpha_composite(picture.convert("RGBA"))
    return plain.convert("RGB")
