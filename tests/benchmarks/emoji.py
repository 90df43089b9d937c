"""Real pairs end to end: Noto Emoji through filter, a minute of tokenizer training, and tokenize."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq

from parti_data.image_dataset import ImageDataset
from parti_data.manifest import read_manifest
from tests.benchmarks.run import Figure

EMOJI = Path(os.environ.get("PARTI_SHARED", "../shared")) / "data" / "noto-emoji"


def figures() -> Iterator[Figure]:
    if not EMOJI.is_dir():
        print(f"emoji: no {EMOJI}, skipped")
        return
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        parti("filter", "filter.toml", f"source.path={EMOJI}", f"output={folder}/pairs")
        parti("train", "text", "text.toml", f"source={folder}/pairs", f"output={folder}/text")
        parti("train", "tokenizer", "tokenizer.toml", f"source={folder}/pairs", f"output={folder}/tokenizer")
        parti("tokenize", "tokenize.toml", f"source={folder}/pairs", f"output={folder}/tokens", *tokenizers(folder))
        yield Figure("emoji_minutes", round((time.monotonic() - started) / 60, 2), 5, "less")
        counts = read_manifest(f"{folder}/pairs").counts
        for outcome, goal in (("read", 3414), ("kept", 3404), ("merged", 10)):
            yield Figure(f"emoji_{outcome}", counts[outcome], goal, "more")
        yield Figure("emoji_dropped", counts["dropped"], 0, "less")
        corners = ImageDataset(f"{folder}/pairs", 64, 1).pictures(range(500))[:, 0, 0]
        yield Figure("emoji_white_corners", float((corners > 250).all(-1).mean()), 0.9, "more")
        yield Figure("emoji_shards_equal_in_duckdb_and_pyarrow", float(_same_in_both(folder)), 1, "more")
        details = read_manifest(f"{folder}/tokenizer").details
        print(f"emoji: PSNR {details['psnr_db']} dB, code usage {details['code_usage']:.0%}")


def tokenizers(folder: str) -> list[str]:
    """What a stage is told of both tokenizers in a directory of stages."""
    image = f"image_tokenizer={folder}/tokenizer/tokenizer.safetensors"
    return [image, f"text_tokenizer={folder}/text/text.model"]


def parti(*words: str) -> None:
    """Run the command line with configs of emoji, which end in .toml."""
    arguments = [f"configs/emoji/{word}" if word.endswith(".toml") else word for word in words]
    subprocess.run([sys.executable, "-m", "pipelines.command_line", *arguments], check=True)


def _same_in_both(folder: str) -> bool:
    shards = f"{folder}/tokens/tokens-*.parquet"
    seen = duckdb.sql(f"select key, image_tokens from '{shards}' order by key").fetchall()
    paths = sorted(Path(folder, "tokens").glob("tokens-*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path, columns=["key", "image_tokens"]).to_pylist()]
    rows.sort(key=lambda row: row["key"])
    return [(row["key"], np.asarray(row["image_tokens"]).tolist()) for row in rows] == [
        (key, list(tokens)) for key, tokens in seen
    ]
