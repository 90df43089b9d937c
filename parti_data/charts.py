"""The geometry of charts: series of numbers to places in a view box; templates draw them as SVG.

A `Chart` fits the view box of `WIDTH` by `HEIGHT` units and scales with its place on the page.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from parti_data.figures import say_count, say_figure

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 52, 308, 12, 146
"""The edges of the plotted area."""
_MAX_POINTS = 240
_MAX_COLUMNS = 128
_FEW_STEPS = 5
_LEAST_LOG_RATIO = 5
"""A log scale shows nothing where the largest value is less than this many times the smallest."""

Scale = Literal["linear", "log"]


class Series(NamedTuple):
    """A named line: (x, value) in order of x, which mostly is a step."""

    name: str
    points: list[tuple[float, float]]


class Tick(NamedTuple):
    """A label at a place on an axis."""

    place: float
    text: str


class Curve(NamedTuple):
    """A line as drawn: what SVG's `points` takes, and where and at what value it ends, empty where it is not told."""

    name: str
    points: str
    end_x: float
    end_y: float
    last: str


class Axes(NamedTuple):
    """What a chart's axes are."""

    x_label: str = "step"
    scale: Scale = "linear"
    """Of the values; a log scale that they do not allow, or that would show no more, becomes a linear one."""
    least: float | None = None
    """Where the axis of values begins, None for the least of them, ..."""
    most: float | None = None
    """... and ends."""
    tells_last: bool = True
    """Whether the last value of a line is told beside its name, as where things stand."""


class Chart(NamedTuple):
    """A chart as drawn; the description says in words what the picture shows."""

    title: str
    description: str
    x_label: str
    scale: Scale
    curves: list[Curve]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    reference: Tick | None


_STEPS = Axes()


class Histogram(NamedTuple):
    """An area as drawn, with the height that all columns would have if they were equal."""

    description: str
    points: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    reference: Tick


def draw_curves(
    title: str, series: list[Series], axes: Axes = _STEPS, reference: tuple[str, float] | None = None
) -> Chart | None:
    """Return a chart of the series, None where they hold no point; the reference is a level with its name."""
    series = [Series(name, thin(points)) for name, points in series if points]
    if not series:
        return None
    values = [value for line in series for _, value in line.points] + ([reference[1]] if reference else [])
    low = min(values) if axes.least is None else axes.least
    high = max(values) if axes.most is None else axes.most
    scale: Scale = "log" if axes.scale == "log" and low > 0 and high / low >= _LEAST_LOG_RATIO else "linear"
    steps = sorted({step for line in series for step, _ in line.points})
    to_x = _axis((steps[0], steps[-1]), (LEFT, RIGHT), "linear")
    to_y = _axis((low, high), (BOTTOM, TOP), scale)
    return Chart(
        title,
        "; ".join(_describe(line, axes.x_label) for line in series),
        axes.x_label,
        scale,
        [_curve(line, to_x, to_y, axes.tells_last) for line in series],
        [Tick(to_x(step), _say_step(step)) for step in _marked(steps)],
        [Tick(to_y(value), say_figure(value)) for value in _spread(low, high, scale)],
        Tick(to_y(reference[1]), reference[0]) if reference else None,
    )


def draw_code_usage(counts: np.ndarray) -> Histogram:
    """Return the shares of all codes, int (V,), most frequent first; neighbours share a column where V is large."""
    shares = np.sort(counts)[::-1] / max(counts.sum(), 1)
    columns = [part.mean() for part in np.array_split(shares, min(len(shares), _MAX_COLUMNS))]
    even = 1 / len(shares)
    to_y = _axis((0, max(*columns, even)), (BOTTOM, TOP), "linear")
    edges = np.linspace(LEFT, RIGHT, len(columns) + 1)
    corners = [(edge, to_y(share)) for n, share in enumerate(columns) for edge in edges[n : n + 2]]
    outline = [(LEFT, BOTTOM), *corners, (RIGHT, BOTTOM)]
    return Histogram(
        f"The most frequent code has {_percent(shares[0])} of all tokens, an even share would be {_percent(even)}.",
        _join(outline),
        [Tick(LEFT, "1"), Tick(RIGHT, say_count(len(shares)))],
        [Tick(BOTTOM, "0"), Tick(to_y(max(columns)), _percent(max(columns)))],
        Tick(to_y(even), "even share"),
    )


def thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most so many points as a chart can show, each the mean of its neighbours; the last one as it is."""
    if len(points) <= _MAX_POINTS:
        return points
    parts = np.array_split(np.array(points[:-1], dtype=np.float64), _MAX_POINTS - 1)
    return [(float(step), float(value)) for step, value in (part.mean(axis=0) for part in parts)] + [points[-1]]


def _axis(values: tuple[float, float], places: tuple[float, float], scale: Scale) -> Callable[[float], float]:
    """Return the map from a value to its place; a range of one value lies in the middle."""
    transform = math.log10 if scale == "log" else float
    first, last = transform(values[0]), transform(values[1])

    def place(value: float) -> float:
        share = (transform(value) - first) / (last - first) if last > first else 0.5
        return round(places[0] + share * (places[1] - places[0]), 2)

    return place


def _spread(low: float, high: float, scale: Scale) -> list[float]:
    """Return the ends of a range and its middle on the scale."""
    if low == high:
        return [low]
    return [low, math.sqrt(low * high) if scale == "log" else (low + high) / 2, high]


def _marked(steps: list[float]) -> list[float]:
    """Return all steps where they are few, else the first, the last, and the one nearest to the middle of the range."""
    if len(steps) <= _FEW_STEPS:
        return steps
    middle = (steps[0] + steps[-1]) / 2
    return [steps[0], min(steps, key=lambda step: abs(step - middle)), steps[-1]]


def _say_step(step: float) -> str:
    return say_count(round(step)) if step == round(step) else say_figure(step)


def _curve(line: Series, to_x: Callable[[float], float], to_y: Callable[[float], float], tells_last: bool) -> Curve:
    places = [(to_x(step), to_y(value)) for step, value in line.points]
    return Curve(line.name, _join(places), *places[-1], say_figure(line.points[-1][1]) if tells_last else "")


def _describe(line: Series, x_label: str) -> str:
    (first_step, first), (last_step, last) = line.points[0], line.points[-1]
    values = [value for _, value in line.points]
    return (
        f"{line.name}: {say_figure(first)} at {x_label} {_say_step(first_step)}, {say_figure(last)} at {x_label} "
        f"{_say_step(last_step)}, lowest {say_figure(min(values))}, highest {say_figure(max(values))}"
    )


def _join(places: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in places)


def _percent(share: float) -> str:
    return f"{say_figure(100 * float(share))} %"
