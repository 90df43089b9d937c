import time
from pathlib import Path

import apache_beam as beam
import pytest

from parti_data.errors import SourceError
from parti_data.step_times import EndedEarlyError, timed, timed_each
from pipelines.first_error import ends_others, note_error, share_errors, tells_first_error
from pipelines.run_metrics import reported_steps
from pipelines.runner import make_pipeline, run

ROWS = 5000


def wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.01)


@reported_steps()
def read(number: int, folder: Path) -> int:
    """Fail for 1 once another worker is at 0, which takes long."""
    (folder / str(number)).touch()
    wait_for(folder / str(1 - number))
    if number:
        raise SourceError(f"tar {number}: expected it whole")
    for _ in timed_each("read", range(ROWS)):
        time.sleep(0.002)
    (folder / "read to the end").touch()
    return number


@reported_steps()
def think(number: int) -> int:
    with timed("think"):
        return number


def run_with(options, numbers: list[int], step: beam.PTransform) -> None:
    pipeline = make_pipeline(options)
    _ = pipeline | beam.Create(numbers) | beam.Reshuffle() | step
    run(pipeline)


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading", "multi_processing"])
@pytest.mark.parametrize("numbers", [[0, 1], [1, 0]])
def test_the_first_error_ends_all_workers_and_is_told(tmp_path, beam_options, mode, numbers):
    options = beam_options("--direct_num_workers=2", f"--direct_running_mode={mode}")
    with pytest.raises(SourceError, match="^tar 1: expected it whole$"):
        run_with(options, numbers, beam.Map(read, folder=tmp_path))
    assert not (tmp_path / "read to the end").exists()
    run_with(options, numbers, beam.Map(think))  # what has failed is forgotten


def test_the_error_of_another_process_is_told_before_what_follows_from_it():
    with pytest.raises(RuntimeError, match="SourceError: tar \\\\udc80: expected"), tells_first_error():
        share_errors()  # as another process does
        note_error(SourceError("tar \udc80: expected it whole"))
        share_errors()
        note_error(RuntimeError("a worker is gone"))
        raise ValueError("of a worker that ended early")


def test_an_error_that_no_worker_tells_ends_them_too():
    with pytest.raises(RuntimeError, match="a worker is gone"), tells_first_error():
        note_error(RuntimeError("a worker is gone"))
        with pytest.raises(EndedEarlyError), ends_others():
            raise AssertionError
        raise ValueError("of a worker that ended early")
    note_error(RuntimeError("outside of a run"))
    with ends_others(), timed("think"):
        pass
