"""Arrow's numbers as numpy's and the other way, without a copy.

`to_numpy` and `pyarrow.array` do the same, and import pandas where it is installed: 0.17 s before a loader's first
batch, and 37 MB.
"""

import numpy as np
import pyarrow as pa


def numbers_of(array: pa.Array) -> np.ndarray:
    """Return the numbers of an array without nulls, read-only."""
    return np.from_dlpack(array)


def rows_of(lists: pa.FixedSizeListArray) -> np.ndarray:
    """Return lists of numbers (N, I), as `flatten` does, which takes three times as long to call."""
    rows = numbers_of(lists.values).reshape(-1, lists.type.list_size)
    return rows[lists.offset : lists.offset + len(lists)]


def array_of(numbers: np.ndarray, is_null: np.ndarray | None = None) -> pa.Array:
    """Return contiguous numbers (N,) as an array, with nulls where the mask, bool (N,), says so."""
    valid = None if is_null is None else pa.py_buffer(np.packbits(~is_null, bitorder="little"))
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [valid, pa.py_buffer(numbers)])
