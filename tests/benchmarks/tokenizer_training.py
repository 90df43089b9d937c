"""Fifteen minutes of tokenizer training on real pictures: what is left of emoji that it has never seen.

`PARTI_TRAINING_STEPS=400` tries it with fewer steps, without reaching the goals.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from parti_data.manifest import read_manifest
from tests.benchmarks.run import Figure

EMOJI = Path(os.environ.get("PARTI_SHARED", "../shared")) / "data" / "noto-emoji"
STEPS = int(os.environ.get("PARTI_TRAINING_STEPS", "0"))
CONFIG = "configs/emoji/tokenizer_15_minutes.toml"


def figures() -> Iterator[Figure]:
    if not EMOJI.is_dir():
        print(f"tokenizer_training: no {EMOJI}, skipped")
        return
    with tempfile.TemporaryDirectory() as folder:
        _parti("filter", "configs/emoji/filter.toml", f"source.path={EMOJI}", f"output={folder}/pairs")
        fewer = [f"schedule.num_steps={STEPS}", f"schedule.checkpoint_every={-(-STEPS // 4)}"] if STEPS else []
        started = time.monotonic()
        _parti("train", "tokenizer", CONFIG, f"source={folder}/pairs", f"output={folder}/tokenizer", *fewer)
        minutes = (time.monotonic() - started) / 60
        _parti("report", folder)
        manifest = read_manifest(f"{folder}/tokenizer")
        page = Path(folder, "report.html").read_text()
    yield Figure("training_minutes", round(minutes, 2), 15, "less")
    yield Figure("training_psnr_db", manifest.details["psnr_db"], 22, "more")
    yield Figure("training_code_usage", manifest.details["code_usage"], 0.6, "more")
    drawn = "PSNR, dB" in page and "as they were at steps" in page and 'alt="original 12 above' in page
    yield Figure("training_curve_and_pictures", float(drawn), 1, "more")
    print(
        f"tokenizer_training: {manifest.counts['pictures']} pictures, {manifest.details['measured_pictures']} "
        f"held out, perplexity {manifest.details['perplexity']}"
    )


def _parti(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pipelines.command_line", *words], check=True)
