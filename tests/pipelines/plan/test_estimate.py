import threading

import pytest

from pipelines.plan import estimate
from pipelines.plan.estimate import (
    Block,
    Estimate,
    Step,
    cut,
    measure_speedup,
    ratio,
    seconds_a_pair,
    steps_of,
)  # fmt: skip


@pytest.mark.parametrize(
    ("amounts", "value", "error"),
    [
        ([(10, 5), (20, 10), (2, 1)], 2.0, 0.0),
        ([(1, 1), (3, 1)], 2.0, 0.5),
        ([(6, 3)], 2.0, 0.25),
        ([(0, 3)], 0.0, 0.0),
        ([], 0.0, 0.0),
    ],
)  # fmt: skip
def test_a_ratio_has_the_error_that_its_blocks_tell(amounts, value, error):
    assert ratio(amounts) == pytest.approx((value, error))


def test_the_error_of_a_mean_falls_with_the_number_of_blocks():
    few, many = ratio([(1, 1), (3, 1)] * 2), ratio([(1, 1), (3, 1)] * 50)
    assert many.error < few.error / 4


def test_errors_of_a_product_add_as_squares():
    assert Estimate(2, 0.3).times(Estimate(5, 0.4)) == pytest.approx((10, 0.5))


def test_a_time_has_a_range_around_it_even_where_nothing_differs():
    assert Estimate(10).range(0.25) == (8, 12.5)
    assert Estimate(10, 0.5).range(0.0) == (5, 20)
    low, high = Estimate(10, 0.5).range(0.25)
    assert low < 5
    assert high > 20


def test_few_parts_are_told_apart_by_their_blocks():
    part = [Block(1, {"decode": 1.0}), Block(1, {"decode": 3.0})]
    assert seconds_a_pair([part]) == pytest.approx((2.0, 0.5))
    assert seconds_a_pair([part] * 4) == pytest.approx((2.0, 0.0))


def test_steps_are_means_over_all_pairs_in_the_order_met():
    blocks = [[Block(2, {"read": 1.0, "decode": 3.0})], [Block(2, {"read": 1.0, "hash": 4.0})]]
    assert steps_of(blocks) == [Step("read", 0.5), Step("decode", 0.75), Step("hash", 1.0)]


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, [0]), (3, [3]), (19, [19]), (21, [10, 11]), (80, [10] * 8), (800, [100] * 8)]
)
def test_items_are_cut_in_parts_that_are_not_too_small(count, sizes):
    parts = cut(list(range(count)))
    assert [len(part) for part in parts] == sizes
    assert [item for part in parts for item in part] == list(range(count))


def test_threads_are_tried_with_all_items_each():
    seen: list[tuple[int, str]] = []
    barrier = threading.Barrier(2)

    def work(item: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            barrier.wait(10)
        seen.append((item, threading.current_thread().name))

    assert 1 <= measure_speedup(work, [1, 2, 3, 4], 2) <= 2
    assert sorted(item for item, _ in seen) == sorted([1, 2, 3, 4] * 5)
    assert len({name for _, name in seen}) == 3


def test_threads_are_tried_with_no_more_items_than_take_a_moment(monkeypatch):
    monkeypatch.setattr(estimate, "_TRIED_S", 0.0)
    seen: list[int] = []
    measure_speedup(seen.append, list(range(100)), 3)
    assert set(seen) == {0, 1, 2}


def test_one_worker_is_as_fast_as_one():
    assert measure_speedup(str, [1, 2, 3], 1) == 1.0


@pytest.mark.parametrize(("num_items", "turns"), [(1, 1), (3, 1), (8, 1), (10, 2)])
def test_work_that_does_not_hold_threads_up_is_faster_by_their_number_however_few_items_there_are(
    num_items, turns, monkeypatch
):
    of_threads: list[list[int]] = []

    def seconds(work) -> float:
        """A second an item, that of the thread with the most where it has threads."""
        done = work()
        of_threads.append([len(part) if isinstance(part, list) else 1 for part in done])
        return float(max(of_threads[0]) if len(of_threads) == 1 else len(done))

    monkeypatch.setattr(estimate, "_seconds", seconds)
    assert measure_speedup(str, list(range(num_items)), 8) == 8
    assert of_threads == [[turns] * 8, [1] * num_items]
