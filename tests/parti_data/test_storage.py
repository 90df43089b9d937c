import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from parti_data import storage
from parti_data.errors import ConfigError, ShardError, StorageError


def test_a_published_file_is_there_whole_and_nothing_else(tmp_path, contents):
    with storage.publish(f"{tmp_path}/deep/down/file") as file:
        file.write(b"one")
        assert not (tmp_path / "deep/down/file").exists()
    assert contents(tmp_path) == {"deep/down/file": b"one"}


def test_a_block_that_raises_publishes_nothing_and_keeps_what_was_there(tmp_path, contents):
    storage.publish_bytes(f"{tmp_path}/file", b"before")
    with pytest.raises(ZeroDivisionError), storage.publish(f"{tmp_path}/file") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert contents(tmp_path) == {"file": b"before"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_place_and_leaves_no_half_file(tmp_path, contents, monkeypatch, code):
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(
        ShardError, match=r"/new: expected room on the disk, found none left; free some and start again"
    ):
        storage.publish_bytes(f"{tmp_path}/new", b"x")
    assert contents(tmp_path) == {}


def test_another_fault_of_the_disk_comes_out_as_it_is(tmp_path, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="input/output error"):
        storage.publish_bytes(f"{tmp_path}/new", b"x")


def test_a_place_that_cannot_be_a_directory_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ShardError, match=r"/file: expected a directory that can be written, found .*; choose another"):
        storage.publish_bytes(f"{tmp_path}/file/new", b"x")


@pytest.mark.parametrize("place", ["/proc", "long" * 100])
def test_a_place_that_no_directory_can_be_made_in_is_refused(tmp_path, place):
    path = tmp_path / place / "new.png"  # /proc stays what it is
    with pytest.raises(ShardError, match=rf"^{path.parent}: expected a directory that can be written, found "):
        storage.publish_bytes(str(path), b"x")


def test_a_file_does_not_take_the_place_of_a_directory(tmp_path):
    with pytest.raises(ShardError, match=rf"^{tmp_path}: expected a name for a file, found a directory; choose"):
        storage.publish_bytes(str(tmp_path), b"content")


def test_a_directory_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ShardError, match="expected a directory that can be written, found Permission denied"):
        storage.publish_bytes(f"{tmp_path}/new", b"x")


def test_an_object_store_gets_a_file_in_one_put_or_not_at_all():
    storage.publish_bytes("memory://bucket/whole", b"abc")
    assert storage.read_bytes("memory://bucket/whole") == b"abc"
    with pytest.raises(ZeroDivisionError), storage.publish("memory://bucket/half") as file:
        file.write(b"abc")
        raise ZeroDivisionError
    assert not storage.is_file("memory://bucket/half")
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_sweep_removes_what_a_killed_writer_left_and_nothing_else(tmp_path, contents):
    (tmp_path / f"ledger.parquet.tmp-{'0f' * 16}").write_bytes(b"half")
    (tmp_path / "ledger.parquet").write_bytes(b"whole")
    (tmp_path / "mine.tmp-2024").mkdir()
    (tmp_path / "mine.tmp-2024" / "note").write_bytes(b"kept")
    storage.sweep(str(tmp_path))
    assert contents(tmp_path) == {"ledger.parquet": b"whole", "mine.tmp-2024/note": b"kept"}
    storage.sweep(f"{tmp_path}/not_there")


def test_a_file_whose_writer_removes_it_first_does_not_end_a_sweep(tmp_path, contents, monkeypatch):
    for number in range(3):
        (tmp_path / f"a.tmp-{number:032x}").write_bytes(b"half")
    rm = LocalFileSystem.rm

    def remove_late(self, path, recursive=False):
        if path.endswith("0"):
            Path(path).unlink()
        rm(self, path, recursive)

    monkeypatch.setattr(LocalFileSystem, "rm", remove_late)
    storage.sweep(str(tmp_path))
    assert contents(tmp_path) == {}


def test_a_protocol_that_cannot_be_opened_is_refused():
    with pytest.raises(ConfigError, match="nope://x/y: expected a path that fsspec opens, found"):
        storage.read_bytes("nope://x/y")


