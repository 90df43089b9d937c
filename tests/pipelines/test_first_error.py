import threading
import time

import apache_beam as beam
import pytest

from parti_data.errors import SourceError
from parti_data.step_times import timed, timed_each
from pipelines.run_metrics import reported_steps
from pipelines.runner import make_pipeline, run

ROWS = 5000
together = threading.Barrier(2)
rows_taken: list[int] = []


@reported_steps()
def read(number: int) -> int:
    together.wait(30)  # until the other worker is at its own
    if number:
        raise SourceError(f"tar {number}: expected it whole")
    for row in timed_each("read", range(ROWS)):
        rows_taken.append(row)
        time.sleep(0.001)
    return number


@reported_steps()
def step(number: int) -> int:
    with timed("think"):
        return number


def pipeline_of(options, function, numbers: list[int]) -> beam.Pipeline:
    pipeline = make_pipeline(options)
    _ = pipeline | beam.Create(numbers) | beam.Reshuffle() | beam.Map(function)
    return pipeline


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
@pytest.mark.parametrize("numbers", [[0, 1], [1, 0]])
def test_the_first_error_ends_all_workers_and_is_told(beam_options, mode, numbers):
    rows_taken.clear()
    options = beam_options("--direct_num_workers=2", f"--direct_running_mode={mode}")
    with pytest.raises(SourceError, match="^tar 1: expected it whole$"):
        run(pipeline_of(options, read, numbers))
    time.sleep(0.1)
    taken = len(rows_taken)
    time.sleep(0.1)
    assert len(rows_taken) == taken < ROWS
    run(pipeline_of(options, step, numbers))  # what has failed is forgotten
