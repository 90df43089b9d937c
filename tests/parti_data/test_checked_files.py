import errno
import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from parti_data import checked_files
from parti_data.checked_files import CheckedFiles
from parti_data.errors import ShardError
from parti_data.manifest import ShardRecord

CONTENT = bytes(range(256)) * 40


def record(content: bytes = CONTENT) -> ShardRecord:
    return ShardRecord(name="s", rows=1, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def shard(tmp_path) -> Path:
    path = tmp_path / "data" / "s.parquet"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """A name for each time that a file is hashed; files count as settled at once."""
    names, digest = [], hashlib.file_digest

    def count(file, algorithm):
        names.append(file.name)
        time.sleep(0.02)
        return digest(file, algorithm)

    monkeypatch.setattr(checked_files.hashlib, "file_digest", count)
    monkeypatch.setattr(checked_files, "_SETTLED_S", 0.0)
    monkeypatch.setattr(checked_files, "_good", set())
    return names


def markers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != "swept"]


def read(checked: CheckedFiles, path: Path, **options: bool) -> bytes:
    with checked.open(str(path), record(), **options) as file:
        return file.read()


def test_a_good_shard_is_hashed_when_first_opened_and_not_again(shard, tmp_path, hashed):
    for _ in range(3):
        assert read(CheckedFiles(tmp_path / "checked"), shard) == CONTENT
    assert len(hashed) == 1
    assert [marker.stat().st_size for marker in markers(tmp_path / "checked")] == [0]


def test_a_shard_is_hashed_again_where_that_is_asked(shard, tmp_path, hashed):
    checked = CheckedFiles(tmp_path / "checked")
    assert read(checked, shard) == read(checked, shard, is_anew=True) == CONTENT
    assert len(hashed) == 2


def rewrite(shard: Path) -> None:
    shard.write_bytes(CONTENT[:-1] + b"x")


def rewrite_under_the_old_time(shard: Path) -> None:
    before = shard.stat()
    rewrite(shard)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(shard: Path) -> None:
    other = shard.with_name("other")
    rewrite(other)
    other.replace(shard)


@pytest.mark.parametrize("change", [rewrite, rewrite_under_the_old_time, replace])
def test_a_shard_that_changes_later_is_found(shard, tmp_path, hashed, change):
    checked = CheckedFiles(tmp_path / "checked")
    read(checked, shard)
    time.sleep(0.02)  # a kernel's clock goes in steps of some milliseconds
    change(shard)
    for _ in range(2):
        with pytest.raises(
            ShardError, match=r"s.parquet: expected SHA-256 \w{12} as the manifest says, found \w{12}; "
        ):
            checked.open(str(shard), record())


def test_a_shard_that_has_just_been_written_is_hashed_each_time(shard, tmp_path, hashed, monkeypatch):
    monkeypatch.setattr(checked_files, "_SETTLED_S", 1e6)
    checked = CheckedFiles(tmp_path / "checked")
    assert read(checked, shard) == read(checked, shard) == CONTENT
    rewrite_under_the_old_time(shard)
    with pytest.raises(ShardError, match="expected SHA-256"):
        checked.open(str(shard), record())
    assert len(hashed) == 3


def test_the_size_is_compared_before_anything_is_hashed(shard, tmp_path, hashed):
    shard.write_bytes(CONTENT[:-1])
    with pytest.raises(ShardError, match=r"s.parquet: expected 10240 bytes as the manifest says, found 10239; copy it"):
        read(CheckedFiles(tmp_path / "checked"), shard)
    assert hashed == []


def test_what_is_no_file_is_told(tmp_path):
    checked = CheckedFiles(tmp_path / "checked")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    found = {"none": "none", "folder": "Is a directory", "pipe": "a pipe or a device", "pipe/s": "none"}
    for name, what in found.items():
        with pytest.raises(ShardError, match=rf"/{name}: expected a shard that can be read, found {what}; copy it"):
            checked.open(f"{tmp_path}/{name}", record(b""))


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_disk_that_fails_is_told(shard, tmp_path, monkeypatch, number):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checked_files.hashlib, "file_digest", fail)
    with pytest.raises(ShardError, match=f"s.parquet: expected a shard that can be read, found {os.strerror(number)};"):
        read(CheckedFiles(tmp_path / "checked"), shard)


def test_too_many_open_files_are_not_the_shards_fault(shard, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(checked_files.os, "open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        read(CheckedFiles(tmp_path / "checked"), shard)


@pytest.mark.parametrize("is_marked_before", [False, True])
def test_a_folder_that_cannot_be_written_costs_a_hash_a_process_and_nothing_else(
    shard, tmp_path, hashed, monkeypatch, is_marked_before
):
    folder = tmp_path / "checked"
    if is_marked_before:
        read(CheckedFiles(folder), shard)
        hashed.clear()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(checked_files.os, "utime", refuse)
    monkeypatch.setattr(checked_files, "sole_writer", refuse)
    monkeypatch.setattr(Path, "touch", refuse)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: read(CheckedFiles(folder), shard), range(16)))
    assert found == [CONTENT] * 16
    assert len(hashed) == (0 if is_marked_before else 1)


def test_no_folder_costs_a_hash_a_process_and_nothing_else(shard, tmp_path, hashed):
    (tmp_path / "file").touch()
    for _ in range(3):
        assert read(CheckedFiles(tmp_path / "file" / "checked"), shard) == CONTENT
    assert len(hashed) == 1


def test_threads_wait_for_the_one_that_hashes(shard, tmp_path, hashed):
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: read(CheckedFiles(tmp_path / "checked"), shard), range(16))) == [CONTENT] * 16
    assert len(hashed) == 1


HASH = """
import hashlib, sys, time
from pathlib import Path
from parti_data import checked_files
from parti_data.checked_files import CheckedFiles
from parti_data.manifest import ShardRecord
checked_files._SETTLED_S = 0.0
digest = hashlib.file_digest
def count(*arguments):
    print("hashed", flush=True)
    time.sleep(0.3)
    return digest(*arguments)
hashlib.file_digest = count
shard = ShardRecord(name="s", rows=1, bytes=int(sys.argv[3]), sha256=sys.argv[4])
CheckedFiles(Path(sys.argv[2])).open(sys.argv[1], shard).close()
"""


def test_processes_wait_for_the_one_that_hashes(shard, tmp_path):
    arguments = [shard, tmp_path / "checked", record().bytes, record().sha256]
    command = [sys.executable, "-c", HASH, *map(str, arguments)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    assert sorted(child.communicate()[0] for child in children) == [b"", b"", b"hashed\n"]


def test_markers_that_nobody_used_for_long_are_removed(shard, tmp_path, hashed):
    folder = tmp_path / "checked"
    checked = CheckedFiles(folder)
    read(checked, shard)
    long_ago = time.time() - 100 * 24 * 3600
    (mine,) = markers(folder)
    for path in (folder / ("0" * 64), folder / ("1" * 64 + ".part")):
        path.touch()
        os.utime(path, (long_ago, long_ago))
    checked._sweep()
    assert len(markers(folder)) == 3  # it was swept today
    os.utime(folder / "swept", (long_ago, long_ago))
    os.utime(mine, (long_ago, long_ago))
    read(checked, shard)  # marks its use
    checked._sweep()
    assert markers(folder) == [mine]
    assert len(hashed) == 1


def test_a_fork_leaves_no_lock_held(tmp_path):
    lock = checked_files._hashing["x"]
    lock.acquire()
    try:
        child = os.fork()
        if child == 0:
            os._exit(0 if checked_files._hashing["x"].acquire(timeout=5) else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        lock.release()
        checked_files._hashing.clear()
