"""What a linear probe found: figures, a table, and curves over the blocks."""

from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from model.evaluation.curves import Curves, Line, Panel
from model.evaluation.measured import Measured
from model.evaluation.probe_rows import TEST, VALIDATION, ProbeRows
from model.evaluation.share_interval import ShareInterval

CURVE = "probe"
VALIDATIONS = "probe_validation.parquet"
PRIOR, RANDOM, TOKENS, PIXELS = "prior", "random network", "tokens", "pixels"
"""Whose features: of the prior, of an untrained network, of that one's token vectors before any block, of pixels."""


class Fitted(NamedTuple):
    """The probe of one block, or of pixels: how often it was right about validation rows, and about test images."""

    block: int | None
    penalty: float
    validation: float
    test: ShareInterval


def probe_figures(rows: ProbeRows, found: dict[str, list[Fitted]], block: int | Literal["best"]) -> Measured:
    """Return the accuracy on test rows of each kind of features, by the block with most right validation rows.

    Of the prior by the block that is asked for; beside them all shares of right validation rows, as table and curves.
    What the first block reads is told apart, as tokens: its mean knows how often each code occurs and nothing else.
    """
    told = {name: _best(fitted) for name, fitted in found.items()} | {TOKENS: found[RANDOM][0]}
    if block != "best":
        told[PRIOR] = found[PRIOR][block]
    figures: dict[str, float] = {}
    for name, fitted in told.items():
        prefix = f"probe_{name.replace(' ', '_')}"
        figures |= {f"{prefix}_block": fitted.block} if fitted.block else {}
        figures[f"{prefix}_accuracy"] = fitted.test.share
        figures |= {f"{prefix}_accuracy_low": fitted.test.low, f"{prefix}_accuracy_high": fitted.test.high}
    counts = {f"{name}_rows": len(part.keys) for name, part in rows.parts.items()}
    counts |= {"test_images": told[PRIOR].test.num_images}
    counts |= {"classes": len(rows.classes), "unlabelled_rows": rows.num_unlabelled}
    commonest = np.bincount(rows.numbers(TEST)).max() / counts["test_rows"]
    figures["probe_commonest_class"] = float(commonest)
    return Measured(figures, counts, {VALIDATIONS: _table(found)}, curves={CURVE: _curves(rows, found)})


def _best(fitted: list[Fitted]) -> Fitted:
    """Return the probe of a block's output that is right most often about validation rows, of equals the first."""
    return max(fitted[1:] or fitted, key=lambda one: one.validation)


def _table(found: dict[str, list[Fitted]]) -> pa.Table:
    """Return a row for each probe, with the share of validation rows; pixels have no block."""
    columns: dict[str, list[Any]] = {"features": [], "block": [], "penalty": [], "validation_accuracy": []}
    for name, fitted in found.items():
        for one in fitted:
            values = name, one.block, one.penalty, one.validation
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    kinds = [pa.string(), pa.int64(), pa.float64(), pa.float64()]
    return pa.table([pa.array(column, kind) for column, kind in zip(columns.values(), kinds, strict=True)], [*columns])


def _curves(rows: ProbeRows, found: dict[str, list[Fitted]]) -> Curves:
    lines = [
        Line(name=name, points=[(float(one.block or 0), round(one.validation, 4)) for one in found[name]])
        for name in (PRIOR, RANDOM)
    ]
    reference = (PIXELS, round(found[PIXELS][0].validation, 4)) if PIXELS in found else None
    panel = Panel(category=VALIDATION, num_pictures=len(rows.parts[VALIDATION].keys), lines=lines, reference=reference)
    title = "Right classes, told from the features of a block"
    return Curves(title=title, x_label="block", tells_last=False, panels=[panel])
