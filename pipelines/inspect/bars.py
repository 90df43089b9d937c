"""Histograms in plain text: a line for each bar, of block characters in eighths of a column."""

from collections import Counter
from typing import NamedTuple

WIDTH = 40
_MOST_BINS = 12
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"


class Bin(NamedTuple):
    """A bar's name and what it counts."""

    name: str
    count: int


def bin_lengths(counts: Counter[int]) -> list[Bin]:
    """Return whole numbers that occur so often in at most 12 bins of equal width."""
    if not counts:
        return []
    low, high = min(counts), max(counts)
    width = -(-(high - low + 1) // _MOST_BINS)
    bins = []
    for start in range(low, high + 1, width):
        end = start + width - 1
        name = str(start) if width == 1 else f"{start}–{end}"
        bins.append(Bin(name, sum(counts[number] for number in range(start, end + 1))))
    return bins


def bar(share: float) -> str:
    """Return a bar of at most `WIDTH` columns; what is more than nothing is never empty."""
    eighths = max(round(share * WIDTH * 8), 1) if share > 0 else 0
    return _FULL * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
