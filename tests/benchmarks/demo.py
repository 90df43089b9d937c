"""`make demo`, from nothing: minutes, memory, and what its images show."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.run import Figure


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipelines.command_line", "demo", "configs/demo/demo.toml", f"output={folder}"]
        subprocess.run(command, check=True)
        summary = json.loads((Path(folder) / "summary.json").read_text())
    yield Figure("demo_minutes", round(summary["seconds"] / 60, 2), 12, "less")
    yield Figure("demo_peak_gib", round(summary["peak_memory_bytes"] / 2**30, 2), 4, "less")
    yield Figure("demo_one_object", summary["one_object_accuracy"], 0.90, "more")
    yield Figure("demo_two_objects", summary["two_object_accuracy"], 0.60, "more")
    yield Figure("demo_new_combination", summary["new_combination_accuracy"], 0.60, "more")
    yield Figure("demo_psnr_db", summary["psnr_db"], 25, "more")
    yield Figure("demo_code_usage", summary["code_usage"], 0.5, "more")
