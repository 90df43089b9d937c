"""`make bench`: run the benchmarks of this folder, print a line a figure and keep them in runs/bench/NAME.json.

A benchmark is a module here with a function `figures()` that yields `Figure`s. A figure is a ratio, or an amount with
the goal that it is held against; whether more or less is better is part of it.
"""

import importlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal, NamedTuple

OUTPUT = Path("runs/bench")
NAMES = (
    "judge", "languages", "shards", "object_store", "filter", "duplicates", "emoji", "emoji_prior",
    "tokenizer_training", "tokenizers", "attention", "prior_training", "prior_on_gpu", "sampling", "loader", "kill",
    "demo", "scenes", "noble",
)  # fmt: skip


class Figure(NamedTuple):
    """One measured value and its goal."""

    name: str
    value: float
    goal: float
    better: Literal["more", "less"]

    def is_reached(self) -> bool:
        """Whether the value is as good as the goal."""
        return self.value >= self.goal if self.better == "more" else self.value <= self.goal

    def line(self) -> str:
        """Return the figure as `make bench` prints it."""
        verdict = "ok" if self.is_reached() else "short"
        return f"figure {self.name} {self.value:g} {self.goal:g} {verdict}"


def machine() -> dict[str, object]:
    """Return what the figures were measured on."""
    versions = {d.metadata["Name"]: d.version for d in distributions()}
    named = ("parti", "torch", "numpy", "pyarrow", "pillow", "apache-beam", "sentencepiece", "py3langid", "openvino")
    return {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {name: versions[name] for name in named if name in versions},
    }


def run(name: str) -> bool:
    """Run one benchmark; return whether all its figures are reached."""
    figures: list[Figure] = []
    found: Iterator[Figure] = importlib.import_module(f"tests.benchmarks.{name}").figures()
    for figure in found:
        print(figure.line(), flush=True)
        figures.append(figure)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    content = {"figures": [figure._asdict() for figure in figures], "machine": machine()}
    (OUTPUT / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return all(figure.is_reached() for figure in figures)


if __name__ == "__main__":
    asked = sys.argv[1:] or list(NAMES)
    if unknown := set(asked) - set(NAMES):
        sys.exit(f"{unknown.pop()}: expected one of {', '.join(NAMES)}")
    reached = [run(name) for name in asked]
    sys.exit(0 if all(reached) else 1)
