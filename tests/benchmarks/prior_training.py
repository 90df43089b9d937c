"""Training a small prior on a CPU against parti-pytorch, the best-known of others: width, tokens, batch, weights equal.

Both train in float32 on random rows of 256 tokens with AdamW, in processes of their own that take turns; ours is the
whole job with its loader, of the other's the steps alone. Its text is given, encoded, as it has no encoder: ours trains
one, and has at least as many weights in all. What the other needs beside torch goes into a folder of its own; where
that cannot be installed, there is nothing to compare with.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tests.benchmarks.loader_data as data
from parti_data.manifest import read_manifest
from tests.benchmarks.run import OUTPUT, Figure

ROUNDS, STEPS, TOLD_EVERY = 3, 16, 4
BATCH, WIDTH, HEADS, GRID_SIDE, CODES, TEXT_IDS, VOCABULARY = 8, 256, 4, 16, 1024, 32, 1024
ENCODER_LAYERS, DECODER_LAYERS, PEER_LAYERS = 3, 4, 8
"""The decoder has no fewer layers than the encoder, as in every size of Parti; the fewer it has, the faster a step."""
NUM_ROWS = 512
FOLDER = OUTPUT / "parti_pytorch"
PACKAGES = ("parti-pytorch==0.2.0", "einops", "einops-exts")
SCRIPT = Path(__file__).with_name("prior_training_peer.py")


def figures() -> Iterator[Figure]:
    if not installed():
        print("prior_training: parti-pytorch cannot be installed, so there is nothing to compare with")
        return
    with tempfile.TemporaryDirectory() as name:
        tokens = write_tokens(Path(name) / "tokens")
        turns = [(ours(tokens, Path(name) / str(number)), theirs()) for number in range(ROUNDS)]
    for who, found in zip(("ours", "parti-pytorch"), zip(*turns, strict=True), strict=True):
        speeds = ", ".join(f"{turn['tokens_per_s']:,.0f}" for turn in found)
        print(f"prior_training: {who}: {found[0]['parameters']:,.0f} weights, {speeds} tokens/s")
    ratios = [mine["tokens_per_s"] / its["tokens_per_s"] for mine, its in turns]
    yield Figure("prior_training_speed_of_parti_pytorch", round(statistics.median(ratios), 3), 2, "more")
    weights = turns[0][0]["parameters"] / turns[0][1]["parameters"]
    yield Figure("prior_training_weights_of_parti_pytorch", round(weights, 3), 1, "more")


def write_tokens(path: Path) -> Path:
    """Write token shards of random rows of this size."""
    shape = {"codebook_size": CODES, "grid_side": GRID_SIDE, "text_vocabulary_size": VOCABULARY}
    data.METADATA, data.GRID_SIDE = data.METADATA.model_copy(update=shape), GRID_SIDE
    return data.write_directory(path, NUM_ROWS, lambda rng, count: rng.integers(0, CODES, count).astype("uint16"))


def ours(tokens: Path, output: Path) -> dict[str, float]:
    sizes = {
        "max_text_length": TEXT_IDS, "width": WIDTH, "hidden": 4 * WIDTH, "num_heads": HEADS, "dropout": 0.0,
        "num_encoder_layers": ENCODER_LAYERS, "num_decoder_layers": DECODER_LAYERS,
    }  # fmt: skip
    schedule = {"num_steps": STEPS, "lr": 1e-3, "log_every": TOLD_EVERY, "checkpoint_every": STEPS}
    words = [f"source={tokens}", f"output={output}", f"batch_size={BATCH}", "schedule.precision=float32"]
    words += [f"architecture.{name}={value}" for name, value in sizes.items()]
    words += [f"schedule.{name}={value}" for name, value in schedule.items()]
    words += ["text.pad_to=length", f"text.length={TEXT_IDS}"]
    subprocess.run(
        [sys.executable, "-m", "pipelines.command_line", "train", "prior", *words], check=True,
        stdout=subprocess.DEVNULL, env=os.environ | {"PARTI_CACHE": str(output.with_suffix(".cache"))},
    )  # fmt: skip
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["tokens_per_s"] for line in lines if "tokens_per_s" in line]
    parameters = read_manifest(str(output)).details["parameters"]
    return {"tokens_per_s": statistics.median(speeds[1:]), "parameters": parameters}


def theirs() -> dict[str, float]:
    sizes = [BATCH, WIDTH, HEADS, GRID_SIDE, CODES, TEXT_IDS, PEER_LAYERS, STEPS, TOLD_EVERY]
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, *map(str, sizes)], check=True, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(FOLDER.resolve())},
    )  # fmt: skip
    found = json.loads(answer.stdout)
    return found | {"tokens_per_s": statistics.median(found["tokens_per_s"][1:])}


def installed() -> bool:
    """Whether the other's packages are in their folder."""
    ready = FOLDER / ".ready"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if not ready.exists():
        if subprocess.run([*pip, f"--target={FOLDER}", *PACKAGES], stderr=subprocess.DEVNULL, check=False).returncode:
            return False
        ready.touch()
    return True
