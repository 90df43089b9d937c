import numpy as np
import pytest

from parti_data.code_counts import CodeCounts, entropy
from parti_data.errors import ShardError


def test_entropy_is_log2_of_equally_frequent_codes():
    assert entropy(np.full(8, 5)) == pytest.approx(3)
    assert entropy(np.array([7, 0])) == 0
    assert entropy(np.zeros(4, int)) == 0


def test_codes_are_counted_as_they_come():
    counted = CodeCounts(4)
    counted.add("a", np.array([[0, 3], [3, 3]]))
    counted.add("a", np.array([[1, 1]], np.uint16))
    counted.add("a", np.empty((0, 2), np.uint16))
    assert (counted.counts.tolist(), counted.rows) == ([1, 2, 0, 3], 3)


def test_a_token_beyond_the_codebook_is_refused():
    with pytest.raises(ShardError, match="a: expected tokens below 4, found 4; run tokenize into a new directory"):
        CodeCounts(4).add("a", np.array([[4]]))


@pytest.mark.parametrize("size", [-1, 0, 1 << 40])
def test_a_codebook_that_cannot_be_counted_is_refused(size):
    with pytest.raises(ShardError, match=f"codebook_size: expected 1 to 16777216 codes to count, found {size}; check"):
        CodeCounts(size)
