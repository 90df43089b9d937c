import numpy as np
import pyarrow as pa
import pytest

from parti_data.arrow_numbers import array_of, numbers_of


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_numbers_are_the_same_both_ways_and_share_their_memory(kind):
    numbers = np.arange(5, dtype=kind)
    array = array_of(numbers)
    assert array.equals(pa.array([0, 1, 2, 3, 4], pa.from_numpy_dtype(kind)))
    assert np.shares_memory(numbers_of(array), numbers)
    np.testing.assert_array_equal(numbers_of(array[1:4]), [1, 2, 3])


def test_none_are_none():
    assert numbers_of(array_of(np.empty(0, np.int32))).shape == (0,)


def test_the_mask_says_where_nulls_are():
    is_null = np.array([False, True, False, False, False, False, False, False, True, False])
    assert array_of(np.arange(10), is_null).to_pylist() == [0, None, 2, 3, 4, 5, 6, 7, None, 9]


def test_what_has_nulls_has_no_numbers():
    with pytest.raises(TypeError, match="null"):
        numbers_of(pa.array([1, None]))
