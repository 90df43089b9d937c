import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from parti_data import checked_files, fetch, shard_cache
from parti_data.errors import ConfigError, StorageError
from parti_data.shard_cache import CacheOptions
from parti_data.shard_files import ShardFiles
from parti_data.storage import publish_bytes, remove
from parti_data.token_directory import TokenDirectory

SIZE = 100_000
BLOCK = 1 << 14


def contents(number: int, size: int = SIZE) -> list[bytes]:
    return [random.Random(n).randbytes(size) for n in range(number)]


@pytest.fixture
def options(tmp_path) -> CacheOptions:
    return CacheOptions(path=f"{tmp_path}/cache", first_wait_s=0.001)


@pytest.fixture
def six(s3, shards_of) -> TokenDirectory:
    """Six shards of 100,000 bytes on S3."""
    return shards_of(f"{s3.new_bucket()}/tokens", contents(6))


def read(files: ShardFiles, number: int, **how: bool) -> bytes:
    with files.open(number, **how) as file:
        return file.read()


def gets(store) -> list[str]:
    return [request for request in store.requests if request.startswith("GET") and ".parquet" in request]


def kept(options: CacheOptions) -> list[Path]:
    folder = options.folder() / "shards"
    return sorted(folder.iterdir()) if folder.exists() else []


def kept_numbers(options: CacheOptions, directory: TokenDirectory) -> set[int]:
    digests = [shard.sha256 for shard in directory.shards]
    return {digests.index(path.stem) for path in kept(options)}


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, SIZE])
def test_a_shard_of_a_store_is_fetched_once_and_kept(store, shards_of, options, size, monkeypatch):
    monkeypatch.setattr(fetch, "_BLOCK_BYTES", BLOCK)
    (content,) = contents(1, size)
    directory = shards_of(f"{store.new_bucket()}/tokens", [content])
    assert read(ShardFiles(directory, options), 0) == content
    remove(directory.shard_path(0))
    assert read(ShardFiles(directory, options), 0) == content
    (path,) = kept(options)
    assert path.name == f"{directory.shards[0].sha256}.parquet"


def test_what_is_opened_can_be_sought_and_read_by_parquet(s3, shards_of, options, tmp_path):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    table, buffer = pa.table({"x": list(range(1000))}), io.BytesIO()
    pq.write_table(table, buffer)
    directory = shards_of(f"{s3.new_bucket()}/tokens", [buffer.getvalue()])
    for _ in range(2):
        with ShardFiles(directory, options).open(0) as file:
            assert pq.read_table(file).equals(table)


def test_threads_fetch_a_shard_once(s3, six, options):
    s3.fault = lambda request: time.sleep(0.05)
    files = ShardFiles(six, options)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda number: read(files, number % 3), range(24)))
    assert found == contents(3) * 8
    assert len(gets(s3)) == 3


OPEN_ALL = """
import sys
from parti_data.manifest import Manifest
from parti_data.shard_cache import CacheOptions
from parti_data.shard_files import ShardFiles
from parti_data.token_directory import TokenDirectory
path, cache, max_bytes, manifest = sys.argv[1:]
directory = TokenDirectory(path, "", Manifest.model_validate_json(manifest), None, 1)
files = ShardFiles(directory, CacheOptions(path=cache, max_bytes=int(max_bytes), first_wait_s=0.01))
for _ in range(3):
    for number, shard in enumerate(directory.shards):
        with files.open(number) as file:
            assert len(file.read()) == shard.bytes
"""


def open_all(s3, directory: TokenDirectory, options: CacheOptions, max_bytes: int) -> subprocess.Popen:
    arguments = [directory.path, str(options.path), str(max_bytes), directory.manifest.model_dump_json()]
    return subprocess.Popen([sys.executable, "-c", OPEN_ALL, *arguments], env=s3.environment())


def test_processes_fetch_a_shard_once(s3, six, options):
    s3.fault = lambda request: time.sleep(0.02)
    children = [open_all(s3, six, options, 10 * SIZE) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert len(gets(s3)) == 6
    assert kept_numbers(options, six) == set(range(6))


def test_two_with_different_bounds_both_come_to_their_end(s3, six, options):
    def read_all(bound: int) -> list[bytes]:
        files = ShardFiles(six, options.model_copy(update={"max_bytes": bound}))
        return [read(files, number) for _ in range(3) for number in range(6)]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(read_all, [SIZE, 4 * SIZE])) == [contents(6) * 3] * 2


