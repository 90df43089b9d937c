"""Curves of the share of right pictures over a number: in a manifest's details, and as one SVG picture.

Nothing here needs torch: reports read the details back and draw the same charts.
"""

from pydantic import BaseModel, FiniteFloat

from model.evaluation.templates import open_templates
from parti_data import charts
from parti_data.charts import Axes, Chart, Series, draw_curves

_COLUMNS = 3
_FEW_POINTS = 6


class Line(BaseModel):
    """A curve: (x, share of right pictures) in order of x."""

    name: str
    points: list[tuple[FiniteFloat, FiniteFloat]]


class Panel(BaseModel):
    """The curves of one category of prompts."""

    category: str
    num_pictures: int
    """Whose verdicts a point is of; the fewest, where points are of several numbers."""
    lines: list[Line]
    reference: tuple[str, FiniteFloat] | None = None
    """A level, with its name."""


class Curves(BaseModel):
    """Curves over one number, for each category of prompts."""

    title: str
    x_label: str
    tells_last: bool = True
    """Whether the last value of a line is one that is looked for, and told beside its name."""
    panels: list[Panel]


def draw_panels(curves: Curves) -> list[Chart]:
    """Return a chart of each category, all on one scale."""
    axes = Axes(curves.x_label, least=0.0, most=1.0, tells_last=curves.tells_last)
    drawn = (
        draw_curves(
            f"{panel.category}, {panel.num_pictures} pictures",
            [Series(line.name, line.points) for line in panel.lines],
            axes,
            panel.reference,
        )
        for panel in curves.panels
    )
    return [chart for chart in drawn if chart]


def render(curves: Curves) -> bytes:
    """Return the charts as one SVG file, with labelled axes."""
    return draw_svg(curves.title, draw_panels(curves), "share of right pictures")


def draw_svg(title: str, panels: list[Chart], y_label: str) -> bytes:
    """Return charts, each of three lines at most, as one SVG file."""
    environment = open_templates("model.evaluation")
    environment.filters["printable"] = printable
    text = environment.get_template("curves.svg").render(
        title=title, panels=panels, y_label=y_label, columns=min(_COLUMNS, max(len(panels), 1)), area=charts
    )
    return text.encode("utf-8", "replace")


def curve_lines(curves: Curves) -> list[str]:
    """Return a line for each curve: its shares, of many those at its ends and in its middle."""
    told = []
    for panel in curves.panels:
        for line in panel.lines:
            count = len(line.points)
            places = range(count) if count <= _FEW_POINTS else (0, (count - 1) // 2, count - 1)
            said = ", ".join(f"{line.points[place][1]:.4g} at {line.points[place][0]:g}" for place in places)
            told.append(f"right, {printable(panel.category)}, {printable(line.name)}: {said}")
    return told


def printable(text: str) -> str:
    """Return a text without the characters that XML does not have, or that a terminal obeys."""
    return "".join(character if character.isprintable() else " " for character in text)
