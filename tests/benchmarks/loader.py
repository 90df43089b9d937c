"""The loader against a bare read of the same files by pyarrow, other libraries' loaders, and the limits of a start.

Loaders take turns in processes of their own, all with warm caches and without worker processes; a ratio is the median
of those within one round. The peers want other versions than ours of what they share with us, so they get an
environment of their own; where one cannot be installed, its figure is left out.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from tests.benchmarks.loader_data import uniform_codes, write_directory, write_sparse_directories, zipf_codes
from tests.benchmarks.loader_turns import Loader, Turn
from tests.benchmarks.run import OUTPUT, Figure

NUM_ROWS, BATCH, ROUNDS = 200_000, 256, 5
FEW_SHARDS, MANY_SHARDS = 10, 1_000
EPOCH_STEPS, MANY_STEPS = -(-NUM_ROWS // BATCH), 1_000
STARTS, RESUMES = 3, 3
EPOCH_S, PEER_WARM_S, PEER_S = 60.0, 5.0, 2.5
"""An epoch is never cut short; of the peers a turn is as much as comes in so long."""
VENV = OUTPUT / "loaders"
SCRIPT = Path(__file__).with_name("loader_peers.py")
COMPARED = ("litdata", "mosaicml-streaming", "datasets", "webdataset", "torch", "numpy", "pyarrow")
BASE = ("torch", "numpy", "pyarrow", "--constraint", "constraints.txt")


class Peer(NamedTuple):
    """Another library's loader."""

    installs: list[tuple[str, ...]]
    """What pip is asked for."""
    writes: bool
    """Whether it reads a format of its own, and not our shards."""
    shuffle: str
    goal: float | None
    """How many times as fast ours shall be."""


PEERS = {
    "litdata": Peer([("litdata", "--constraint", "constraints.txt")], True, "full, within chunks", 1.5),
    "mosaicml": Peer(
        [
            ("--no-deps", "mosaicml-streaming>=0.13"),  # its bounds exclude the others' versions of numpy and more
            ("boto3", "brotli", "catalogue", "paramiko", "python-snappy", "tqdm", "xxhash", "zstd"),
        ], True, "py1e", 10,
    ),
    "hf": Peer([("datasets>=5.2", "--constraint", "constraints.txt")], False, "buffer of 2,000", 10),
    "hf_arrow": Peer([("datasets>=5.2", "--constraint", "constraints.txt")], False, "buffer of 2,000", None),
    "webdataset": Peer([("webdataset", "--constraint", "constraints.txt")], True, "buffer of 2,000", 20),
}  # fmt: skip


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = write_sparse_directories(folder / "sparse", [FEW_SHARDS, MANY_SHARDS])
        uniform = write_directory(folder / "uniform", NUM_ROWS, uniform_codes)
        zipf = write_directory(folder / "zipf", NUM_ROWS, zipf_codes)
        yield Figure("loader_token_bytes_uniform", token_bytes(uniform), 1690, "less")
        yield Figure("loader_token_bytes_zipf", token_bytes(zipf), 1520, "less")
        yield from speeds(folder, uniform, zipf)
        yield from starts(folder, uniform, few, many)
        yield from shuffle(folder, uniform)


def token_bytes(shards: Path) -> float:
    """Return what the column of image tokens takes on disk, in bytes a row."""
    num_bytes = num_rows = 0
    for path in shards.glob("*.parquet"):
        footer = pq.ParquetFile(path).metadata
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            columns = [group.column(column) for column in range(group.num_columns)]
            num_rows += group.num_rows
            num_bytes += sum(
                column.total_compressed_size for column in columns if column.path_in_schema.startswith("image_tokens.")
            )
    return round(num_bytes / num_rows, 1)


