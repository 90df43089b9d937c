"""Samples with their prompts, by category, and the judge's verdict on each where there is one."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from parti_data.errors import ShardError
from parti_data.manifest import manifest_digest
from parti_data.small_tables import read_rows
from parti_data.storage import join
from pipelines.report.pictures import Picture, embed, try_picture
from pipelines.report.stages import FinishedStage
from pipelines.report.told import ToldOfEvaluation, read_told

TABLE = "samples.parquet"
VERDICTS = "verdicts.parquet"
"""As the jobs call them, whose modules would import torch."""
_DRAWN = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("picture", "prompt", "category")])
_JUDGED = pa.schema(
    [
        pa.field("picture", pa.string(), nullable=False),
        pa.field("is_right", pa.bool_()),
        pa.field("fault", pa.string(), nullable=False),
    ]
)
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
    drawn = read_rows(join(stage.path, TABLE), "sample", _DRAWN)
    rows = [row for row in drawn if row["picture"]]
    verdicts = read_rows(join(evaluation.path, VERDICTS), "evaluate", _JUDGED) if evaluation else []
    by_picture = {verdict["picture"]: verdict for verdict in verdicts}
    listed = {shard.name for shard in stage.manifest.shards}
    accuracy = read_told(evaluation, ToldOfEvaluation).accuracy if evaluation else {}
    by_category: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_category.setdefault(row["category"] or _NO_CATEGORY, []).append(row)
    categories = [
        Category(
            name,
            accuracy.get(name),
            len(members),
            [_sample(stage, listed, row, by_picture.get(row["picture"])) for row in choose(members)],
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


def _sample(stage: FinishedStage, listed: set[str], row: dict[str, Any], verdict: dict[str, Any] | None) -> Sample:
    if row["picture"] not in listed:
        raise ShardError(
            f"{stage.path}: expected pictures that its manifest lists, found {row['picture'][:80]!r}; run sample into "
            "a new directory"
        )
    pixels = try_picture(stage, row["picture"])
    picture = embed(pixels, _SAMPLE_PX) if isinstance(pixels, np.ndarray) else None
    judged = verdict or {"is_right": None, "fault": ""}
    return Sample(picture, row["prompt"], judged["is_right"], judged["fault"])
