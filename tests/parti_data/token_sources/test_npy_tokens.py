import tracemalloc

import numpy as np
import pytest
from foreign_tokens import npy_bytes, npy_claiming

from parti_data.token_sources.npy_tokens import read_npy_tokens
from parti_data.token_sources.tokenized import MAX_IMAGE_BYTES, Fault


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "<i4", ">i8", "<u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_integers_come_back(dtype, order):
    array = np.asarray(np.arange(24).reshape(2, 3, 4), dtype, order=order)
    np.testing.assert_array_equal(read_npy_tokens(npy_bytes(array)), array)


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (npy_bytes(np.zeros(4, np.float16)), "not_integers", "tokens of type <f2"),
        (npy_bytes(np.array([True])), "not_integers", "tokens of type |b1"),
        (npy_bytes(np.arange(9))[:-3], "unreadable", "an array of 72 bytes in 69"),
        (npy_bytes(np.arange(9)) + b"x", "unreadable", "an array of 72 bytes in 73"),
        (npy_claiming("(1000000000000,)"), "unreadable", "an array of 8000000000000 bytes in 0"),
        (npy_claiming("(0, 1000000000000)", b"x"), "unreadable", "an array of 0 bytes in 1"),
        (npy_claiming(f"(0, {10**17}, 100)"), "unreadable", f"an array of shape (0, {10**17}, 100)"),
        (npy_bytes(np.array([{}], object)), "unreadable", "no array of numbers but \"{'descr': '|O'"),
        (b"\x80\x04N.", "unreadable", r"no array of numbers but '\\x80"),
        (b"<html>", "unreadable", "no array of numbers but '<html>'"),
    ],
)
def test_what_is_no_array_of_integers_is_a_fault(content, reason, detail):
    fault = read_npy_tokens(content)
    assert isinstance(fault, Fault)
    assert (fault.reason, fault.detail[: len(detail)]) == (reason, detail)


def test_a_file_that_is_too_large_is_not_looked_into():
    content = npy_bytes(np.zeros(MAX_IMAGE_BYTES, np.uint8))
    assert read_npy_tokens(content) == Fault("unreadable", "more than 16777216 bytes")


def test_a_claimed_size_is_never_allocated():
    tracemalloc.start()
    read_npy_tokens(npy_claiming("(1000000000000,)", b"\0" * 64))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