def speeds(folder: Path, uniform: Path, zipf: Path) -> Iterator[Figure]:
    with ExitStack() as closing:
        peers = start_peers(folder, uniform, closing)
        loaders = start_ours(folder, uniform, closing) | peers
        turns = take_turns(loaders)
    print_table("uniform codes", loaders, turns)
    yield Figure("loader_one_thread_of_a_bare_read", ratio(turns, "ours, 1 thread", "bare read"), 0.65, "more")
    yield Figure("loader_two_threads_of_a_bare_read", ratio(turns, "ours, 2 threads", "bare read"), 1.2, "more")
    for name in peers:
        if goal := PEERS[name].goal:  # Arrow tables are what a user may make of them, not what the library gives
            yield Figure(f"loader_speed_of_{name}", ratio(turns, "ours, 2 threads", name), goal, "more")
    with ExitStack() as closing:
        loaders = start_ours(folder, zipf, closing)
        turns = take_turns(loaders)
    print_table("zipf codes", loaders, turns)


def start_ours(folder: Path, shards: Path, closing: ExitStack) -> dict[str, Loader]:
    commands = {
        "bare read": ["bare", shards],
        "ours, 1 thread": ["batches", shards, 1],
        "ours, 2 threads": ["batches", shards, 2],
    }
    return {
        name: closing.enter_context(Loader(ours(*words), folder / "ours.txt", surroundings(folder)))
        for name, words in commands.items()
    }


def start_peers(folder: Path, shards: Path, closing: ExitStack) -> dict[str, Loader]:
    """Return those that can be installed and started, their formats written."""
    loaders = {}
    for name in install_peers():
        task = [VENV / "bin" / "python", "-W", "ignore", SCRIPT]
        place, errors = folder / name, folder / f"{name}.txt"
        if PEERS[name].writes:
            with errors.open("w") as file:
                subprocess.run(
                    [*task, "write", name, shards, place],
                    check=False, stdout=file, stderr=file, env=os.environ | surroundings(folder),
                )  # fmt: skip
        try:
            loader = Loader([*task, "read", name, shards, place], errors, surroundings(folder))
        except RuntimeError as error:
            print(f"loader: {name} cannot be run ({error}), so it is not compared")
        else:
            loaders[name] = closing.enter_context(loader)
    return loaders


def take_turns(loaders: dict[str, Loader]) -> dict[str, list[Turn]]:
    """Return what each did in each round, once it is warm."""
    for name, loader in loaders.items():
        loader.turn(NUM_ROWS, PEER_WARM_S if name in PEERS else EPOCH_S)
    turns: dict[str, list[Turn]] = {name: [] for name in loaders}
    for _ in range(ROUNDS):
        for name, loader in loaders.items():
            turns[name].append(loader.turn(NUM_ROWS, PEER_S if name in PEERS else EPOCH_S))
    return turns


def ratio(turns: dict[str, list[Turn]], name: str, other: str) -> float:
    """Return how many times as fast one is as the other, the median of the rounds."""
    pairs = zip(turns[name], turns[other], strict=True)
    return round(statistics.median(speed(mine) / speed(its) for mine, its in pairs), 3)


def speed(turn: Turn) -> float:
    return turn.rows / turn.wall_s


def print_table(title: str, loaders: dict[str, Loader], turns: dict[str, list[Turn]]) -> None:
    print(f"loader: {title}: batches of {BATCH}, medians of {ROUNDS} rounds")
    print("| loader | shuffle | rows/s | ratio to bare read | CPU us a row | first batch s | anonymous memory MB |")
    print("|---|---|---|---|---|---|---|")
    for name, loader in loaders.items():
        shuffle = PEERS[name].shuffle if name in PEERS else "window" if name.startswith("ours") else "none"
        each_us = statistics.median(1e6 * turn.processor_s / turn.rows for turn in turns[name])
        memory_mb = max(turn.anonymous_mb for turn in turns[name])
        print(
            f"| {name} | {shuffle} | {statistics.median(map(speed, turns[name])):,.0f} | "
            f"{ratio(turns, name, 'bare read'):.3f} | {each_us:.1f} | {loader.first_batch_s:.2f} | {memory_mb:.0f} |",
            flush=True,
        )


