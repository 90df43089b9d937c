import numpy as np
import pytest

from parti_data.keyed_random import draw, mix, permutation, stream_key, uniform

SPLITMIX_1234567 = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
"""The first numbers of SplitMix64 from the seed 1234567, as its authors' C code prints them."""


def test_mix_is_splitmix64():
    seed, golden = np.uint64(1234567), np.uint64(0x9E3779B97F4A7C15)
    assert mix(seed + golden * np.arange(5, dtype=np.uint64)).tolist() == SPLITMIX_1234567


@pytest.mark.parametrize("size", [0, 1, 2, 7, 4096])
def test_a_permutation_has_every_number_once(size):
    assert sorted(permutation(size, stream_key(3, 1)).tolist()) == list(range(size))


def test_permutations_never_change_and_keys_tell_them_apart():
    assert permutation(10, stream_key(0, 0)).tolist() == [6, 2, 7, 9, 8, 1, 3, 4, 5, 0]
    names = [(), (0,), (0, 0), (1,), (0, 1), (1, 0), (-1,), (1 << 63,)]
    assert len({int(stream_key(*name)) for name in names}) == len(names)


def test_numbers_are_uniform_and_of_their_index_alone():
    key = stream_key(5)
    numbers = uniform(np.arange(100_000), key)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.bincount((numbers * 100).astype(int), minlength=100)
    assert ((counts - 1000) ** 2 / 1000).sum() < 149.4  # chi-square of 99 degrees of freedom, p = 0.0008
    np.testing.assert_array_equal(uniform(np.array([7, 3]), key), numbers[[7, 3]])
    np.testing.assert_array_equal(draw(np.array([7, 3]), key), draw(np.arange(8), key)[[7, 3]])


def test_neighbouring_keys_have_unrelated_numbers():
    one, other = (uniform(np.arange(10_000), stream_key(0, epoch)) for epoch in range(2))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
    assert abs(np.corrcoef(one[1:], other[:-1])[0, 1]) < 0.05
