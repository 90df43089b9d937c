import hashlib

import numpy as np
import pytest

from parti_data.token_sources.token_grid import TokenGrid, to_views, tokens_key
from parti_data.token_sources.tokenized import Fault

GRID = TokenGrid(codebook_size=64, grid_side=4)
CODES = np.arange(16) * 4


@pytest.mark.parametrize(
    ("shape", "views"),
    [
        ((16,), 1), ((4, 4), 1), ((1, 16), 1), ((4, 4, 1), 1), ((16, 1), 1), ((3, 16), 3), ((1, 3, 16), 3),
        ((3, 4, 4), 3), ((1, 10, 16), 10), ((256, 16), 256), ((16, 16), 16),
    ],
)  # fmt: skip
def test_every_shape_comes_to_one_in_raster_order(shape, views):
    tokens = np.resize(CODES, shape)
    found = to_views(tokens, GRID)
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == ((views, 16), np.uint32)
    np.testing.assert_array_equal(found.ravel(), tokens.ravel())


def test_tokens_of_one_position_stand_together():
    grid = TokenGrid(64, 4, num_quantizers=2)
    for shape in ((32,), (4, 4, 2), (16, 2), (3, 32), (3, 4, 4, 2)):
        assert isinstance(to_views(np.zeros(shape, int), grid), np.ndarray), shape
    assert isinstance(to_views(np.zeros((4, 4), int), grid), Fault)


@pytest.mark.parametrize("shape", [(), (0,), (15,), (17,), (4, 5), (2, 8), (16, 2), (0, 16), (257, 16), (1, 15)])
def test_another_shape_is_a_fault(shape):
    assert to_views(np.zeros(shape, int), GRID) == Fault("wrong_shape", f"tokens of shape {shape}")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, ">i4", np.int64, np.uint64])
def test_every_integer_type_is_taken(dtype):
    found = to_views(CODES.astype(dtype), GRID)
    np.testing.assert_array_equal(found, CODES[None])


@pytest.mark.parametrize(
    ("tokens", "fault"),
    [
        (np.array([*CODES[1:], 64]), Fault("outside_codebook", "code 64")),
        (np.array([*CODES[1:], 1 << 63], np.uint64), Fault("outside_codebook", f"code {1 << 63}")),
        (np.array([*CODES[1:], -1]), Fault("negative_code", "code -1")),
        (np.array([*CODES[1:], 1 << 70], object), Fault("not_integers", "tokens of type object")),
        (CODES.astype(np.float32), Fault("not_integers", "tokens of type float32")),
        (CODES > 3, Fault("not_integers", "tokens of type bool")),
        (np.array(["1"] * 16), Fault("not_integers", "tokens of type <U1")),
    ],
)
def test_what_is_no_code_of_the_codebook_is_a_fault(tokens, fault):
    assert to_views(tokens, GRID) == fault


def test_a_key_is_that_of_the_codes_whatever_their_type():
    expected = hashlib.sha256(b"".join(int(code).to_bytes(4, "little") for code in CODES)).hexdigest()[:32]
    for dtype in (np.uint8, ">i4", np.int64):
        (first,) = to_views(CODES.astype(dtype), GRID)
        assert tokens_key(first) == expected
    assert tokens_key(CODES[::-1]) != expected
