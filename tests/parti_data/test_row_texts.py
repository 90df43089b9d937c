import pickle
import weakref

import numpy as np
import pyarrow as pa
import pytest

from parti_data.row_texts import TextPlaces, Texts


@pytest.fixture
def tables() -> list[pa.RecordBatch]:
    return [pa.RecordBatch.from_pydict({"key": keys}) for keys in (["a", "b", "c"], ["d", "é"])]


def texts_of(tables: list[pa.RecordBatch], *places: tuple[int, int]) -> Texts:
    return TextPlaces(tables, np.array(places, np.int64).reshape(-1, 2)).column("key")


def test_texts_come_from_their_tables_in_the_order_of_the_rows(tables):
    texts = texts_of(tables, (1, 1), (0, 2), (1, 0), (0, 2))
    assert len(texts) == 4
    assert texts == ["é", "c", "d", "c"] == list(texts)
    assert (texts[1], texts[-1], texts[1:3], repr(texts)) == ("c", "c", ["c", "d"], "['é', 'c', 'd', 'c']")
    assert texts == texts_of(tables, (1, 1), (0, 2), (1, 0), (0, 2)) != texts_of(tables, (1, 1))
    with pytest.raises(TypeError, match="unhashable"):
        hash(texts)


def test_no_rows_have_no_texts(tables):
    assert texts_of(tables) == []


def test_texts_are_a_list_to_another_process(tables):
    copied = pickle.loads(pickle.dumps(texts_of(tables, (0, 0), (1, 0))))
    assert type(copied) is list
    assert copied == ["a", "d"]


def test_texts_that_were_looked_at_let_go_of_their_tables(tables):
    texts, seen = texts_of(list(tables), (0, 0)), weakref.ref(tables[0])
    tables.clear()
    assert seen() is not None
    assert texts[0] == "a"
    assert seen() is None