def test_a_process_killed_while_it_fetches_leaves_nothing_that_is_read(s3, six, options):
    started = threading.Event()

    def hold(request: str) -> None:
        if request.startswith("GET") and ".parquet" in request:
            started.set()
            time.sleep(0.5)

    s3.fault = hold
    with open_all(s3, six, options, 10 * SIZE) as child:
        assert started.wait(20)
        (part,) = kept(options)
        assert part.name == f"{six.shards[0].sha256}.parquet.part"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    s3.fault = lambda request: None
    files = ShardFiles(six, options)
    assert read(files, 1) == contents(2)[1]  # removes what the killed left
    assert kept_numbers(options, six) == {1}
    assert read(files, 0) == contents(1)[0]


def test_the_shards_not_opened_for_longest_go_first(s3, six, options, monkeypatch):
    files = ShardFiles(six, options.model_copy(update={"max_bytes": 3 * SIZE + 50}))
    for number in (0, 1, 2, 0, 3):  # 1 is the oldest when 3 comes
        read(files, number)
        time.sleep(0.01)
    assert kept_numbers(options, six) == {0, 2, 3}
    read(files, 2)
    read(files, 4)
    assert kept_numbers(options, six) == {2, 3, 4}
    markers = [path for path in (options.folder() / "checked").iterdir() if path.name != "swept"]
    assert len(markers) == 3


def test_an_open_shard_stays_whole_when_its_copy_is_removed(s3, six, options):
    files = ShardFiles(six, options.model_copy(update={"max_bytes": SIZE}))
    with files.open(0) as file:
        read(files, 1)
        assert kept_numbers(options, six) == {1}
        assert file.read() == contents(1)[0]


def test_a_cache_that_is_removed_while_it_is_filled_fails_nobody(s3, six, options):
    s3.fault = lambda request: shutil.rmtree(options.folder()) if request.startswith("GET") else None
    files = ShardFiles(six, options)
    assert read(files, 0) == contents(1)[0]
    assert kept(options) == []
    s3.fault = lambda request: None
    assert read(files, 0) == contents(1)[0]
    assert kept_numbers(options, six) == {0}


def test_the_bound_holds_while_many_fetch(s3, six, options, monkeypatch):
    monkeypatch.setattr(shard_cache, "_LOOK_AGAIN_S", 0.01)
    s3.fault = lambda request: time.sleep(random.random() * 0.03)
    files = ShardFiles(six, options.model_copy(update={"max_bytes": 2 * SIZE}))
    folder = options.folder() / "shards"
    folder.mkdir(parents=True)
    most = 0
    with ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(read, files, number % 6) for number in range(12)]
        while not all(one.done() for one in reads):
            with shard_cache._locked(folder):
                most = max(most, total_bytes(folder))
            time.sleep(0.001)
    assert [one.result() for one in reads] == contents(6) * 2
    assert SIZE < most <= 2 * SIZE


def total_bytes(folder: Path) -> int:
    """Of what is kept and what is being fetched."""
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def test_a_fetch_that_others_keep_from_its_turn_goes_on_in_the_end(s3, six, options, monkeypatch):
    monkeypatch.setattr(shard_cache, "_MAX_WAIT_S", 0.2)
    started, go_on = threading.Event(), threading.Event()

    def hold(request: str) -> None:
        if "00000-of" in request and request.startswith("GET"):
            started.set()
            go_on.wait(10)

    s3.fault = hold
    files = ShardFiles(six, options.model_copy(update={"max_bytes": SIZE}))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(read, files, 0)
        assert started.wait(10)
        assert read(files, 1) == contents(2)[1]
        go_on.set()
        assert slow.result() == contents(1)[0]


def test_a_shard_larger_than_the_cache_is_refused(s3, six, options):
    files = ShardFiles(six, options.model_copy(update={"max_bytes": SIZE - 1}))
    expected = (
        rf"tokens-00000-of-00006.parquet: expected a shard that a cache of at most {SIZE - 1} bytes in .* holds, "
    )
    with pytest.raises(StorageError, match=expected + rf"found {SIZE} bytes; choose a larger cache.max_bytes"):
        files.open(0)
    assert kept(options) == []


def test_half_of_the_free_disk_is_the_most_unless_told(s3, six, options, monkeypatch):
    class Usage:
        free = 0

    def left(_: Path) -> Usage:
        Usage.free = 5 * SIZE - sum(path.stat().st_size for path in kept(options))
        return Usage()

    monkeypatch.setattr(shard_cache.shutil, "disk_usage", left)
    files = ShardFiles(six, options)
    for number in range(6):
        read(files, number)
    assert len(kept(options)) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_nothing_is_left(s3, six, options, monkeypatch, number):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shard_cache, "fetch", fail)
    expected = "tokens-00000-of-00006.parquet: expected room for it in .*/shards, found none left on the disk; free"
    with pytest.raises(StorageError, match=expected):
        ShardFiles(six, options).open(0)
    assert kept(options) == []


