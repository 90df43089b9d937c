"""Random numbers and permutations that are functions of a key alone: the same on every machine, in any order."""

import numpy as np

_WRAP = 1 << 64
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
"""Source: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (2014): the finalizer of SplitMix64."""


def mix(numbers: np.ndarray) -> np.ndarray:
    """Return uint64 that look random, one for each uint64; distinct numbers stay distinct."""
    mixed = numbers + _GOLDEN  # array arithmetic wraps
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return mixed ^ (mixed >> np.uint64(31))


def stream_key(*names: int) -> np.uint64:
    """Return the key of a stream that these whole numbers name, in their order."""
    key = np.zeros(1, np.uint64)
    for name in names:
        key = mix(key ^ mix(np.array([name % _WRAP], np.uint64)))
    return key[0]


def permutation(size: int, key: np.uint64) -> np.ndarray:
    """Return the numbers from 0 to before `size` in a random order, int64."""
    return np.argsort(mix(_numbered(np.arange(size, dtype=np.uint64), key)))  # distinct: no ties


def uniform(numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return a float64 in [0, 1) for each whole number."""
    return (draw(numbers, key) >> np.uint64(11)) * 2.0**-53


def draw(numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return a random uint64 for each whole number."""
    return mix(_numbered(numbers.astype(np.uint64), key))


def _numbered(numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return the numbers of one key's stream; another key's begin elsewhere and go another way."""
    return (numbers ^ key) * _GOLDEN  # odd, so that distinct numbers stay distinct
