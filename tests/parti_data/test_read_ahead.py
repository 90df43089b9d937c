import threading
import time
from contextlib import closing

import pytest

from parti_data.read_ahead import read_ahead
from parti_data.step_times import count, counted_here, take_steps, timed


def test_items_come_in_order_and_whole():
    for number in (0, 1, 2, 3, 100):
        assert list(read_ahead(range(number), 3)) == list(range(number))


def test_another_thread_makes_the_items():
    makers = set(read_ahead((threading.get_ident() for _ in range(20)), 2))
    assert len(makers) == 1
    assert makers != {threading.get_ident()}


def test_no_more_than_the_depth_is_made_ahead():
    made = []

    def make():
        for number in range(50):
            made.append(number)
            yield number

    with closing(read_ahead(make(), 2)) as items:
        for number in items:
            time.sleep(0.002)  # long enough for a thread without bounds to run away
            assert len(made) <= number + 1 + 2
        assert len(made) == 50


def test_an_error_comes_where_its_item_would_have_come():
    def make():
        yield 1
        yield 2
        raise KeyError("third")

    items = read_ahead(make(), 5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(items)


def test_closed_early_it_makes_no_more():
    made = []

    def make():
        for number in range(1000):
            made.append(number)
            yield number

    items = read_ahead(make(), 2)
    next(items)
    items.close()
    assert len(made) <= 1 + 2 + 1
    so_far = len(made)
    time.sleep(0.01)
    assert len(made) == so_far


def test_a_thread_has_one_that_makes_its_items_as_long_as_it_lives():
    def makers() -> set[int]:
        return set(read_ahead((threading.get_ident() for _ in range(5)), 2))

    mine, before = makers(), threading.active_count()
    assert makers() == mine
    others: list[set[int]] = []
    other = threading.Thread(target=lambda: others.extend([makers(), makers()]))
    other.start()
    other.join()
    assert others[0] == others[1] != mine
    for _ in range(100):
        if threading.active_count() == before:
            break
        time.sleep(0.01)
    assert threading.active_count() == before


def test_steps_of_the_other_thread_count_and_waiting_does_not():
    def make():
        for number in range(3):
            with timed("make"):
                time.sleep(0.03)
            count("made")
            yield number

    before = counted_here("made")
    take_steps()
    with timed("use"):
        list(read_ahead(make(), 1))
    steps = take_steps()
    assert steps.seconds["make"] >= 0.09
    assert steps.seconds["use"] < 0.03
    assert steps.counts == {"made": 3}
    assert counted_here("made") - before == 3
