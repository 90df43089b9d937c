"""From a sample to the whole: means with their errors, and how much faster several threads are than one."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice, pairwise
from typing import Any, NamedTuple

QUIET_ERROR, BUSY_ERROR = 0.25, 1.0
"""What two runs on one machine may differ by, alone there and beside others: 1.0 is half the time or twice."""
START_S = 2.0
"""Imports, and the starts and ends of pipelines, measured on one core of an AMD Zen 5."""
_UNTOLD_ERROR = 0.25
_TRIED_S = 2.0
_LEAST_BLOCKS = 4


class Estimate(NamedTuple):
    """A number and its relative standard error, 0 where it is known."""

    value: float
    error: float = 0.0

    def times(self, other: "Estimate") -> "Estimate":
        """Return the product, the errors being independent of each other."""
        return Estimate(self.value * other.value, math.hypot(self.error, other.error))

    def scaled(self, factor: float, added: float = 0.0) -> "Estimate":
        """Return so many times the number, and something that is known, the relative error as it was."""
        return Estimate(self.value * factor + added, self.error)

    def range(self, least_error: float) -> tuple[float, float]:
        """Return the least and the most to expect of a time: two standard errors, and so much anyway."""
        factor = 1 + math.hypot(2 * self.error, least_error)
        return self.value / factor, self.value * factor


class Block(NamedTuple):
    """Pairs that were sampled together: how many, and the seconds of each step on one thread."""

    num_pairs: int
    seconds: dict[str, float]


class Step(NamedTuple):
    """A step's seconds for one pair on one thread."""

    name: str
    seconds: float


class Plan(NamedTuple):
    """What was measured, and what it means for the whole source, as pairs of a name and a text."""

    title: str
    source: list[tuple[str, str]]
    steps: list[Step]
    workers: int
    speedup: float
    outlook: list[tuple[str, str]]
    notes: list[str]


def ratio(amounts: Sequence[tuple[float, float]]) -> Estimate:
    """Return the sum of the first numbers over that of the second, with the error that their differences tell.

    A single block tells none, for which `_UNTOLD_ERROR` stands.
    """
    first, second = sum(a for a, _ in amounts), sum(b for _, b in amounts)
    if not first or not second:
        return Estimate(0.0)
    mean, count = first / second, len(amounts)
    if count == 1:
        return Estimate(mean, _UNTOLD_ERROR)
    spread = sum((a - mean * b) ** 2 for a, b in amounts)
    return Estimate(mean, math.sqrt(spread * count / (count - 1)) / first)


def seconds_a_pair(parts: Sequence[Sequence[Block]]) -> Estimate:
    """Return the seconds of all steps for one pair, from the blocks of each part of the source.

    Parts that are enough stand for themselves, since what lies together is alike; of fewer each block counts.
    """
    parts = parts if len(parts) >= _LEAST_BLOCKS else [[block] for part in parts for block in part]
    return ratio(
        [(sum(sum(block.seconds.values()) for block in part), sum(block.num_pairs for block in part)) for part in parts]
    )


def steps_of(parts: Iterable[Iterable[Block]]) -> list[Step]:
    """Return each step's seconds for one pair, in the order in which they were first met."""
    blocks = [block for part in parts for block in part]
    names = dict.fromkeys(name for block in blocks for name in block.seconds)
    pairs = sum(block.num_pairs for block in blocks)
    return [Step(name, sum(block.seconds.get(name, 0) for block in blocks) / pairs) for name in names]


def cut(items: Sequence[Any], least: int = 10, most_parts: int = 8) -> list[Sequence[Any]]:
    """Return the items in parts of almost one size, of at least so many items each."""
    parts = max(min(len(items) // least, most_parts), 1)
    bounds = [number * len(items) // parts for number in range(parts + 1)]
    return [items[first:last] for first, last in pairwise(bounds)]


def measure_speedup(work: Callable[[Any], object], items: Sequence[Any], workers: int) -> float:
    """Return how many times faster so many threads do the work than one does: Python's lock may leave little of it.

    Each way is tried twice with as many items as take `_TRIED_S`, the faster time counts. Threads get equally many;
    some do items over again where there are not enough.
    """
    if workers < 2:
        return 1.0
    items = items[: max(_num_within(work, items), workers)]
    dealt = list(islice(cycle(items), -(-len(items) // workers) * workers))
    parts = [dealt[number::workers] for number in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        together = _seconds(lambda: list(pool.map(lambda part: [work(item) for item in part], parts)))
    alone = _seconds(lambda: [work(item) for item in items])
    return min(max(alone / len(items) * len(dealt) / together, 1.0), float(workers))


def _num_within(work: Callable[[Any], object], items: Sequence[Any]) -> int:
    """Return how many of the items one thread does in `_TRIED_S`, one at least."""
    started = time.perf_counter()
    for number, item in enumerate(items, 1):
        work(item)
        if time.perf_counter() - started > _TRIED_S:
            return number
    return len(items)


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)
