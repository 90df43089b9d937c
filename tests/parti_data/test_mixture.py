import numpy as np
import pytest

from parti_data.errors import ShardError
from parti_data.mixture import BLOCK, Mixture


def test_every_block_has_the_exact_shares():
    mixture = Mixture({"a": 3, "b": 1, "c": 0.01}, 0)
    sources = mixture.origins(np.arange(5 * BLOCK)).sources.reshape(5, BLOCK)
    counts = [np.bincount(block, minlength=3).tolist() for block in sources]
    assert counts == [[3064, 1022, 10]] * 5
    assert len({tuple(block.tolist()) for block in sources}) == 5


def test_each_source_gives_its_own_sequence_in_order():
    sources, positions = Mixture({"a": 2, "b": 1}, 7).origins(np.arange(3 * BLOCK))
    for source in range(2):
        mine = positions[sources == source]
        assert mine.tolist() == list(range(len(mine)))


def test_any_position_is_known_without_those_before():
    whole = Mixture({"a": 2, "b": 1}, 1).origins(np.arange(3 * BLOCK))
    some = np.array([5, BLOCK - 1, BLOCK, 2 * BLOCK + 17])
    alone = Mixture({"a": 2, "b": 1}, 1).origins(some)
    assert alone.sources.tolist() == whole.sources[some].tolist()
    assert alone.positions.tolist() == whole.positions[some].tolist()


def test_the_position_of_a_source_s_row_is_known():
    mixture = Mixture({"a": 5, "b": 2}, 0)
    sources, positions = mixture.origins(np.arange(3 * BLOCK))
    for source, count in ((0, 0), (1, 0), (1, 1171), (0, 4000)):
        (place,) = np.flatnonzero((sources == source) & (positions == count))
        assert mixture.first_beyond(source, count) == place


def test_one_source_is_its_own_sequence():
    sources, positions = Mixture({"a": 0.3}, 0).origins(np.arange(4000, 6000))
    assert not sources.any()
    assert positions.tolist() == list(range(4000, 6000))


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": 1, "b": -1}, {"a": float("nan")}, {"a": float("inf")}])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ShardError, match="mixture: expected sources with weights above 0, found .*; leave out what"):
        Mixture(weights, 0)


def test_a_weight_that_gives_no_row_of_a_block_is_refused():
    with pytest.raises(ShardError, match=r"expected weights of which each is at least 1 in 4096, found 1e-06 for b;"):
        Mixture({"a": 1, "b": 1e-6}, 0)