def test_a_path_with_two_colons_is_no_chain_of_urls(tmp_path, contents, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a::b.tar", "run::1/x", "memory::c"):
        storage.publish_bytes(name, name.encode())
    assert contents(tmp_path) == {name: name.encode() for name in ("a::b.tar", "memory::c", "run::1/x")}
    assert storage.read_bytes(f"{tmp_path}/run::1/x") == b"run::1/x"
    assert storage.expand(f"{tmp_path}/*.tar") == [storage.absolute("a::b.tar")] == [f"{tmp_path}/a::b.tar"]
    assert storage.file_size("a::b.tar") == 8
    storage.publish_bytes("d", b"d")
    assert storage.read_bytes(f"simplecache::file://{tmp_path}/d") == b"d"  # this is one


@pytest.mark.parametrize("pattern", ["{0}/*.tar", "{0}/[ab].tar", "{0}/?.tar"])
def test_a_glob_names_its_files_in_order(tmp_path, pattern):
    for name in ("b.tar", "a.tar", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    assert storage.expand(pattern.format(tmp_path)) == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]


def test_a_path_names_itself_where_it_exists(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"")
    assert storage.expand(f"{tmp_path}/a.tar") == [f"{tmp_path}/a.tar"]
    assert storage.expand(f"{tmp_path}/b.tar") == storage.expand(f"{tmp_path}/*.zip") == []


def test_a_glob_of_a_url_names_urls():
    storage.publish_bytes("memory://bucket/a.tar", b"")
    assert storage.expand("memory://bucket/*.tar") == ["memory:///bucket/a.tar"]
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_sha256_is_that_of_all_bytes(tmp_path):
    content = bytes(range(256)) * 10_000  # more than one block
    (tmp_path / "file").write_bytes(content)
    assert storage.sha256_file(f"{tmp_path}/file") == hashlib.sha256(content).hexdigest()
    assert storage.file_size(f"{tmp_path}/file") == len(content)


def test_the_marker_of_a_file_is_its_size_and_what_the_storage_says_of_its_content(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"abc")
    assert storage.file_marker(f"{tmp_path}/file") == [3]
    info = LocalFileSystem.info
    for said, mark in [({"ETag": 'W/"0f"'}, "0f"), ({"etag": "0f"}, "0f"), ({"etag": "x", "md5Hash": "0f=="}, "0f=="),
                       ({"ETag": None, "blob_id": "1"}, "1")]:  # fmt: skip
        monkeypatch.setattr(LocalFileSystem, "info", lambda *args, said=said: info(*args) | said)
        assert storage.file_marker(f"{tmp_path}/file") == [3, mark]


def test_the_version_of_a_file_is_another_one_after_each_write(tmp_path):
    seen = set()
    for time in (1, 2):
        (tmp_path / "file").write_bytes(b"abc")
        os.utime(tmp_path / "file", (time, time))
        seen.add(storage.file_version(f"{tmp_path}/file"))
        storage.publish_bytes("memory://bucket/version", b"abc")
        seen.add(storage.file_version("memory://bucket/version"))
    assert len(seen) == 4
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_only_regular_files_have_a_size(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    os.mkfifo(tmp_path / "pipe")
    assert storage.regular_file_size(f"{tmp_path}/file") == 3
    assert storage.regular_file_size(f"{tmp_path}/pipe") is storage.regular_file_size(str(tmp_path)) is None
    with pytest.raises(FileNotFoundError):
        storage.regular_file_size(f"{tmp_path}/none")
    assert storage.is_directory(str(tmp_path))
    assert not storage.is_directory(f"{tmp_path}/file")


def test_paths_are_made_absolute_and_urls_keep_their_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/b") == f"{tmp_path}/a/b"
    assert storage.absolute("memory://bucket/a") == "memory:///bucket/a"
    assert [storage.is_local(path) for path in ("a", f"file://{tmp_path}", "memory://a")] == [True, True, False]


def test_scattered_reads_give_the_bytes_that_are_there(tmp_path):
    content = bytes(range(256)) * 100_000
    (tmp_path / "file").write_bytes(content)
    storage.publish_bytes("memory://bucket/file", content)
    for path in (f"{tmp_path}/file", "memory://bucket/file"):
        with storage.open_scattered(path) as file:
            for place in (25_000_000, 0, 5_000_000, 12):
                file.seek(place)
                assert file.read(1000) == content[place : place + 1000]
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    assert storage.canonical_json({"b": 1, "a": [1, "é"]}) == '{"a":[1,"é"],"b":1}'
    assert storage.digest_json({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()


def test_names_in_a_directory_are_sorted_and_none_where_there_is_none(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_bytes(b"")
    assert storage.list_directory(str(tmp_path)) == ["a", "b"]
    assert storage.list_directory(f"{tmp_path}/none") == []
    assert storage.join("memory://x/", "a") == "memory://x/a"


def test_remove_takes_files_and_directories_and_minds_nothing_missing(tmp_path, contents):
    storage.publish_bytes(f"{tmp_path}/a/b", b"")
    storage.publish_bytes(f"{tmp_path}/c", b"")
    for name in ("a", "c", "none"):
        storage.remove(f"{tmp_path}/{name}")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_the_sizes_of_many_files_are_listed_a_folder_at_a_time(tmp_path, monkeypatch, place):
    root = str(tmp_path) if place == "disk" else f"memory:/{tmp_path}"
    paths = [f"{root}/{name}" for name in ("a/3", "b/1", "a/2", "a/3", "top", "a/deep/5")]
    for path in paths:
        storage.publish_bytes(path, b"x" * (len(path) - len(root)))
    asked, file_size = [], storage.file_size
    monkeypatch.setattr(storage, "file_size", lambda path: (asked.append(path), file_size(path))[1])
    assert storage.file_sizes(paths) == [len(path) - len(root) for path in paths]
    assert asked == [paths[1], paths[4], paths[5]]  # alone in their folders
    assert storage.file_sizes([]) == []


def test_files_at_the_root_of_the_disk_are_not_taken_for_those_of_the_working_directory(tmp_path, monkeypatch):
    for name in ("etc", "usr"):
        (tmp_path / name).write_bytes(b"xyz")
    monkeypatch.chdir(tmp_path)
    assert storage.file_sizes(["/etc", "/usr"]) == [Path(path).stat().st_size for path in ("/etc", "/usr")]
    assert storage.file_sizes(["etc", "usr"]) == [3, 3]


def test_the_size_of_a_file_that_is_not_there_is_not_made_up(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        storage.file_sizes([f"{tmp_path}/a", f"{tmp_path}/b"])


def test_files_at_the_root_of_a_storage_have_sizes():
    for name in ("parti-root-a", "parti-root-b"):
        storage.publish_bytes(f"memory://{name}", name.encode())
    assert storage.file_sizes(["memory://parti-root-a", "memory://parti-root-b"]) == [12, 12]
    for name in ("parti-root-a", "parti-root-b"):
        storage.remove(f"memory://{name}")


WRITES_UNTIL_IT_ENDS = """
import os, sys, threading, time
from parti_data.storage import begin_no_file, publish_bytes, sweep
def write(path):
    while True:
        publish_bytes(path, b"whole")
for name in "ab":
    threading.Thread(target=write, args=[f"{sys.argv[1]}/{name}"], daemon=True).start()
time.sleep(0.2)
begin_no_file()
sweep(sys.argv[1])
time.sleep(0.2)
os._exit(0)
"""


def test_a_process_that_begins_no_more_files_leaves_none_half_written_whatever_its_threads_do(tmp_path, contents):
    subprocess.run([sys.executable, "-c", WRITES_UNTIL_IT_ENDS, tmp_path], check=True, cwd=Path(__file__).parents[2])
    assert contents(tmp_path) == {"a": b"whole", "b": b"whole"}


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalFileSystem, "ls", refuse)
    with pytest.raises(StorageError, match="expected to list it, found Permission denied; let it be read"):
        storage.list_entries(str(tmp_path))
