import numpy as np
import pytest

from parti_data.row_order import LANES, EpochOrder, Window, choose_window

SIZES = {
    "equal": [5] * 21,
    "unequal": [5, 3, 7, 1, 9, 2, 2, 8],
    "one": [6],
    "short_last": [8, 8, 8, 3] * 7,
    "single_rows": [1] * 40,
}
WINDOWS = [Window(1, 1), Window(1, 3), Window(1, 100), Window(4, 2), Window(8, 3)]


def row_numbers(order: EpochOrder, sizes: np.ndarray, positions: np.ndarray) -> np.ndarray:
    groups, rows = order.places(positions)
    assert (rows >= 0).all()
    assert (rows < sizes[groups]).all()
    return (np.cumsum(sizes) - sizes)[groups] + rows


def cases():
    for name, sizes in SIZES.items():
        for window in WINDOWS:
            if sum(sizes) >= window.lanes:
                yield pytest.param(np.array(sizes), window, id=f"{name}-{window.lanes}-{window.groups}")


@pytest.mark.parametrize(("sizes", "window"), list(cases()))
def test_an_epoch_has_every_row_once(sizes, window):
    order = EpochOrder(sizes, 0, 0, window)
    numbers = row_numbers(order, sizes, np.arange(sizes.sum()))
    assert sorted(numbers.tolist()) == list(range(sizes.sum()))


@pytest.mark.parametrize(("sizes", "window"), list(cases()))
def test_any_position_is_known_without_those_before(sizes, window):
    whole = row_numbers(EpochOrder(sizes, 1, 2, window), sizes, np.arange(sizes.sum()))
    for position in reversed(range(sizes.sum())):
        alone = row_numbers(EpochOrder(sizes, 1, 2, window), sizes, np.array([position]))
        assert alone.tolist() == [whole[position]]


@pytest.mark.parametrize(("sizes", "window"), list(cases()))
@pytest.mark.parametrize("modulus", [1, 2, 3, 4])
def test_needs_hold_what_every_share_of_the_positions_takes(sizes, window, modulus):
    order = EpochOrder(sizes, 0, 0, window)
    for residue in range(modulus):
        mine = np.arange(residue, sizes.sum(), modulus)
        groups = order.places(mine).groups
        needs = order.needs(residue, modulus)
        assert (np.diff(needs.first) >= 0).all()
        for position, group in zip(mine, groups, strict=True):
            here = needs.groups == group
            assert ((needs.first[here] <= position) & (position < needs.last[here])).any()


@pytest.mark.parametrize("name", ["equal", "short_last"])
def test_no_more_row_groups_are_needed_at_a_time_than_the_window_holds(name):
    sizes, window = np.array(SIZES[name]), Window(1, 4)
    needs = EpochOrder(sizes, 0, 0, window).needs(0, 1)
    for position in range(sizes.sum()):
        assert ((needs.first <= position) & (position < needs.last)).sum() <= window.groups


def test_each_row_group_is_read_once_where_there_is_one_lane():
    needs = EpochOrder(np.array(SIZES["short_last"]), 0, 0, Window(1, 4)).needs(0, 1)
    assert sorted(needs.groups.tolist()) == list(range(28))


def test_a_rank_needs_the_row_groups_of_its_lanes_alone():
    sizes = np.full(64, 16)
    order = EpochOrder(sizes, 0, 0, Window(8, 2))
    needed = [set(order.needs(rank, 8).groups.tolist()) for rank in range(8)]
    assert all(len(groups) == 8 for groups in needed)
    assert set.union(*needed) == set(range(64))


def test_seeds_and_epochs_have_orders_of_their_own_that_never_change():
    sizes = np.array(SIZES["short_last"])
    window, first = Window(1, 4), np.arange(8)
    found = {
        (seed, epoch): row_numbers(EpochOrder(sizes, seed, epoch, window), sizes, first).tolist()
        for seed in range(2)
        for epoch in range(2)
    }
    assert len({tuple(numbers) for numbers in found.values()}) == 4
    assert found[0, 0] == [93, 69, 134, 92, 96, 137, 89, 133]


def test_a_batch_mixes_rows_of_the_whole_window():
    """Rows in source order on purpose; with 72 blocks of 1,024 rows at hand, random draws find 70 in 256."""
    sizes = np.full(48, 4096)
    window = choose_window(sizes, 2048)
    assert window == Window(1, 18)
    order = EpochOrder(sizes, 0, 0, window)
    blocks = [
        len(np.unique(row_numbers(order, sizes, np.arange(start, start + 256)) // 1024))
        for start in range(0, sizes.sum(), 4096)
    ]
    assert np.mean(blocks) > 65
    assert min(blocks) > 45


def test_the_window_fits_the_rows_and_the_memory():
    many = np.full(LANES * 32, 4096)
    assert choose_window(many, 2048) == Window(LANES, 2)
    assert choose_window(many[:-1], 2048) == Window(1, 18)
    assert choose_window(many[:-1], 8192) == Window(1, 5)
    assert choose_window(many[:-1], 2048, share=0.25) == Window(1, 4)
    assert choose_window(np.array([3]), 2048).groups > 1
