import math

import pytest

from parti_data.errors import SourceError
from parti_data.sources.columns import (
    MAX_TEXT_BYTES,
    choose_caption_columns,
    require_column,
    single_columns,
    to_captions,
    to_fields,
    to_text,
)


@pytest.mark.parametrize(
    ("wanted", "found", "chosen"),
    [
        ([], ["text", "caption"], ["text"]),
        ([], ["id", "caption"], ["caption"]),
        (["a", "b"], ["b", "a", "text"], ["a", "b"]),
    ],
)
def test_caption_columns_are_those_named_or_the_usual_ones(wanted, found, chosen):
    assert choose_caption_columns("x", wanted, found) == chosen


@pytest.mark.parametrize(
    ("wanted", "found", "message"),
    [
        (["captoin"], ["id", "caption"], "t.csv: expected a column 'captoin', found 'id', 'caption'; did you mean 'ca"
         "ption'\\? set source.caption_columns$"),
        ([], ["id", "TEXT"], "t.csv: expected a column 'text', found 'id', 'TEXT'; did you mean"),
        ([], [], "t.csv: expected a column 'text', found none; check the file"),
        ([], ["text", "text"], "t.csv: expected one column 'text', found 2 of that name; rename all but one"),
        (["x"], [f"line\n{n}" for n in range(30)], r"found 'line\\n0', .*'line\\n19', 10 more; did"),
    ],
)  # fmt: skip
def test_a_column_that_is_not_there_is_refused_with_the_nearest(wanted, found, message):
    with pytest.raises(SourceError, match=message) as error:
        choose_caption_columns("t.csv", wanted, found)
    assert "\n" not in str(error.value)


def test_the_option_to_set_is_named():
    with pytest.raises(SourceError, match="set source.image_column"):
        require_column("t", "a", ["b"], "image_column")


def test_a_column_that_comes_twice_is_no_single_one():
    assert single_columns(["a", "b", "a", "c"]) == ["b", "c"]


def test_captions_are_the_texts_and_those_in_lists():
    assert to_captions(["one", None, 3, ["two", None, 4, "three"], {"a": "b"}, [], ["half \ud800"]]) == [
        "one", "two", "three", "half ?"
    ]  # fmt: skip


def test_texts_are_cut_and_can_always_be_written():
    assert to_text("x" * (MAX_TEXT_BYTES + 5)) == "x" * MAX_TEXT_BYTES
    assert len(to_text("é" * MAX_TEXT_BYTES).encode()) <= MAX_TEXT_BYTES
    assert to_text(b"caf\xe9") == "caf�"


def test_fields_are_texts_booleans_and_finite_numbers():
    values = {"a": "t", "b": True, "c": 2, "d": 0.5, "e": None, "f": [1], "g": {}, "h": math.nan, "i": math.inf,
              "j": 10**400, "k\ud800": "\ud800"}  # fmt: skip
    assert to_fields(values) == {"a": "t", "b": True, "c": 2, "d": 0.5, "k?": "?"}
