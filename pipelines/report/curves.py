"""The curves that an evaluation measured, of the share of right pictures over a number."""

from typing import NamedTuple

from pydantic import ValidationError

from model.evaluation.curves import Curves, draw_panels
from parti_data.charts import Chart
from parti_data.errors import ShardError
from pipelines.report.stages import FinishedStage


class CurveGroup(NamedTuple):
    """The charts of one measurement, one for each category of prompts."""

    title: str
    charts: list[Chart]


class MeasuredCurves(NamedTuple):
    """The section on an evaluation with curves."""

    name: str
    groups: list[CurveGroup]


def has_curves(stage: FinishedStage) -> bool:
    """Whether an evaluation measured any."""
    return bool(stage.manifest.details.get("curves"))


def read_curves(stage: FinishedStage) -> MeasuredCurves:
    """Return the curves of a finished evaluation; raises ShardError where its manifest has others."""
    try:
        found = [Curves.model_validate(one) for one in stage.manifest.details["curves"].values()]
    except (ValidationError, AttributeError):
        raise ShardError(
            f"{stage.path}: expected curves as evaluate writes them, found others; run evaluate into a new directory"
        ) from None
    return MeasuredCurves(stage.name, [CurveGroup(one.title, draw_panels(one)) for one in found])
