import threading
import time

import pytest

from parti_data.coming_batches import ComingBatches


def test_the_next_values_are_made_while_one_is_used():
    made = threading.Event()

    def make(step):
        if step == 2:
            made.set()
        return step * 10

    ahead = ComingBatches(make, 2)
    assert ahead.get(0) == 0
    assert made.wait(5)
    assert [ahead.get(step) for step in (1, 2, 3)] == [10, 20, 30]
    ahead.close()


def test_no_more_is_made_than_will_be_held():
    made = []
    ahead = ComingBatches(lambda step: made.append(step) or step, 3)
    ahead.get(5)
    time.sleep(0.2)
    assert sorted(made) == [5, 6, 7, 8]
    ahead.close()


def test_any_step_may_be_asked_for():
    ahead = ComingBatches(lambda step: step, 2)
    assert [ahead.get(step) for step in (4, 0, 9, 9, 10)] == [4, 0, 9, 9, 10]
    ahead.close()


def test_what_a_step_raises_is_raised_where_it_is_asked_for():
    def make(step):
        if step == 1:
            raise ValueError("one")
        return step

    ahead = ComingBatches(make, 2)
    assert ahead.get(0) == 0
    with pytest.raises(ValueError, match="one"):
        ahead.get(1)
    assert ahead.get(2) == 2
    ahead.close()
