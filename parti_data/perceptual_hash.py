"""A perceptual hash: pictures that look alike have hashes that differ in few bits.

The window that holds the picture's content is found and scaled to a small square, made as bright as its white, and
turned into the lowest frequencies of its luma and chroma. Each frequency is coded in unary by a few thresholds, so the
Hamming distance counts how many thresholds lie between two pictures. Whole-number arithmetic gives every machine the
same bits. A picture of one plain grey has nearly the same hash as one of another.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

HASH_BITS = 256
HASH_HEX = HASH_BITS // 4
HASH_WORDS = HASH_BITS // 64
_SIDE = 32
"""Side of the square that is transformed."""
_SEARCH_SIDE = 64
"""Side of the square in which the content's window is found."""
LEAST_SIDE_PX = 96
"""The short side is not reduced below this before the windows are cut out; whole factors are the fastest way."""
_LEVELS = np.array([-3, -1, 1, 3])
"""The thresholds of a frequency, in half steps; symmetric, so that a mirrored picture's hash follows from the hash."""
_NUM_LUMA, _NUM_CHROMA = 32, 16
"""Frequencies of each channel. With 4 thresholds each: 256 bits."""
_STEP = 0.03
"""Between thresholds at frequency 0, where 1 is white; `tests/benchmarks/duplicates.py` shows what it is worth."""
_MEAN_LUMA = 0.75
_BORDER_FLOOR, _BORDER_TOP = 16, 64
"""Levels by which a pixel has to differ from the border to count as content, and beyond which more does not count."""
_TAIL = 0.01
"""Share of the content that lies outside the window at each side, before it is widened again."""
_SMALLEST_WINDOW = 0.25
_FIXED = 1 << 14
"""The fixed point of the cosines."""
_PAIRS_A_BLOCK = 1 << 22
_HASHES_A_BLOCK = 1 << 16
_LONGEST_BAND = 62
"""Bits; of longer bands so many are enough, and fit."""
_NUM_FREQUENCIES = 9


