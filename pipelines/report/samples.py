"""Samples with their prompts, by category, and the judge's verdict on each where there is one."""

import io
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parti_data.errors import ShardError
from parti_data.images import ImageLimits, decode
from parti_data.manifest import manifest_digest
from parti_data.storage import join
from pipelines.report.pictures import Picture, embed
from pipelines.report.stages import FinishedStage, read_stage_file

TABLE = "samples.parquet"
VERDICTS = "verdicts.parquet"
"""As the jobs call them, whose modules would import torch."""
_SHOWN = 24
_SAMPLE_PX = 256
_NO_CATEGORY = "all"
"""What evaluate calls the category of prompts that have none."""


class Sample(NamedTuple):
    """A generated image with its prompt; `is_right` is None where it was not judged."""

    picture: Picture | None
    prompt: str
    is_right: bool | None
    fault: str


class Category(NamedTuple):
    """The samples of one kind of prompt; the accuracy is that of all of them, not of the shown."""

    name: str
    accuracy: float | None
    num_samples: int
    shown: list[Sample]


class Samples(NamedTuple):
    """The section on a sample directory; the judge is the name of the evaluation, empty where there is none."""

    name: str
    judge: str
    categories: list[Category]


def read_samples(stage: FinishedStage, evaluations: list[FinishedStage]) -> Samples:
    """Return a finished sample stage with the verdicts of the evaluation that judged it, if one did."""
    digest = manifest_digest(stage.path)
    judged = [found for found in evaluations if "accuracy" in found.manifest.details]
    evaluation = next((found for found in judged if found.manifest.inputs.get("samples") == digest), None)
    drawn = _read_table(stage, TABLE, ["picture", "prompt", "category"])
    rows = [row for row in drawn if row["picture"]]
    verdicts = _read_table(evaluation, VERDICTS, ["picture", "is_right", "fault"]) if evaluation else []
    by_picture = {verdict["picture"]: verdict for verdict in verdicts}
    accuracy = evaluation.manifest.details["accuracy"] if evaluation else {}
    by_category: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_category.setdefault(row["category"] or _NO_CATEGORY, []).append(row)
    categories = [
        Category(
            name,
            accuracy.get(name),
            len(members),
            [_sample(stage, row, by_picture.get(row["picture"])) for row in choose(members)],
        )
        for name, members in by_category.items()
    ]
    return Samples(stage.name, evaluation.name if evaluation else "", categories)


def choose(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows to show: as many prompts as there is room for, then more samples of each, never by verdict.

    A prompt's are taken in their order, which is best first where they were ranked.
    """
    before: Counter[str] = Counter()
    places = []
    for number, row in enumerate(rows):
        places.append((before[row["prompt"]], number))
        before[row["prompt"]] += 1
    first = [number for _, number in sorted(places)[:_SHOWN]]
    return [rows[number] for number in sorted(first)]


def _sample(stage: FinishedStage, row: dict[str, Any], verdict: dict[str, Any] | None) -> Sample:
    pixels = decode(read_stage_file(stage, row["picture"]), ImageLimits())
    picture = embed(pixels, _SAMPLE_PX) if isinstance(pixels, np.ndarray) else None
    judged = verdict or {"is_right": None, "fault": ""}
    return Sample(picture, row["prompt"], judged["is_right"], judged["fault"])


def _read_table(stage: FinishedStage, name: str, columns: list[str]) -> list[dict[str, Any]]:
    try:
        return pq.read_table(io.BytesIO(read_stage_file(stage, name)), columns=columns).to_pylist()
    except pa.ArrowInvalid as error:
        raise ShardError(
            f"{join(stage.path, name)}: expected a table with {', '.join(columns)}, found {error}; run "
            f"{stage.manifest.stage} into a new directory"
        ) from None
