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
def test_each_piece_of_each_part_is_drawn_in_one_round(sizes, window):
    for lane in EpochOrder(sizes, 0, 0, window).lanes:
        seen = {part: [] for part in range(len(lane.groups))}
        for number in range(len(lane.starts) - 1):
            draws = lane.draws(number)
            assert sorted(draws.order.tolist()) == list(range(lane.starts[number + 1] - lane.starts[number]))
            assert sum(len(ranks) for _, ranks in draws.ranks) == len(draws.order)
            assert [part for part, _ in draws.ranks] == list(lane.parts_of(number))
            for part, ranks in draws.ranks:
                assert ranks.start == lane.piece_ends(part)[lane.first_piece(part, number)]
                seen[part] += ranks
        for part, ranks in seen.items():
            assert sorted(ranks) == list(range(len(lane.rows(part))))


@pytest.mark.parametrize("name", ["equal", "short_last"])
def test_each_row_group_is_read_once_where_there_is_one_lane(name):
    sizes = np.array(SIZES[name])
    (lane,) = EpochOrder(sizes, 0, 0, Window(1, 4)).lanes
    assert sorted(lane.groups.tolist()) == list(range(len(sizes)))


def test_a_lane_has_its_share_of_the_row_groups_alone():
    lanes = EpochOrder(np.full(64, 16), 0, 0, Window(8, 2)).lanes
    groups = [set(lane.groups.tolist()) for lane in lanes]
    assert all(len(mine) == 8 for mine in groups)
    assert set.union(*groups) == set(range(64))


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


def all_row_numbers(order: EpochOrder, sizes: np.ndarray) -> np.ndarray:
    """Those of all positions where there is one lane, a round at a time, which is faster than one after the other."""
    (lane,), firsts, rounds = order.lanes, np.cumsum(sizes) - sizes, []
    for number in range(len(lane.starts) - 1):
        draws = lane.draws(number)
        drawn = [firsts[lane.groups[part]] + lane.rows(part)[ranks.start : ranks.stop] for part, ranks in draws.ranks]
        rounds.append(np.concatenate(drawn)[draws.order])
    return np.concatenate(rounds)


def test_a_batch_mixes_rows_of_the_whole_window():
    """Rows in source order on purpose; with 64 blocks of 1,024 rows at hand, random draws find 63 in 256."""
    sizes = np.full(48, 4096)
    window = choose_window(sizes, 2048)
    assert window == Window(1, 16)
    order = EpochOrder(sizes, 0, 0, window)
    numbers, some = all_row_numbers(order, sizes), np.arange(100, sizes.sum(), 4096)
    assert numbers[some].tolist() == row_numbers(order, sizes, some).tolist()
    blocks = [len(np.unique(numbers[start : start + 256] // 1024)) for start in range(0, sizes.sum(), 4096)]
    assert np.mean(blocks) > 60
    assert min(blocks) > 45


def test_the_window_fits_the_rows_and_the_memory():
    many = np.full(LANES * 32, 4096)
    assert choose_window(many, 2048) == Window(LANES, 2)
    assert choose_window(many[:-1], 2048) == Window(1, 16)
    assert choose_window(many[:-1], 8192) == Window(1, 5)
    assert choose_window(many[:-1], 2048, share=0.25) == Window(1, 4)
