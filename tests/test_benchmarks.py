"""What `make bench` runs."""

from pathlib import Path

from tests.benchmarks.run import NAMES

FOLDER = Path(__file__).parent / "benchmarks"


def test_make_bench_runs_every_benchmark_once():
    written = [path.stem for path in FOLDER.glob("*.py") if "\ndef figures(" in path.read_text()]
    assert sorted(NAMES) == sorted(written)
