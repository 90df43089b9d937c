import os

import fsspec
import pytest

from parti_data.errors import SourceError
from parti_data.sources.listing import digest_splits, fixed_folder, list_splits
from parti_data.storage import publish_bytes


def names(path: object, endings: tuple[str, ...] = (".x", ".y")) -> list[str]:
    return [split.path.rpartition("/")[2] for split in list_splits(str(path), endings, "files")]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.x", "a.y", "c.z", "deep/d.x", "deep/er/e.x", "part.x/0.x", "part.x/1.x"):
        publish_bytes(f"{tmp_path}/{name}", b"1")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", ["a.y", "b.x", "part.x"]),
        ("b.x", ["b.x"]),
        ("*.y", ["a.y"]),
        ("deep", ["d.x"]),
        ("deep/", ["d.x"]),
        ("deep/**/*.x", ["d.x", "e.x"]),
        ("*", ["d.x", "0.x", "1.x"]),
        ("part.x", ["0.x", "1.x"]),
    ],
)
def test_files_are_named_by_path_directory_or_glob_in_order(folder, pattern, found):
    assert names(folder / pattern) == found
    assert [split.number for split in list_splits(f"{folder}/{pattern}", (".x", ".y"), "files")] == list(
        range(len(found))
    )


def test_a_name_that_looks_like_a_glob_is_taken_as_it_stands(tmp_path):
    for name in ("set [1]/a.x", "set 1/b.x", "c[d]*?.x"):
        publish_bytes(f"{tmp_path}/{name}", b"1")
    assert names(tmp_path / "set [1]") == ["a.x"]
    assert names(tmp_path / "set [1]" / "a.x") == ["a.x"]
    assert names(tmp_path / "c[d]*?.x") == ["c[d]*?.x"]
    assert names(tmp_path / "set*" / "*.x") == ["b.x", "a.x"]


def test_a_file_whose_name_is_no_unicode_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.x")).write_bytes(b"1")
    with pytest.raises(SourceError, match=r"expected files named in UTF-8, found '.*caf\\udce9.x'; rename it"):
        list_splits(str(tmp_path), (".x",), "files")


@pytest.mark.parametrize("pattern", ["none", "none.x", "*.nope", "deep/er/none"])
def test_nothing_to_read_is_refused(folder, pattern):
    with pytest.raises(SourceError, match=r"/none.*: expected x files, found none; check source.path|/\*.nope/\*.x"):
        list_splits(f"{folder}/{pattern}", (".x",), "x files")


def test_listing_opens_no_file(folder, monkeypatch):
    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "open", None)
    splits = list_splits(f"{folder}/deep", (".x",), "files")
    assert len(digest_splits(splits)) == 64


def test_the_digest_notices_another_size_and_another_mark_of_the_content(folder, monkeypatch):
    def digest() -> str:
        return digest_splits(list_splits(f"{folder}/deep", (".x",), "files"))

    before = digest()
    assert digest() == before
    publish_bytes(f"{folder}/deep/d.x", b"22")
    assert digest() != before
    publish_bytes(f"{folder}/deep/d.x", b"2")
    assert digest() == before
    local = fsspec.filesystem("file")
    info = local.info
    marked = set()
    for mark in ('"one"', '"two"'):
        monkeypatch.setattr(type(local), "info", lambda _, path, mark=mark, **__: info(path) | {"ETag": mark})
        marked.add(digest())
    assert len(marked | {before}) == 3


@pytest.mark.parametrize(
    ("path", "folder"),
    [("a/b.csv", "a"), ("/b.csv", "/"), ("b.csv", ""), ("a/*/c?/b.csv", "a"), ("a/**/b.csv", "a"), ("a/b/", "a/b"),
     ("s3://bucket/*/b.csv", "s3://bucket"), ("memory://b.csv", "memory://"), ("/*/b.csv", "/")],
)  # fmt: skip
def test_the_fixed_folder_is_above_everything_that_a_glob_names(path, folder):
    assert fixed_folder(path) == folder
