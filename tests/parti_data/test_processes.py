import os
import signal
import subprocess
import sys
import time

import pytest

from parti_data.errors import EngineError, SourceError
from parti_data.processes import map_in_processes
from parti_data.step_times import take_steps, timed


def square(number: int, sleep_s: float) -> int:
    with timed("square"):
        time.sleep(sleep_s)
    return number * number


def who() -> int:
    return os.getpid()


def fail(number: int) -> int:
    if number == 3:
        raise SourceError(f"number {number}: expected another")
    return number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_order_from_other_processes_and_bounded():
    asked = []

    def calls():
        for number in range(40):
            asked.append(number)
            yield number, 0.01 * (number % 3)

    take_steps()
    for number, result in enumerate(map_in_processes(square, calls(), 2)):
        assert result == number * number
        assert len(asked) <= number + 1 + 8
    assert take_steps().seconds["square"] > 0.3
    found = set(map_in_processes(who, [()] * 4, 2))
    assert os.getpid() not in found
    assert len(found) <= 2


def test_an_error_is_raised_where_its_result_would_come():
    results = map_in_processes(fail, [(number,) for number in range(9)], 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(SourceError, match="number 3: expected another"):
        next(results)


def test_a_process_that_is_killed_ends_the_run_in_one_line_and_the_next_run_goes_on():
    with pytest.raises(EngineError, match="a process that decodes: expected it to work to the end, found it gone"):
        list(map_in_processes(die, [()], 2))
    assert list(map_in_processes(square, [(3, 0)], 2)) == [9]


FROM_STANDARD_INPUT = """
from parti_data.processes import map_in_processes
list(map_in_processes(abs, [(1,)], 1))
"""


def test_processes_that_cannot_import_the_main_program_say_so():
    ran = subprocess.run([sys.executable, "-"], input=FROM_STANDARD_INPUT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("parti_data.errors.EngineError: a process that decodes: expected it")
    assert "or never started, since it could not import the main program anew; free memory or use" in ran.stderr
