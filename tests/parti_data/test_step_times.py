import threading
import time

import pytest

from parti_data.step_times import EndedEarlyError, count, counted_here, ends_with, take_steps, timed, timed_each


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when it is told, in seconds."""
    now = 0
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now)
    take_steps()

    def move(seconds: int) -> None:
        nonlocal now
        now += seconds * 10**9

    return move


def test_the_clock_of_a_step_stands_still_while_an_inner_one_runs(clock):
    with timed("write"):
        clock(1)
        with timed("decode"):
            clock(10)
            with timed("fetch"):
                clock(100)
            clock(20)
        clock(2)
    clock(1000)
    assert take_steps().seconds == {"decode": 30, "fetch": 100, "write": 3}


def test_getting_an_item_counts_and_what_is_done_with_it_does_not(clock):
    def items():
        for number in range(3):
            clock(1)
            yield number
        clock(5)

    with timed("write"):
        for number in timed_each("read", items()):
            clock(10 * number)
    assert take_steps().seconds == {"read": 8, "write": 30}


def test_a_step_that_raises_is_ended(clock):
    with pytest.raises(ValueError, match="broken"), timed("write"), timed("decode"):
        clock(1)
        raise ValueError("broken")
    with timed("read"):
        clock(2)
    assert take_steps().seconds == {"decode": 1, "read": 2, "write": 0}


def test_what_is_taken_is_gone_and_what_was_ever_counted_stays():
    take_steps()
    before = counted_here("rows")
    count("rows")
    count("rows", 4)
    assert take_steps().counts == {"rows": 5}
    assert take_steps().counts == {}
    assert counted_here("rows") == before + 5


def test_each_thread_takes_its_own_and_all_are_counted_together():
    take_steps()
    before = counted_here("rows")
    taken = []

    def work(number: int) -> None:
        for _ in range(number):
            count("rows")
        taken.append(take_steps().counts["rows"])

    threads = [threading.Thread(target=work, args=(number,)) for number in (1000, 3000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [1000, 3000]
    assert take_steps().counts == {}
    assert counted_here("rows") == before + 4000


def test_no_step_begins_once_another_thread_has_failed():
    errors: list[Exception] = []
    with pytest.raises(EndedEarlyError), ends_with(errors), timed("write"):
        for number in timed_each("read", range(9)):
            if number == 3:
                errors.append(ValueError("of another thread"))
            assert number < 4
    with pytest.raises(EndedEarlyError), ends_with(errors):
        raise AssertionError
    assert str(errors[0]) == "of another thread"
    with timed("read"):
        pass
