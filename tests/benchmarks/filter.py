"""Filter against its limits: a bare loop that decodes and resizes, img2dataset's resizing, twice the workers, ten times
the pairs.

Figures of one core are of processor time, medians of `ROUNDS` rounds that take turns; that of two workers is of the
clock, of one long run each. img2dataset wants other versions than ours of what it shares with us, so it gets an
environment of its own.
"""

import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from parti_data.images import ImageLimits
from parti_data.sources import WebDatasetSource
from pipelines.candidates import Packing, count_buckets
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.judge_pairs import Judging, judge_split
from pipelines.measure_pairs import Measuring, measure_split
from pipelines.merge_duplicates import Merge
from pipelines.runner import parse_options
from pipelines.write_ledgers import write_split_ledger
from tests.benchmarks.photographs import make_jpegs, write_tars
from tests.benchmarks.run import OUTPUT, Figure

ROUNDS = 3
SIDE = 256
NUM_PAIRS, PAIRS_PER_TAR = 16_000, 500
FEW, MANY = 5_000, 50_000
SCALED_PAIRS = 96_000
"""As many as let a process's start weigh what it does in real runs: two minutes of one core."""
WAYS = (
    "--direct_num_workers=1",
    "--direct_num_workers=2 --direct_running_mode=multi_processing",
    "--direct_num_workers=2",
)
PEER = Path(__file__).with_name("img2dataset_resize.py")
PEER_VENV = OUTPUT / "img2dataset"


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = write_tars(folder / "photos", make_jpegs(500, 400, quality=85), NUM_PAIRS, PAIRS_PER_TAR)
        yield from one_core(folder, photos)
        yield from two_workers(folder)
        yield from ten_times_the_pairs(folder)


def one_core(folder: Path, photos: Path) -> Iterator[Figure]:
    ways: dict[str, Callable[[], float]] = {
        "filter": lambda: processor_s(lambda: run_filter(folder, photos, WAYS[0])),
        "functions": lambda: processor_s(lambda: run_functions(folder, photos)),
        "bare": lambda: processor_s(lambda: decode_and_resize(photos)),
    }
    if peer := install_peer():
        ways["img2dataset"] = lambda: float(subprocess.run(
            [peer, PEER, photos, str(SIDE)], check=True, capture_output=True, text=True
        ).stdout)  # fmt: skip
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, measure in ways.items():
            taken[way].append(measure())
    ms = {way: 1000 * statistics.median(seconds) / NUM_PAIRS for way, seconds in taken.items()}
    print("filter: ms of one core a pair:", ", ".join(f"{way} {value:.3f}" for way, value in ms.items()))
    yield Figure("filter_speed_of_a_bare_loop", round(ms["bare"] / ms["filter"], 3), 0.7, "more")
    if peer:
        yield Figure("filter_speed_of_img2dataset", round(ms["img2dataset"] / ms["filter"], 3), 1.5, "more")
    yield Figure("filter_share_of_beam", round(1 - ms["functions"] / ms["filter"], 4), 0.05, "less")


def two_workers(folder: Path) -> Iterator[Figure]:
    """Yield how much faster two processes are than one; threads are told, but hold each other up in Python."""
    photos = write_tars(folder / "many-photos", make_jpegs(500, 400, quality=85), SCALED_PAIRS, FEW)
    taken = {way: clock_s(lambda way=way: run_filter(folder, photos, way, SCALED_PAIRS)) for way in WAYS}
    print("filter: pairs/s:", ", ".join(f"{way} {SCALED_PAIRS / s:.0f}" for way, s in taken.items()))
    yield Figure("filter_two_workers_over_one", round(taken[WAYS[0]] / taken[WAYS[1]], 3), 1.8, "more")


def ten_times_the_pairs(folder: Path) -> Iterator[Figure]:
    jpegs = make_jpegs(640, 480, quality=91)
    print(f"filter: images of {sum(map(len, jpegs)) / len(jpegs) / 1000:.0f} KB for memory and the first shard")
    libraries = peak_bytes(["--help"])
    peaks = {}
    for number in (FEW, MANY):
        tars = write_tars(folder / f"{number}", jpegs, number, FEW)
        words = ["source.kind=webdataset", f"source.path={tars}", f"output={folder}/out-{number}"]
        peaks[number] = peak_bytes(["filter", *words, "--", "--direct_num_workers=1"])
    print(f"filter: peak of {FEW} pairs {peaks[FEW] / 2**20:.0f} MiB, of {MANY} {peaks[MANY] / 2**20:.0f} MiB")
    yield Figure("filter_memory_of_ten_times_the_pairs", round(peaks[MANY] / peaks[FEW], 3), 1.1, "less")
    yield Figure("filter_gib_a_worker_beyond_libraries", round((peaks[MANY] - libraries) / 2**30, 3), 1.0, "less")
    for stage, source, prefix in (
        ("filter", ["source.kind=webdataset", f"source.path={folder}/{MANY}"], "measured/split-"),
        ("shard", [f"source={folder}/out-{MANY}"], "pairs-"),
    ):
        yield Figure(
            f"{stage}_first_shard_s", round(seconds_to_first(folder / stage, stage, source, prefix), 1), 20, "less"
        )


def run_filter(folder: Path, photos: Path, options: str, num_pairs: int = NUM_PAIRS) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as output:
        source = WebDatasetSource(kind="webdataset", path=str(photos))
        manifest = filter_pairs(FilterConfig(output=output, source=source), parse_options(options.split()))
        assert manifest.counts["kept"] == num_pairs, manifest.counts


def run_functions(folder: Path, photos: Path) -> None:
    """Do what filter does to these pairs, of which no two are the same, without Beam."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        config = FilterConfig(output=output, source=WebDatasetSource(kind="webdataset", path=str(photos)))
        splits = config.source.splits()
        measuring = Measuring(config.source, config.limits, tuple(config.fields), output)
        judging = Judging(config.rules, output)
        for split in splits:
            list(measure_split(split, measuring, counts_captions=False))
        for split in splits:
            list(judge_split(split.number, judging, Packing(count_buckets(len(splits)))))
        for split in splits:
            write_split_ledger((split.number, [Merge(-1, [], "")]), judging, len(splits))


def decode_and_resize(photos: Path) -> None:
    source = WebDatasetSource(kind="webdataset", path=str(photos))
    for split in source.splits():
        for pair in source.read(split, ImageLimits().max_bytes):
            image = Image.open(io.BytesIO(pair.image or b"")).convert("RGB")
            scale = SIDE / min(image.size)
            image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)


def processor_s(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def clock_s(work: Callable[[], None]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def install_peer() -> str | None:
    """Return the Python that has img2dataset, of an environment made once; None where it cannot be installed."""
    python = PEER_VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", PEER_VENV], check=True)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "img2dataset>=1.47"]
        if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
            print("filter: img2dataset cannot be installed, so it is not compared")
            return None
    return str(python)


def peak_bytes(words: list[str]) -> int:
    """Return the largest resident memory of one run of `parti`, in bytes."""
    code = (
        "import json, resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(json.dumps(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", "pipelines.command_line", *words]
    return 1024 * json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def seconds_to_first(output: Path, stage: str, source: list[str], prefix: str) -> float:
    """Return how long a stage takes from its start as a process to its first finished file; then stop it."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.command_line", stage, *source, f"output={output}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not any(".tmp-" not in path.name for path in output.glob(f"{prefix}*")):
            assert process.poll() in (None, 0), stage
            time.sleep(0.05)
        return time.monotonic() - started
    finally:
        process.kill()
        process.wait()
