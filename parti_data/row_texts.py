"""The texts of a batch: Python's strings where somebody looks at them, until then Arrow's, as they were read.

Most training steps look at none, and four strings a row cost as much as half of reading its image tokens.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa

from parti_data.arrow_numbers import array_of


class TextPlaces(NamedTuple):
    """Where the texts of N rows lie."""

    tables: list[pa.RecordBatch]
    """Those of some row groups, by column."""
    numbers: np.ndarray
    """Which of them has each row, and which row of it this is, int64 (N, 2)."""

    def column(self, name: str) -> "Texts":
        """Return one text of each row."""
        return Texts(self, name)


class Texts:
    """One text of each row, to be read like a list of str; pickled it is one."""

    def __init__(self, places: TextPlaces, name: str):
        self._places, self._name = places, name
        self._made: list[str] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        places = self._places
        return len(places.numbers) if self._made is None else len(self._made)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return the text of a row, or the list of those of some."""
        return self._make()[index]

    def __iter__(self) -> Iterator[str]:
        """Yield the texts."""
        return iter(self._make())

    def __eq__(self, other: object) -> bool:
        """Whether another one, or a list, has the same texts."""
        return self._make() == (other._make() if isinstance(other, Texts) else other)

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def __repr__(self) -> str:
        return repr(self._make())

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self._make(),)

    def _make(self) -> list[str]:
        tables, numbers = self._places  # first: another thread may make them meanwhile
        if self._made is None:
            texts = np.empty(len(numbers), object)
            for table in np.unique(numbers[:, 0]).tolist():
                here = np.flatnonzero(numbers[:, 0] == table)
                found = tables[table].column(self._name).take(array_of(numbers[here, 1]))
                texts[here] = found.to_pylist()
            self._made = texts.tolist()
            self._places = TextPlaces([], numbers[:0])  # lets go of the tables
        return self._made
