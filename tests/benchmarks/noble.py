"""NOBLE on the demo's scenes: steps and time in which a prior with branches has a plain prior's loss.

All start anew, three seeds of each, on the same token shards, those of a seed on the same rows in the same order; what
is compared is the loss on scenes whose prompts training never sees. The rate is constant after its warm-up, so that a
loss at a step does not depend on how long the run is to be. The rank is a sixteenth of the width, as 32 is of 512: both
presets then add a tenth of the blocks' parameters. Goals are break-even, and the dearest that the paper reports.
`PARTI_NOBLE=runs/noble` goes on with what is finished in that directory, and leaves all of it there.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from model.evaluation.curves import draw_svg
from parti_data.charts import Axes, Series, draw_curves
from parti_data.manifest import read_manifest
from tests.benchmarks.equal_loss import Run, compare, table
from tests.benchmarks.run import OUTPUT, Figure

SEEDS, RANK = (0, 1, 2), 8
STEPS, MEASURED_EVERY, TOLD_EVERY = 500, 25, 10
KINDS = {"plain": "", "code": "code", "paper": "paper"}
MOST_PARAMETERS, MOST_STEP_TIME = 0.24, 0.21
"""More than without, of what the paper tried."""
LEFT_OUT = 2
"""Of the lines of a run's speed: the first steps are slower."""


def figures() -> Iterator[Figure]:
    kept = os.environ.get("PARTI_NOBLE")
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tokens(folder)
        runs: dict[str, list[Run]] = {kind: [] for kind in KINDS}
        for seed in SEEDS:
            for kind in KINDS:  # in turn, so that none has the quiet hour
                runs[kind].append(train(folder, kind, seed))
    for line in table(runs):
        print(f"noble: {line}")
    draw(runs)
    for kind in list(KINDS)[1:]:
        yield from judge(kind, runs)


def make_tokens(folder: Path) -> None:
    """Make token shards of scenes, and of others whose prompts are new."""
    made = f"source={folder}/pairs"
    files = [f"image_tokenizer={folder}/tokenizer/tokenizer.safetensors", f"text_tokenizer={folder}/text/text.model"]
    parti("filter", "filter.toml", f"output={folder}/pairs")
    parti("filter", "held_out.toml", f"output={folder}/held_out")
    parti("train", "text", "text.toml", made, f"output={folder}/text")
    parti("train", "tokenizer", "tokenizer.toml", made, f"held_out={folder}/held_out", f"output={folder}/tokenizer")
    parti("tokenize", "tokenize.toml", made, *files, f"output={folder}/tokens")
    parti("tokenize", "tokenize.toml", f"source={folder}/held_out", *files, f"output={folder}/held_out_tokens")


def train(folder: Path, kind: str, seed: int) -> Run:
    """Train a prior, unless that is done, and return how it went."""
    output = folder / f"{kind}-{seed}"
    words = [f"source={folder}/tokens", f"held_out={folder}/held_out_tokens", f"output={output}", f"seed={seed}"]
    words += [f"schedule.num_steps={STEPS}", "schedule.decay=constant", f"schedule.log_every={TOLD_EVERY}"]
    words += [f"schedule.checkpoint_every={MEASURED_EVERY}"]
    if preset := KINDS[kind]:
        words.append(f'architecture.noble={{preset = "{preset}", rank = {RANK}}}')
    parti("train", "prior", "prior.toml", *words)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["steps_per_s"] for line in lines if "steps_per_s" in line][LEFT_OUT:]
    losses = [(line["step"], line["held_out_loss"]) for line in lines if "held_out_loss" in line]
    return Run(losses, 1 / statistics.median(speeds), read_manifest(str(output)).details["parameters"])


def judge(kind: str, runs: dict[str, list[Run]]) -> Iterator[Figure]:
    """Yield the medians over seeds."""
    found = [compare(*pair) for pair in zip(runs["plain"], runs[kind], strict=True)]

    def median(name: str) -> float:
        return round(statistics.median(getattr(one, name) for one in found), 3)

    yield Figure(f"noble_{kind}_steps_speedup", median("steps_speedup"), 1, "more")
    yield Figure(f"noble_{kind}_time_speedup", median("time_speedup"), 1, "more")
    yield Figure(f"noble_{kind}_more_parameters", median("more_parameters"), MOST_PARAMETERS, "less")
    yield Figure(f"noble_{kind}_more_step_time", median("more_step_time"), MOST_STEP_TIME, "less")


def draw(runs: dict[str, list[Run]]) -> None:
    """Keep the curves beside the figures, a chart a seed."""
    axes = Axes(scale="log")
    charts = (
        draw_curves(f"seed {seed}", [Series(kind, found[number].losses) for kind, found in runs.items()], axes)
        for number, seed in enumerate(SEEDS)
    )
    OUTPUT.mkdir(parents=True, exist_ok=True)
    drawn = draw_svg("NOBLE on synthetic scenes", [chart for chart in charts if chart], "held-out nats a token")
    (OUTPUT / "noble.svg").write_bytes(drawn)


def parti(*words: str) -> None:
    arguments = [f"configs/demo/{word}" if word.endswith(".toml") else word for word in words]
    subprocess.run([sys.executable, "-m", "pipelines.command_line", *arguments], check=True)
