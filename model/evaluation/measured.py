"""What each measurement returns, and how the measurements of a job become a finished directory."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.evaluation.curves import Curves, curve_lines, printable, render
from parti_data.errors import CheckpointError
from parti_data.manifest import Manifest, ShardRecord, StageDirectory, record_shard
from parti_data.storage import join, publish, publish_bytes


@dataclass(frozen=True)
class Measured:
    """Figures and counts by name, tables by the names of their files, files that are written, and further details."""

    figures: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curves] = field(default_factory=dict)
    """By the names of their pictures."""


def finish_measured(begun: StageDirectory, measurements: Iterable[Measured]) -> Manifest:
    """Write what each measurement found as it comes, and the manifest, whose details have the figures.

    Raises CheckpointError for a figure that is not finite.
    """
    counts: dict[str, int] = {}
    details: dict[str, Any] = {"figures": {}}
    shards: list[ShardRecord] = []
    for measured in measurements:
        _refuse_nonfinite(begun.path, measured.figures)
        details["figures"] |= {name: round(value, 6) for name, value in measured.figures.items()}
        counts |= measured.counts
        details |= measured.details
        for name, curves in measured.curves.items():
            details.setdefault("curves", {})[name] = curves.model_dump(mode="json")
        shards += _write(begun.path, measured)
    return begun.finish(shards, counts, details)


def _refuse_nonfinite(output: str, figures: dict[str, float]) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise CheckpointError(
                f"{output}: expected a finite {name}, found {value}; check the weights of its networks"
            )


def _write(output: str, measured: Measured) -> list[ShardRecord]:
    """Write a measurement's tables and draw its curves; return the records of all its files."""
    for name, table in measured.tables.items():
        with publish(join(output, name)) as file:
            pq.write_table(table, file)
    for name, curves in measured.curves.items():
        publish_bytes(join(output, f"{name}.svg"), render(curves))
    rows = {name: len(table) for name, table in measured.tables.items()}
    pictures = [f"{name}.svg" for name in measured.curves]
    return [record_shard(output, name, rows.get(name, 0)) for name in (*rows, *pictures, *measured.files)]


def figure_lines(manifest: Manifest) -> list[str]:
    """Return what was measured, a figure a line."""
    figures: dict[str, float] = dict(manifest.details["figures"])
    accuracy = manifest.details.get("accuracy", {})
    figures |= {f"right, {printable(category)}": share for category, share in accuracy.items()}
    lines = [f"{name.replace('_', ' ')}: {value:.5g}" for name, value in figures.items()]
    curves = [Curves.model_validate(found) for found in manifest.details.get("curves", {}).values()]
    return [*lines, *(line for one in curves for line in curve_lines(one))]
