import threading

import pytest

from parti_data.threads import map_in_threads


def test_results_come_in_order():
    assert list(map_in_threads(lambda number: number * number, range(100))) == [number**2 for number in range(100)]


def test_what_is_not_begun_is_not_begun_after_an_error():
    begun, go_on = [], threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if not number:
            raise ValueError("no")
        go_on.wait(0.05)
        return number

    with pytest.raises(ValueError, match="no"):
        list(map_in_threads(work, range(1000)))
    assert len(begun) < 100
