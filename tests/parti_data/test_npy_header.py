import io

import numpy as np
import pytest
from foreign_tokens import npy_bytes, npy_claiming

from parti_data.npy_header import MalformedNpy, read_npy_header


@pytest.mark.parametrize("dtype", ["<i8", "|u1", ">u2", "<f4", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_header_says_what_numpy_wrote(dtype, order):
    content = npy_bytes(np.zeros((2, 3, 4), dtype, order=order))
    header = read_npy_header(io.BytesIO(content))
    assert (header.dtype, header.shape, header.fortran_order) == (dtype, (2, 3, 4), order == "F")
    assert header.start + header.num_bytes == len(content)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_short_shapes_are_read(shape):
    assert read_npy_header(io.BytesIO(npy_bytes(np.zeros(shape)))).shape == shape


def test_a_size_is_told_however_large():
    assert read_npy_header(io.BytesIO(npy_claiming("(1000000, 1000000)"))).num_bytes == 8 * 10**12


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (npy_bytes(np.array([{}], object)), "'descr': '|O'"),
        (npy_bytes(np.zeros(2, [("a", "<i4")])), "'descr': [('a', '<i4')]"),
        (npy_bytes(np.array(["text"])), "'descr': '<U4'"),
        (npy_claiming("(1,)", b"\0" * 3).replace(b"<i8", b"<i3"), "'descr': '<i3'"),
        (b"\x80\x04N.", r"\x80\x04N."),
        (b"\x93NUMPY\1\0", "the end of the file"),
        (b"", ""),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(content, found):
    with pytest.raises(MalformedNpy) as error:
        read_npy_header(io.BytesIO(content))
    assert found in str(error.value)
