"""What each measurement returns."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from model.evaluation.curves import Curves


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
