import csv
import io
import json
import tracemalloc

import pytest

from parti_data.errors import SourceError
from parti_data.sources.text_rows import (
    MAX_LINE_BYTES,
    header_names,
    number_or_text,
    read_jsonl,
    read_lines,
    read_separated,
)


def lines(content: bytes) -> list:
    return [tuple(line) for line in read_lines(io.BytesIO(content), "x")]


def separated(content: bytes, separator: str = ",", names: list[str] | None = None) -> list:
    return [tuple(row) for row in read_separated(io.BytesIO(content), "x", separator, names or [])]


def jsonl(content: bytes) -> list:
    return [tuple(row) for row in read_jsonl(io.BytesIO(content), "x")]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b"a", [(1, "a")]),
        (b"a\n\n \r\nb\r\n", [(1, "a"), (4, "b\r")]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", [(1, "a"), (2, "\ufeffb")]),
        (b"caf\xe9\n\x00\x85", [(1, "caf�"), (2, "\x00�")]),
        ("a\u2028b\x0cc\rd\n".encode(), [(1, "a\u2028b\x0cc\rd")]),
    ],
)
def test_lines_end_in_newlines_and_nowhere_else(content, found):
    assert lines(content) == found


def test_a_line_over_the_limit_is_passed_over_without_holding_it():
    class Endless(io.RawIOBase):
        """Two hundred MiB of one line between two short ones."""

        left = 200

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return b"first\n" + b"x" * 10 if self.left == 199 else b"x" * size if self.left > 0 else (
                b"\nlast" if self.left == 0 else b"")  # fmt: skip

    tracemalloc.start()
    found = [tuple(line) for line in read_lines(Endless(), "x")]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [(1, "first"), (2, None), (3, "last")]
    assert peak < 5 * MAX_LINE_BYTES


@pytest.mark.parametrize("extra", [0, 1])
def test_the_limit_is_exact(extra):
    content = b"x" * (MAX_LINE_BYTES + extra)
    for ending in (b"", b"\n", b"\nlast\n"):
        assert (lines(content + ending)[0][1] is None) == bool(extra)


def test_utf16_is_refused():
    with pytest.raises(SourceError, match="x: expected UTF-8 text, found UTF-16; convert it"):
        lines("a,b\n".encode("utf-16"))


def test_jsonl_gives_objects_and_breaks_on_nothing():
    good = json.dumps({"a": "é", "b": [1, None]})
    broken = [b"{", b"[1]", b"null", b"3", b'{"a": }', b"\xff\xfe\x00", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"]
    content = b"\xef\xbb\xbf" + good.encode() + b"\n" + b"\n".join(broken) + b'\n{"a": "\\ud800"}'
    assert jsonl(content) == [
        (1, {"a": "é", "b": [1, None]}), *((number, None) for number in range(2, 10)), (10, {"a": "\ud800"})
    ]  # fmt: skip


def test_what_csv_writes_is_read_again():
    texts = ["plain", "a, comma", 'a "quote"', "two\nlines", "", "é\t", "x\r\ny", '"', '""', "'", "\x00"]
    for separator in ",\t":
        file = io.StringIO()
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(["n", "text"])
        writer.writerows(enumerate(texts))
        found = [values for _, values in separated(file.getvalue().encode(), separator)]
        assert found == [{"n": str(n), "text": text} for n, text in enumerate(texts)]


def test_a_row_has_the_number_of_its_first_line():
    assert separated(b'a,b\n1,"x\n\ny"\n\n2,z\n') == [(2, {"a": "1", "b": "x\ny"}), (6, {"a": "2", "b": "z"})]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (b"1", None),
        (b"1,2,3", None),
        (b'"1,2', {"a": '"1', "b": "2"}),
        (b'"1"x,2', {"a": '"1"x', "b": "2"}),
        (b'1,"', {"a": "1", "b": '"'}),
        (b'"1', None),
        (b"1,a\rb", {"a": "1", "b": "a\rb"}),
        (b"1," + b"x" * 200_000, {"a": "1", "b": "x" * 200_000}),
        (b"x" * (MAX_LINE_BYTES + 1), None),
        (b'1,"' + b"x" * MAX_LINE_BYTES, None),
    ],
)
def test_a_broken_line_does_not_take_the_next_ones_along(line, values):
    rows = [(number, {"a": str(number), "b": "fine"}) for number in (3, 4, 5)]
    content = b"a,b\n" + line + b"\n3,fine\n4,fine\n5,fine"
    assert separated(content) == [(2, values), *rows]


def test_a_record_that_never_ends_costs_little():
    content = b"a,b\n" + b'x,"\n' + b'","\n' * 300_000  # every line closes a quote and opens another
    tracemalloc.start()
    count = sum(1 for _ in read_separated(io.BytesIO(content), "x", ",", []))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 300_001
    assert peak < 5 * MAX_LINE_BYTES


def test_a_record_over_the_limit_of_a_line_is_none():
    content = b"a,b\n" + b'x,"\n' + (b'","' * 3000 + b"\n") * 900 + b'"\n'
    assert len(content) > MAX_LINE_BYTES
    rows = separated(content)
    assert len(rows) > 400
    assert rows[0] == (2, {"a": "x", "b": '"'})


def test_a_stray_quote_costs_its_own_line_at_most():
    content = b'a,b\n1,"stray\n2,fine\n"3, quoted",fine\n4,"two\nlines"\n5,fine\n'
    assert separated(content) == [
        (2, {"a": "1", "b": '"stray'}), (3, {"a": "2", "b": "fine"}), (4, {"a": "3, quoted", "b": "fine"}),
        (5, {"a": "4", "b": "two\nlines"}), (7, {"a": "5", "b": "fine"}),
    ]  # fmt: skip


def test_tsv_without_a_first_line_takes_the_names_that_are_given():
    assert separated(b'a "b" c\thttp://x\n"d\thttp://y\n', "\t", ["caption", "url"]) == [
        (1, {"caption": 'a "b" c', "url": "http://x"}), (2, {"caption": '"d', "url": "http://y"})
    ]  # fmt: skip


def test_the_first_line_names_the_columns():
    assert header_names(io.BytesIO(b"\xef\xbb\xbf a ,b,a\n1,2,3"), "x", ",") == ["a", "b", "a"]
    for content in (b"", b"\n\n", b"x" * (MAX_LINE_BYTES + 1)):
        with pytest.raises(SourceError, match="x: expected a first line with the names of the columns, found none; ad"):
            header_names(io.BytesIO(content), "x", ",")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-0.5", -0.5), ("2e3", 2000.0), ("0", 0), ("007", "007"), ("1_0", "1_0"), ("nan", "nan"), ("", ""),
     (" 1", " 1"), ("1e999", "1e999"), ("9" * 30, "9" * 30), ("٣", "٣"), ("1.", "1."), ("0x1", "0x1")],
)  # fmt: skip
def test_texts_that_are_plain_numbers_become_numbers(text, value):
    assert number_or_text(text) == value
    assert type(number_or_text(text)) is type(value)
