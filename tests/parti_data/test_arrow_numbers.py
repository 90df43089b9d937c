import numpy as np
import pyarrow as pa
import pytest

from parti_data.arrow_numbers import array_of, numbers_of, rows_of


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_numbers_are_the_same_both_ways_and_share_their_memory(kind):
    numbers = np.arange(5, dtype=kind)
    array = array_of(numbers)
    assert array.equals(pa.array([0, 1, 2, 3, 4], pa.from_numpy_dtype(kind)))
    assert np.shares_memory(numbers_of(array), numbers)
    np.testing.assert_array_equal(numbers_of(array[1:4]), [1, 2, 3])


def test_lists_are_rows_also_of_a_part():
    lists = pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], pa.list_(pa.uint16(), 2))
    np.testing.assert_array_equal(rows_of(lists), [[1, 2], [3, 4], [5, 6], [7, 8]])
    np.testing.assert_array_equal(rows_of(lists[1:3]), [[3, 4], [5, 6]])
    assert rows_of(lists[:0]).shape == (0, 2)


def test_none_are_none():
    assert numbers_of(array_of(np.empty(0, np.int32))).shape == (0,)


def test_the_mask_says_where_nulls_are():
    is_null = np.array([False, True, False, False, False, False, False, False, True, False])
    assert array_of(np.arange(10), is_null).to_pylist() == [0, None, 2, 3, 4, 5, 6, 7, None, 9]


def test_what_has_nulls_has_no_numbers():
    with pytest.raises(TypeError, match="null"):
        numbers_of(pa.array([1, None]))
