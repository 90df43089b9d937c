import json

import pytest

from parti_data.errors import SourceError
from parti_data.token_sources.class_names import class_captions, digest_class_names, read_class_names
from parti_data.token_sources.tokenized import Fault

NAMES = ["tench", "goldfish", "café"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "tench\ngoldfish\ncafé\n"),
        ("a.txt", "\ufefftench\r\ngoldfish\r\ncafé"),
        ("a.json", json.dumps(NAMES)),
        ("a.json", json.dumps({str(number): name for number, name in enumerate(NAMES)})),
        ("a.json", json.dumps({str(number): [f"n{number}", name] for number, name in enumerate(NAMES)})),
    ],
)
def test_names_are_read_by_number(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert read_class_names(f"{tmp_path}/{name}") == NAMES


def test_a_name_may_hold_what_looks_like_the_end_of_a_line(tmp_path):
    names = ["a\u2028b", "c\x0bd", "", "e\x85f"]
    (tmp_path / "a.txt").write_bytes("\n".join(names).encode())
    assert read_class_names(f"{tmp_path}/a.txt") == names


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"{", "found Expecting property name"),
        (b'{"1": "tench"}', "found an object whose keys are not 0 to 0"),
        (b'["tench", 3]', "found something that is no text among them"),
        (b'[["n0"], []]', "found something that is no text among them"),
        (b'["\\ud800"]', r"found 'utf-8' codec can't encode character '\ud800'"),
        (b"\xff", "found 'utf-8' codec"),
        (b"[" * 100_000, "found maximum recursion depth"),
        (b" " * (5 << 20), "found more than 4194304 bytes"),
    ],
)
def test_other_files_are_refused(content, found, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(SourceError) as error:
        read_class_names(f"{tmp_path}/a.json")
    assert f"a.json: expected names of classes, a line each or in JSON, {found}" in str(error.value)
    assert str(error.value).endswith("; check source.class_names")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SourceError, match="a.txt: expected names of classes, found none; check source.class_names"):
        read_class_names(f"{tmp_path}/a.txt")


def test_a_class_without_a_name_has_no_caption():
    assert class_captions(2, NAMES) == ["café"]
    assert class_captions(5, []) is None
    for number in (3, -1, None, "1", 1.0):
        assert class_captions(number, NAMES) == Fault("no_caption", f"class {number} of 3 names")


def test_other_names_have_another_digest(tmp_path):
    (tmp_path / "a.txt").write_text("tench\n")
    (tmp_path / "b.txt").write_text("trout\n")
    assert digest_class_names("") == ""
    assert digest_class_names(f"{tmp_path}/a.txt") != digest_class_names(f"{tmp_path}/b.txt")
