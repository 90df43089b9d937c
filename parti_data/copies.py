"""Whether two thumbnails show one picture: resized, recompressed, brightened, cropped by 5%, but not another variant.

The darker of two is laid over the brighter by least squares: how far and how much larger on each axis, and how much
brighter. What still differs then, beyond what half a pixel off explains, is small everywhere between copies, and large
somewhere between variants: the hand of a clock, the skin of a face.

The answer is the same on every machine: sums are of whole numbers that float64 holds exactly in any order, and what
is divided is rounded as IEEE 754 says, one pair at a time.
"""

from typing import NamedTuple

import numpy as np

_MOST = 8
"""Levels of 255 in which a spot of two copies may differ; `tests/benchmarks/duplicates.py` shows what it is worth."""
_FINE = 16
"""Parts of a level."""
_ONE = 256
"""The fixed point of positions, in pixels, and of the gain."""
_MAX_OFFSET, _MAX_STRETCH = 0.06, 0.035
"""By how much of the side the middle moves, and an edge beyond it, at most: a crop of 5% needs 0.05 and 0.025."""
_GAINS = (180, 360)
"""The least and the largest gain, of 256: brightness 0.85 against 1.15 needs 346."""
_CLIPPED = 245 * _FINE
"""Where both are this bright, a gain cannot be seen."""
_COARSE_STEPS, _FINE_STEPS = 3, 3
"""Of least squares; more change nothing."""
_FULL_WEIGHT, _OUTLIER = 16, 12 * _FINE
"""What a pixel weighs, and the difference at which it weighs half of it."""
_RIDGE = 1e-3
_PAIRS_A_BLOCK = 64


class Fit(NamedTuple):
    """How pictures are laid over others; float64 that hold whole numbers, in 256ths."""

    moves: np.ndarray
    """How far the middle moves and how far the edges move away from it, in y and in x, in pixels: (N, 4)."""
    gain: np.ndarray
    """(N,)."""


def are_copies(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return whether thumbnails, uint8 (N, S, S, 3) with S even, show the same pictures as others, bool (N,).

    Either may be the left one. Measured: 0.5 ms a pair on one core of an AMD Zen 5.
    """
    return largest_differences(left, right) <= _MOST


def largest_differences(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return by how much pictures differ at most once one is laid over the other, in levels, float64 (N,)."""
    found = [np.empty(0)]
    for start in range(0, len(left), _PAIRS_A_BLOCK):
        darker, brighter = _by_brightness(*(_planes(part[start : start + _PAIRS_A_BLOCK]) for part in (left, right)))
        found.append(_differences(darker, brighter, fit(darker, brighter)))
    return np.concatenate(found)


def _planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.int16)