def starts(folder: Path, uniform: Path, few: Path, many: Path) -> Iterator[Figure]:
    """Yield what a new process takes for its first batch, anywhere, and in memory, beyond what the imports take."""
    unknown = [ask(folder, "start", many, 0, 0, cache=f"cache-{number}") for number in range(STARTS)]
    each = {path: [ask(folder, "start", path, 0, MANY_STEPS) for _ in range(STARTS)] for path in (few, many)}
    yield Figure("loader_first_batch_s", median(f"first batch of {MANY_SHARDS} shards", each[many]), 0.5, "less")
    yield Figure("loader_first_batch_of_unchecked_shards_s", median("the same unchecked", unknown), 0.5, "less")
    peaks = {path: statistics.median(start["peak_mb"] for start in found) for path, found in each.items()}
    print(
        f"loader: peak beyond libraries: {peaks[few]:.0f} MB of {FEW_SHARDS} shards, {peaks[many]:.0f} of {MANY_SHARDS}"
    )
    yield Figure("loader_memory_of_a_hundred_times_the_shards", round(peaks[many] / peaks[few], 3), 1.1, "less")
    yield Figure("loader_peak_mb", round(ask(folder, "start", uniform, 0, EPOCH_STEPS)["peak_mb"]), 400, "less")
    highest = max(start["peak_mb"] for start in each[many])
    yield Figure("loader_peak_mb_of_ten_million_rows", round(highest), 400, "less")
    rng = np.random.default_rng(0)
    resumed = []
    for path, num_rows in ((uniform, NUM_ROWS), (many, 10_000_000)):
        steps = rng.integers(0, 3 * num_rows // BATCH, RESUMES).tolist()
        for step in steps:  # a run that goes on there has checked these shards before
            ask(folder, "start", path, step, 0)
            found = [ask(folder, "start", path, step, 0) for _ in range(STARTS)]
            resumed.append(median(f"resume of {path.name} at step {step}", found))
    yield Figure("loader_resume_s", round(max(resumed), 3), 0.3, "less")


def median(what: str, found: list[dict[str, float]]) -> float:
    """Return the seconds that a start takes, and print them and those of the processors."""
    first_s, processor_s = (statistics.median(start[name] for start in found) for name in ("first_s", "processor_s"))
    print(f"loader: {what}: {first_s:.3f} s, of processors {processor_s:.3f} s")
    return round(first_s, 3)


def shuffle(folder: Path, shards: Path) -> Iterator[Figure]:
    found = ask(folder, "shuffle", shards)
    print("loader: ten epochs:", ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    yield Figure("loader_blocks_in_a_batch", round(found["blocks_in_source_order"], 1), 60, "more")
    p = min(value for name, value in found.items() if name.startswith("p_"))
    yield Figure("loader_shuffle_p", round(p, 4), 0.001, "more")


def ask(folder: Path, *words: object, cache: str = "cache") -> dict[str, float]:
    """Return what a new process says of our loader."""
    environment = os.environ | surroundings(folder, cache)
    answer = subprocess.run(ours(*words), check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(answer.stdout)


def ours(*words: object) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.loader_ours", *map(str, words)]


def surroundings(folder: Path, cache: str = "cache") -> dict[str, str]:
    """Return the environment that lets processes keep in the folder what they remember."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {"PARTI_CACHE": str(folder / cache), "HOME": str(home), "TMPDIR": str(home), "HF_HUB_OFFLINE": "1"}


def install_peers() -> list[str]:
    """Return the peers that an environment, made once, has."""
    if not (VENV / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    if not install("base", [BASE]):
        print("loader: torch cannot be installed for the peers, so there is none")
        return []
    found = [name for name, peer in PEERS.items() if install(name, peer.installs)]
    for name in PEERS.keys() - set(found):
        print(f"loader: {name} cannot be installed, so it is not compared")
    freeze = [VENV / "bin" / "python", "-m", "pip", "freeze", "--disable-pip-version-check"]
    lines = subprocess.run(freeze, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    print("loader: peers:", ", ".join(line for line in lines if line.partition("==")[0] in COMPARED))
    return found


def install(name: str, installs: list[tuple[str, ...]]) -> bool:
    """Whether all could be installed; what once was is not asked for again."""
    ready = VENV / f"{name}.ready"
    pip = [VENV / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for words in [] if ready.exists() else installs:
        if subprocess.run([*pip, *words], stderr=subprocess.DEVNULL, check=False).returncode:
            return False
    ready.touch()
    return True