def _lowest(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the vertical and the horizontal numbers of the lowest frequencies."""
    order = sorted(
        (u * u + v * v, u, v) for u in range(_NUM_FREQUENCIES) for v in range(_NUM_FREQUENCIES)
    )  # exact, so never a tie that a machine breaks otherwise
    assert order[count - 1][0] < _NUM_FREQUENCIES**2
    return np.array([u for _, u, _ in order[:count]]), np.array([v for _, _, v in order[:count]])


def _cosines() -> np.ndarray:
    positions, numbers = np.arange(_SIDE), np.arange(_NUM_FREQUENCIES)[:, None]
    basis = np.cos(np.pi * (2 * positions + 1) * numbers / (2 * _SIDE)) * np.sqrt(2 / _SIDE)
    basis[0] /= np.sqrt(2)
    return np.rint(basis * _FIXED)


_COSINES = _cosines()
_CHANNELS = [_lowest(_NUM_LUMA), _lowest(_NUM_CHROMA), _lowest(_NUM_CHROMA)]
_SCALE = _FIXED**2 * _SIDE * 255
"""What a frequency-0 coefficient of white is."""
_THRESHOLDS = [
    np.rint(_STEP * _SCALE / 2 * _LEVELS / np.sqrt(1 + np.hypot(u, v))[:, None]).astype(np.int64) for u, v in _CHANNELS
]
_THRESHOLDS[0][0] += int(_MEAN_LUMA * _SCALE)
_IS_ODD = np.repeat(np.concatenate([v % 2 == 1 for _, v in _CHANNELS]), len(_LEVELS))
"""Which bits belong to a frequency that changes its sign when the picture is mirrored."""
_REVERSED = np.arange(HASH_BITS).reshape(-1, len(_LEVELS))[:, ::-1].ravel()


def perceptual_hash(picture: Image.Image) -> str:
    """Return the hash of an RGB picture as 64 hex digits.

    Measured: 0.3 ms for 500x400 pixels on one core of an AMD Zen 5.
    """
    return hash_and_squeeze(picture)[0]


def hash_and_squeeze(picture: Image.Image) -> tuple[str, Image.Image]:
    """Return the hash of an RGB picture, and the square of 64 px that the whole of it was squeezed into for that."""
    if (factor := min(picture.size) // LEAST_SIDE_PX) > 1:
        picture = picture.reduce(factor)
    squeezed = picture.resize((_SEARCH_SIDE, _SEARCH_SIDE), Image.Resampling.BOX)
    searched = np.asarray(squeezed)
    brightest = _largest_channel(searched).ravel()
    white = max(int(np.partition(brightest, brightest.size * 98 // 100)[brightest.size * 98 // 100]), 32)
    levels = (np.arange(256) * 255 // white).astype(np.int16)
    left, right, top, bottom = _content_window(levels[searched])
    width, height = picture.size
    box = (left * width, top * height, right * width, bottom * height)
    square = np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BOX, box=box))
    return np.packbits(_code(np.minimum(levels, 255)[square].astype(np.int32))).tobytes().hex(), squeezed


def _content_window(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom of the content, as shares of the sides: where pixels differ from the border.

    Widths come from quantiles of what differs, so noise at the edge of the content moves them little.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.sort(border, axis=0)[len(border) // 2]
    furthest = _largest_channel(np.abs(pixels - ground))
    content = np.clip(furthest - _BORDER_FLOOR, 0, _BORDER_TOP).astype(np.int64) * 1024 + 1
    left, right = _quantiles(content.sum(0))
    top, bottom = _quantiles(content.sum(1))
    return left, right, top, bottom


def _largest_channel(pixels: np.ndarray) -> np.ndarray:
    """Return the largest of three channels, (H, W); several times faster than `max` over a short axis."""
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def _quantiles(profile: np.ndarray) -> tuple[float, float]:
    """Return where along the profile all but the tails of its sum lies, widened by what the tails would take."""
    summed = np.concatenate([[0], np.cumsum(profile)])
    low, high = np.interp([_TAIL * summed[-1], (1 - _TAIL) * summed[-1]], summed, np.arange(len(summed)))
    low, high = low / len(profile), high / len(profile)
    if high - low < _SMALLEST_WINDOW:
        middle = (low + high) / 2
        low, high = middle - _SMALLEST_WINDOW / 2, middle + _SMALLEST_WINDOW / 2
    margin = 1.3 * (high - low) * _TAIL / (1 - 2 * _TAIL)
    return round(max(0.0, float(low - margin)), 6), round(min(1.0, float(high + margin)), 6)


def _code(square: np.ndarray) -> np.ndarray:
    """Return the 256 bits, bool, of int pixels (32, 32, 3)."""
    red, green, blue = square[..., 0], square[..., 1], square[..., 2]
    luma = (299 * red + 587 * green + 114 * blue) // 1000
    planes = [luma, (red - luma) * 7 // 10, (blue - luma) * 14 // 25]
    bits = []
    for plane, (u, v), thresholds in zip(planes, _CHANNELS, _THRESHOLDS, strict=True):
        coefficients = (_COSINES @ plane @ _COSINES.T)[u, v]  # whole numbers below 2**53, so exact in any order
        bits.append((coefficients[:, None] > thresholds).ravel())
    return np.concatenate(bits)


def mirrored_hash(text: str) -> str:
    """Return the hash of the picture mirrored left to right, from its hash: odd frequencies change their sign."""
    return mirrored_hashes(pack_hashes([text])).tobytes().hex()


def mirrored_hashes(packed: np.ndarray) -> np.ndarray:
    """Return the hashes of the mirrored pictures, uint64 (N, 4), from packed hashes (N, 4)."""
    bits = _unpack(packed)
    return np.packbits(np.where(_IS_ODD, 1 - bits[:, _REVERSED], bits), axis=1).view("<u8")


def _unpack(packed: np.ndarray) -> np.ndarray:
    """Return the bits, uint8 (N, 256), of packed hashes (N, 4)."""
    return np.unpackbits(np.ascontiguousarray(packed, "<u8").view(np.uint8).reshape(-1, HASH_BITS // 8), axis=1)


def pack_hashes(hashes: Sequence[str]) -> np.ndarray:
    """Return hashes in hex as uint64 (N, 4), as the distances below take them."""
    raw = b"".join(bytes.fromhex(text) for text in hashes)
    assert len(raw) == len(hashes) * HASH_BITS // 8, (len(raw), len(hashes))
    return np.frombuffer(raw, "<u8").reshape(-1, HASH_WORDS)


def count_differing_bits(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return how many bits differ between left (..., 4) and right (..., 4), as uint16 (...), with broadcasting."""
    distances = np.bitwise_count(left[..., 0] ^ right[..., 0]).astype(np.uint16)
    for word in range(1, HASH_WORDS):
        distances += np.bitwise_count(left[..., word] ^ right[..., word])
    return distances


def hamming_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return how many bits differ between each of left (N, 4) and each of right (M, 4), as uint16 (N, M)."""
    return count_differing_bits(left[:, None], right[None])


def rows_a_block(num_right: int) -> int:
    """Return how many rows to compare at once with so many others, in bounded memory."""
    return max(1, _PAIRS_A_BLOCK // max(num_right, 1))


def band_values(packed: np.ndarray, band: int, max_distance: int) -> np.ndarray:
    """Return the value of a band, of `max_distance + 1`, of packed hashes (N, 4), as int64 (N,).

    The bits are dealt out into one band more than may differ, so two hashes within the distance share one at least.
    """
    values = np.empty(len(packed), np.int64)
    for start in range(0, len(packed), _HASHES_A_BLOCK):
        bits = _unpack(packed[start : start + _HASHES_A_BLOCK])
        dealt = bits[:, band :: max_distance + 1][:, :_LONGEST_BAND].astype(np.int64)
        values[start : start + len(bits)] = dealt @ (1 << np.arange(dealt.shape[1], dtype=np.int64))
    return values
