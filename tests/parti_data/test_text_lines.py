import tracemalloc

import pytest

from parti_data import text_lines
from parti_data.errors import ConfigError, SourceError
from parti_data.text_lines import TextLines, find_line_files, index_lines

CONTENTS = {
    "a.txt": b"\xef\xbb\xbfone\ntwo words\r\n\n   \nthree\xff\n",
    "b.txt": b"four",
    "c.txt": b"",
    "c2.txt": b"\xef\xbb\xbf",
    "c3.txt": b"\xef\xbb\xbf\n \x0b\x0c\n",
    "d.txt": b"".join(b"line %d of many\n" % number for number in range(50)) + b"the last one",
}
LINES = ["one", "two words", "three\ufffd", "four", *(f"line {n} of many" for n in range(50)), "the last one"]


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    (folder / "more").mkdir()
    return find_line_files(f"{folder}/*", "source")


@pytest.mark.parametrize("chunk_bytes", [64, 200, 1 << 20])
def test_every_line_that_is_not_blank_is_found_again_in_its_order(files, tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(text_lines, "CHUNK_BYTES", chunk_bytes)
    index = str(tmp_path / "lines.parquet")
    index_lines(files, index)
    lines = TextLines(files, index)
    found = [lines.read(number) for number in range(len(lines.chunk_lines))]
    read = [chunk.line(number) for chunk in found for number in range(len(chunk))]
    assert [line.text for line in read] == LINES
    assert lines.chunk_lines.tolist() == [len(chunk) for chunk in found]
    assert (len(found) > 10) == (chunk_bytes == 64)
    assert len({line.place for line in read}) == len(LINES)


def test_a_chunk_of_short_lines_takes_little_more_memory_than_its_bytes(tmp_path):
    content = b"ab cd\n" * 100_000
    (tmp_path / "x.txt").write_bytes(content)
    files, index = find_line_files(f"{tmp_path}/x.txt", "source"), str(tmp_path / "lines.parquet")
    index_lines(files, index)
    lines = TextLines(files, index)
    tracemalloc.start()
    try:
        chunk = lines.read(0)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(chunk) == 100_000
    assert held < 2 * len(content)


def test_the_digest_is_that_of_the_files_sizes(files, tmp_path):
    (tmp_path / "text" / "b.txt").write_bytes(b"fives")
    assert find_line_files(f"{tmp_path}/text/*", "source").digest != files.digest


def test_no_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"held_out: expected a file of lines of text, or a glob of some, found none"):
        find_line_files(f"{tmp_path}/*.txt", "held_out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"short\n" + b"x" * 300, "expected lines of at most 100 bytes, found a longer one; break it"),
        (b"x" * 101 + b"\n", "expected lines of at most 100 bytes, found a longer one; break it"),
        (b"short\n" + b"x" * 101 + b"\n", "expected lines of at most 100 bytes, found a longer one; break it"),
        ("text".encode("utf-16"), "expected UTF-8 text, found UTF-16; convert it"),
    ],
)
def test_what_are_no_lines_of_text_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(text_lines, "CHUNK_BYTES", 100)
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        index_lines(find_line_files(f"{tmp_path}/x.txt", "source"), f"{tmp_path}/lines.parquet")
    assert not (tmp_path / "lines.parquet").exists()


def test_a_line_as_long_as_it_may_be_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(text_lines, "CHUNK_BYTES", 100)
    (tmp_path / "x.txt").write_bytes(b"\n".join([b"x" * 100, b"short", b"y" * 100]))
    files = find_line_files(f"{tmp_path}/x.txt", "source")
    index_lines(files, f"{tmp_path}/lines.parquet")
    assert TextLines(files, f"{tmp_path}/lines.parquet").chunk_lines.sum() == 3


@pytest.mark.parametrize("change", [lambda whole: whole.replace(b"two words", b"two\nwords"), lambda whole: whole[:-2]])
def test_a_file_that_has_changed_is_refused(files, tmp_path, change):
    index = str(tmp_path / "lines.parquet")
    index_lines(files, index)
    (tmp_path / "text" / "a.txt").write_bytes(change(CONTENTS["a.txt"]))
    with pytest.raises(SourceError, match="expected the file as it was when the run began, found other lines; put it"):
        TextLines(files, index).read(0)


def test_files_without_a_line_are_refused(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\n \n")
    files = find_line_files(f"{tmp_path}/x.txt", "source")
    index_lines(files, f"{tmp_path}/lines.parquet")
    with pytest.raises(SourceError, match="expected lines of text, found none; check the file"):
        TextLines(files, f"{tmp_path}/lines.parquet")