def test_a_cache_that_cannot_be_written_is_told(s3, six, tmp_path, options):
    (tmp_path / "file").touch()
    expected = "tokens-00000-of-00006.parquet: expected to keep it in .*/shards, found Not a directory; choose a folder"
    with pytest.raises(StorageError, match=expected):
        ShardFiles(six, options.model_copy(update={"path": f"{tmp_path}/file"})).open(0)


def test_a_filled_cache_that_cannot_be_written_is_read(s3, six, options, monkeypatch):
    read(ShardFiles(six, options), 0)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(checked_files.os, "utime", refuse)
    monkeypatch.setattr(shard_cache, "sole_writer", refuse)
    assert read(ShardFiles(six, options), 0) == contents(1)[0]
    with pytest.raises(StorageError, match="found Read-only file system; choose a folder that can be written by cache"):
        ShardFiles(six, options).open(1)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "flipped under its time", "deleted", "another"])
def test_a_copy_that_is_damaged_later_is_fetched_again(s3, six, options, damage):
    files = ShardFiles(six, options)
    read(files, 0)
    (path,) = kept(options)
    time.sleep(0.02)  # a kernel's clock goes in steps of some milliseconds
    before, content = path.stat(), bytearray(path.read_bytes())
    content[SIZE // 2] ^= 1
    if damage == "truncated":
        os.truncate(path, SIZE // 2)
    elif damage == "deleted":
        path.unlink()
    elif damage == "another":
        path.write_bytes(contents(2)[1])
    else:
        path.write_bytes(content)
    if damage == "flipped under its time":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    s3.requests.clear()
    assert read(files, 0) == read(files, 0) == contents(1)[0]
    assert len(gets(s3)) == 1


def test_a_copy_that_rots_unseen_is_fetched_again_when_it_is_asked_for_anew(s3, six, options, monkeypatch):
    monkeypatch.setattr(checked_files, "_state", lambda status: (status.st_size,))  # as if the disk told of no change
    files = ShardFiles(six, options)
    read(files, 0)
    (path,) = kept(options)
    rotten = b"rot" + contents(1)[0][3:]
    path.write_bytes(rotten)
    assert read(files, 0) == rotten
    s3.requests.clear()
    assert read(files, 0, is_anew=True) == read(files, 0) == contents(1)[0]
    assert len(gets(s3)) == 1


def test_directories_with_the_same_shard_share_its_copy(s3, shards_of, options):
    bucket = s3.new_bucket()
    for name in ("one", "other"):
        assert read(ShardFiles(shards_of(f"{bucket}/{name}", contents(1)), options), 0) == contents(1)[0]
    assert len(kept(options)) == 1
    assert len(gets(s3)) == 1


def test_memory_is_a_store_too(shards_of, options):
    directory = shards_of("memory://tokens", contents(2))
    assert [read(ShardFiles(directory, options), number) for number in (0, 1)] == contents(2)
    publish_bytes(directory.shard_path(0), b"x")
    assert read(ShardFiles(directory, options), 0) == contents(1)[0]


def test_the_cache_is_where_it_is_told_to_be(monkeypatch, tmp_path):
    for name in ("PARTI_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", f"{tmp_path}/home")
    assert CacheOptions().folder() == tmp_path / "home/.cache/parti"
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/xdg")
    assert CacheOptions().folder() == tmp_path / "xdg/parti"
    monkeypatch.setenv("PARTI_CACHE", "~/mine")
    assert CacheOptions().folder() == tmp_path / "home/mine"
    assert CacheOptions(path="/here").folder() == Path("/here")
    monkeypatch.setenv("PARTI_CACHE", "s3://bucket/cache")
    with pytest.raises(ConfigError, match="^s3://bucket/cache: expected a cache on a local disk, found a URL; give a"):
        CacheOptions().folder()


def test_without_a_home_nothing_is_kept_and_local_shards_are_read(monkeypatch, tmp_path, shards_of):
    for name in ("PARTI_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(shard_cache.os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert read(ShardFiles(shards_of(f"{tmp_path}/tokens", contents(1))), 0) == contents(1)[0]
    assert os.listdir(tmp_path) == ["tokens"]
    with pytest.raises(StorageError, match="expected to keep it in /dev/null/parti/shards, found Not a directory"):
        ShardFiles(shards_of("memory://elsewhere", contents(1))).open(0)