def _by_brightness(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the darker and the brighter of each pair; of equally bright ones by the first pixel that differs."""
    one, other = left.reshape(len(left), -1), right.reshape(len(right), -1)
    brightness = other.sum(1, dtype=np.int64) - one.sum(1, dtype=np.int64)
    first = (one != other).argmax(1)[:, None]
    tie = np.take_along_axis(other - one, first, 1)[:, 0]
    is_ordered = (np.where(brightness == 0, tie, brightness) >= 0)[:, None, None, None]
    return np.where(is_ordered, left, right), np.where(is_ordered, right, left)


def fit(darker: np.ndarray, brighter: np.ndarray) -> Fit:
    """Return how to lay pictures, int16 (N, 3, S, S), over others: at half the size first."""
    sharp = [_blur(planes.astype(np.float64)) for planes in (darker, brighter)]
    coarse = [np.rint(_blur(_halve(planes)) / 64) for planes in sharp]
    found = Fit(np.zeros((len(darker), 4)), np.full(len(darker), float(_ONE)))
    for _ in range(_COARSE_STEPS):
        found = _improve(found, *coarse, is_robust=False)
    found = Fit(2 * found.moves, found.gain)
    for _ in range(_FINE_STEPS):
        found = _improve(found, *sharp, is_robust=True)
    return found


def _improve(before: Fit, moved: np.ndarray, fixed: np.ndarray, *, is_robust: bool) -> Fit:
    """Return a fit after a step of least squares; planes in float64 (N, 3, S, S), in 16ths of a level."""
    count, side = len(moved), moved.shape[-1]
    laid, is_inside = _lay_over(moved, before.moves)
    laid = np.rint(laid * (before.gain / _ONE**3)[:, None, None, None])
    middle, target = laid[..., 1:-1, 1:-1], fixed[..., 1:-1, 1:-1]
    rest = target - middle
    weight = _FULL_WEIGHT * (is_inside[..., 1:-1, 1:-1] & (np.minimum(middle, target) < _CLIPPED))
    if is_robust:
        weight = np.rint(weight / (1 + (rest / _OUTLIER) ** 2))
    # beside what is clipped, pixels are half of it, and no gain explains them
    tells_gain = (target >= _CLIPPED) | (_most(fixed)[..., 1:-1, 1:-1] < _CLIPPED)
    slope_y = laid[..., 2:, 1:-1] - laid[..., :-2, 1:-1]  # over two pixels
    slope_x = laid[..., 1:-1, 2:] - laid[..., 1:-1, :-2]
    across = _from_middle(side)[1:-1]
    terms = np.stack([slope_y, slope_y * across[:, None], slope_x, slope_x * across, middle * tells_gain, rest], 1)
    terms = terms.reshape(count, 6, -1)
    products = (terms[:, :5] * weight.reshape(count, 1, -1)) @ terms.transpose(0, 2, 1)
    change = _solve(products[..., :5] + _ridge(side), products[..., 5])
    units = np.array([1, side, 1, side]) * 2.0 * _ONE
    moves = before.moves + np.rint(change[:, :4] * units)
    most = np.floor(np.tile([_MAX_OFFSET, _MAX_STRETCH], 2) * side * _ONE)
    gain = np.clip(np.rint(before.gain * (1 + change[:, 4])), *_GAINS)
    return Fit(np.clip(moves, -most, most), gain)


def _ridge(side: int) -> np.ndarray:
    """Return what keeps a plain picture where it is: (5, 5), to be added to the sums of products of terms."""
    scale = _RIDGE * side * side * _FULL_WEIGHT * (2 * _FINE) ** 2
    return np.diag(scale * np.array([1, side * side / 3, 1, side * side / 3, 1]))


def _solve(matrices: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the solutions, (N, 5), of positive definite matrices (N, 5, 5); by hand, so that all machines agree."""
    matrices, values = matrices.copy(), values.copy()
    size = values.shape[1]
    for row in range(size):
        for below in range(row + 1, size):
            factor = matrices[:, below, row] / matrices[:, row, row]
            matrices[:, below] -= factor[:, None] * matrices[:, row]
            values[:, below] -= factor * values[:, row]
    for row in reversed(range(size)):
        for right in range(row + 1, size):
            values[:, row] -= matrices[:, row, right] * values[:, right]
        values[:, row] /= matrices[:, row, row]
    return values


def _lay_over(planes: np.ndarray, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return planes (N, 3, S, S) moved by (N, 4), times 65,536, and which pixels they then cover, (N, 1, S, S)."""
    side = planes.shape[-1]
    rows, covers_rows = _interpolation(moves[:, 0], moves[:, 1], side)
    columns, covers_columns = _interpolation(moves[:, 2], moves[:, 3], side)
    laid = rows[:, None].astype(planes.dtype) @ planes @ columns.transpose(0, 2, 1)[:, None].astype(planes.dtype)
    return laid, covers_rows[:, None, :, None] & covers_columns[:, None, None, :]


def _interpolation(offset: np.ndarray, stretch: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what each place takes of each pixel, (N, S, S) in 256ths, and which places lie in the picture, (N, S)."""
    places = _ONE * np.arange(side)
    moved = np.rint(places + offset[:, None] + stretch[:, None] * (_from_middle(side) / side))
    held = np.clip(moved, 0, places[-1])
    return np.maximum(_ONE - np.abs(held[..., None] - places), 0), held == moved


def _from_middle(side: int) -> np.ndarray:
    """Return how far pixels are from the middle, in halves."""
    return 2.0 * np.arange(side) - (side - 1)


def _differences(darker: np.ndarray, brighter: np.ndarray, found: Fit) -> np.ndarray:
    """Return the largest blurred difference beyond half of what neighbours differ, in levels, (N,)."""
    laid, is_inside = _lay_over(darker.astype(np.float32), found.moves)
    gain = (found.gain / _ONE).astype(np.float32)[:, None, None, None]
    laid = np.minimum(np.rint(np.rint(laid / (_ONE**2 // _FINE)) * gain), 255 * _FINE).astype(np.int16)
    target = brighter * np.int16(_FINE)
    beyond = np.minimum(_beyond(laid, target), _beyond(target, laid))
    beyond = np.maximum(beyond, 0) * is_inside
    for axis in (2, 3):
        before, after = _neighbours(beyond, axis)
        beyond = (before + 2 * beyond + after) // 4
    return beyond.max((1, 2, 3)) / (2 * _FINE)


def _most(planes: np.ndarray) -> np.ndarray:
    """Return the largest of each pixel's neighbourhood."""
    for axis in (2, 3):
        planes = np.maximum(planes, np.maximum(*_neighbours(planes, axis)))
    return planes


def _beyond(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return by how much the other lies outside of half of what one's neighbourhood spans, twice over."""
    least, most = -_most(-one), _most(one)
    return np.maximum(2 * other - one - most, one + least - 2 * other)


def _blur(planes: np.ndarray) -> np.ndarray:
    """Return planes blurred over 3x3 pixels, times 16."""
    for axis in (2, 3):
        before, after = _neighbours(planes, axis)
        planes = before + 2 * planes + after
    return planes


def _halve(planes: np.ndarray) -> np.ndarray:
    """Return planes of half the size, times 4."""
    return planes[..., ::2, ::2] + planes[..., 1::2, ::2] + planes[..., ::2, 1::2] + planes[..., 1::2, 1::2]


def _neighbours(planes: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for every pixel the one before and the one after it; at the edge itself."""
    places = np.arange(planes.shape[axis])
    return planes.take(np.maximum(places - 1, 0), axis), planes.take(np.minimum(places + 1, places[-1]), axis)
