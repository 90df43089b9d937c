"""Decoded images of any mode to RGB as a screen shows it: sRGB, 8 bits a channel, transparency over a background."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_PROFILE_SPACES = {b"RGB ": ("RGB", "RGBA"), b"GRAY": ("L", "LA"), b"CMYK": ("CMYK",)}
"""Modes that a profile of a colour space is for."""
_PROFILE_HEADER_BYTES = 128
_PROGRAMS = b"mpet"
"""Profiles with elements that are run one after another, of any number, are ignored: they bound no time."""
_SAME_LEVELS = 2
"""A profile that moves no colour further than this, of 255, is taken for sRGB: many differ in rounding alone."""
_SHARES = np.arange(256)[:, None] / 255.0
_WHITENED = ((1 - _SHARES) * 255 + _SHARES * np.arange(256)).astype(np.uint8)
"""What each level, in columns, becomes over white under each alpha, in rows."""
_PROBE = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), -1).reshape(1, -1, 3)


def to_rgb(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255), profile: bytes = b"") -> Image.Image:
    """Return the image in RGB.

    An ICC profile is followed unless it is broken, not for the image's colours, or sRGB's own. More than 8 bits are
    scaled down: 16 bits to their upper 8; 32-bit integers and floats by `to_eight_bits`.
    """
    image = _to_eight_bits_a_channel(image)
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("L", "LA", "La") and _is_grey(profile) else "RGBA")
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    if profile:
        image = _apply_profile(image, profile)
    if image.mode not in ("RGBA", "LA"):
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")


def over_white(image: Image.Image) -> Image.Image:
    """Return the image in RGB, what is transparent blended with white and rounded down.

    Source: Chameleon, image_tokenizer.py, `_whiten_transparency`.
    """
    if image.mode == "RGB":
        return image.convert("RGB")
    rgba = np.asarray(image.convert("RGBA"))
    if (rgba[..., 3] == 255).all():
        return image.convert("RGB")
    blended = np.empty((*rgba.shape[:2], 3), np.uint8)
    for row, found in enumerate(rgba):  # an index takes eight bytes a value
        blended[row] = _WHITENED[found[:, 3:], found[:, :3]]
    return Image.fromarray(blended)


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Return numbers of unknown range as uint8 of the same shape.

    The smallest usual range that holds them all is taken for theirs: 0 to 1 for floats, 0 to 255, 0 to 65535;
    beyond those, from their least to their greatest. What is not a number counts as 0, an infinity as the end of the
    range of the others.
    """
    ranges = (1.0, 255.0, 65535.0) if np.issubdtype(values.dtype, np.floating) else (255.0, 65535.0)
    values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=np.inf, neginf=-np.inf)
    is_finite = np.isfinite(values)
    low = float(values.min(where=is_finite, initial=np.inf))
    high = float(values.max(where=is_finite, initial=-np.inf))
    if low > high:  # nothing is finite
        low = high = 0.0
    fitting = [top for top in ranges if low >= 0 and high <= top]
    if fitting:
        low, high = 0.0, fitting[0]
    scale = 255 / (high - low) if high > low else 0.0
    scaled = np.clip(values, low, high) * np.float32(scale) - np.float32(low * scale)
    return np.floor(scaled + np.float32(0.5)).astype(np.uint8)


def _to_eight_bits_a_channel(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)
        grey = Image.fromarray((deep >> 8).astype(np.uint8))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey.putalpha(Image.fromarray(np.where(deep == transparent, 0, 255).astype(np.uint8)))
        return grey
    if image.mode in ("I", "F"):
        return Image.fromarray(to_eight_bits(np.asarray(image)))
    return image


def _is_grey(profile: bytes) -> bool:
    return profile[16:20] == b"GRAY"


def _apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Return the image in sRGB; as it is where the profile is of no use."""
    if len(profile) < _PROFILE_HEADER_BYTES or image.mode not in _PROFILE_SPACES.get(profile[16:20], ()):
        return image
    colours = image.mode.removesuffix("A")
    transform = _find_transform(profile, colours)
    if transform is None:
        return image
    if colours == image.mode:
        return transform.apply(image)
    *channels, alpha = image.split()
    converted = transform.apply(Image.merge(colours, channels))
    converted.putalpha(alpha)
    return converted


@lru_cache(maxsize=32)
def _find_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform to sRGB; none where the profile is broken or there is nothing to do."""
    if _PROGRAMS in profile:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    assert isinstance(transform, ImageCms.ImageCmsTransform)
    if mode != "CMYK":
        probe = Image.fromarray(_PROBE).convert(mode)
        moved = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
        if np.abs(moved).max() <= _SAME_LEVELS:
            return None
    return transform
