"""Whether a network reaches another's loss sooner: in steps and in time, over seeds.

Curves are smoothed, each point with those just before it, and what is compared are curves of one seed: the same rows in
the same order.
"""

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

SMOOTHED = 3
"""Points that a point is the mean of, itself the last; at a constant rate losses go up and down by themselves."""

Points = list[tuple[float, float]]
"""(step, loss) in order."""


class Run(NamedTuple):
    """A training of one seed."""

    losses: Points
    step_s: float
    parameters: int

    @property
    def last(self) -> float:
        """The loss at the end, smoothed."""
        return smoothed(self.losses)[-1][1]


class Comparison(NamedTuple):
    """Of a run with the plain one of its seed."""

    loss: float
    steps: float
    """To the plain one's last loss; infinite where it is not reached."""
    steps_speedup: float
    """The plain one's steps over these; 0 where its loss is not reached."""
    time_speedup: float
    more_step_time: float
    """As a share, like ..."""
    more_parameters: float


def smoothed(points: Points) -> Points:
    """Return points whose losses are means of themselves and the few before."""
    starts = (max(number + 1 - SMOOTHED, 0) for number in range(len(points)))
    return [
        (points[number][0], statistics.fmean(loss for _, loss in points[start : number + 1]))
        for number, start in enumerate(starts)
    ]


def steps_to(points: Points, level: float) -> float:
    """Return where a line through points first falls to a level; infinite where it does not."""
    for (before, higher), (step, loss) in zip([points[0], *points], points, strict=False):
        if loss <= level:
            share = (higher - level) / (higher - loss) if higher > loss else 1.0
            return before + share * (step - before)
    return math.inf


def compare(plain: Run, other: Run) -> Comparison:
    """Return how another run of a seed stands beside the plain one."""
    steps = steps_to(smoothed(other.losses), plain.last)
    speedup = plain.losses[-1][0] / steps
    dearer = other.step_s / plain.step_s
    return Comparison(other.last, steps, speedup, speedup / dearer, dearer - 1, other.parameters / plain.parameters - 1)


def table(runs: Mapping[str, list[Run]]) -> list[str]:
    """Return lines that tell of runs by kind, each of all seeds in order; the first kind is the plain one."""
    (name, plain), *others = runs.items()
    lines = [
        f"{name:8}{plain[0].parameters:>12,} parameters  {_each([1e3 * run.step_s for run in plain], '.1f')} ms a step"
        f"  loss {_each([run.last for run in plain], '.4f')}"
    ]
    for name, found in others:
        beside = [compare(*pair) for pair in zip(plain, found, strict=True)]
        lines.append(
            f"{name:8}{found[0].parameters:>12,} parameters ({beside[0].more_parameters:+.1%})"
            f"  {_each([1e3 * run.step_s for run in found], '.1f')} ms a step"
            f" ({_each([one.more_step_time for one in beside], '+.1%')})"
            f"  loss {_each([one.loss for one in beside], '.4f')}"
            f"  {_each([one.steps for one in beside], '.0f')} steps to the plain loss,"
            f" {_each([one.steps_speedup for one in beside], '.3f')} times as fast in steps,"
            f" {_each([one.time_speedup for one in beside], '.3f')} in time"
        )
    return lines


def _each(values: list[float], form: str) -> str:
    """Return the median and, of several seeds, the least and the most."""
    middle = format(statistics.median(values), form)
    return middle if len(values) == 1 else f"{middle} [{min(values):{form}}, {max(values):{form}}]"
