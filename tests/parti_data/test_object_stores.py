import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import fsspec
import pytest

from parti_data import storage
from parti_data.errors import ShardError, SourceError, StorageError
from parti_data.object_stores import _bound_memory

BIG = 40 << 20
"""More than one part of an upload."""

READS = (storage.read_bytes, storage.expand, storage.listed_sizes)


def content(size: int = BIG) -> bytes:
    return (os.urandom(1 << 16) * (1 + (size >> 16)))[:size]


@pytest.mark.parametrize("size", [0, 5, BIG])
def test_a_published_object_is_there_whole(store, size):
    path, written = f"{store.new_bucket()}/deep/down/file", content(size)
    with storage.publish(path) as file:
        file.write(written)
        assert not storage.is_file(path)
    assert storage.read_bytes(path) == written
    assert storage.file_size(path) == size


def test_a_block_that_raises_publishes_nothing_and_keeps_what_was_there(store):
    path = f"{store.new_bucket()}/file"
    storage.publish_bytes(path, b"before")
    with pytest.raises(ZeroDivisionError), storage.publish(path) as file:
        file.write(content())
        raise ZeroDivisionError
    assert storage.read_bytes(path) == b"before"


def test_files_and_directories_are_told_apart_and_listed_and_removed(store):
    bucket = store.new_bucket()
    for name in ("a/b", "a/c", "d"):
        storage.publish_bytes(f"{bucket}/{name}", b"x")
    places = [f"{bucket}/{name}" for name in ("a", "a/b", "none")]
    assert [storage.is_file(place) for place in places] == [False, True, False]
    assert [storage.is_directory(place) for place in places] == [True, False, False]
    assert storage.list_directory(places[0]) == ["b", "c"]
    assert storage.list_directory(places[2]) == []
    assert storage.expand(f"{bucket}/a/*") == [f"{bucket}/a/b", f"{bucket}/a/c"]
    assert storage.expand(f"{bucket}/d") == [f"{bucket}/d"]
    assert storage.expand(f"{bucket}/none") == []
    storage.remove(places[0])
    storage.remove(places[2])
    assert storage.expand(f"{bucket}/*") == [f"{bucket}/d"]


@pytest.mark.parametrize("name", ["run[1]", "run*", "run?"])
def test_what_is_removed_is_what_has_the_name_and_not_what_it_matches(s3, name):
    bucket = s3.new_bucket()
    for run in ("run1", name):
        for file in ("deep/down/a", "manifest.json", "part[1]"):
            storage.publish_bytes(f"{bucket}/{run}/{file}", b"x")
    storage.remove(f"{bucket}/{name}/manifest.json")
    assert sorted(s3.contents(f"{bucket}/{name}")) == ["deep/down/a", "part[1]"]
    storage.remove(f"{bucket}/{name}")
    assert sorted(s3.contents(bucket)) == ["run1/deep/down/a", "run1/manifest.json", "run1/part[1]"]
    storage.remove(f"{bucket}/run1")
    assert s3.contents(bucket) == {}


def test_an_object_that_another_removes_first_does_not_end_a_removal(store, monkeypatch):
    bucket = store.new_bucket()
    for name in ("a[1]/1", "a[1]/2", "b"):
        storage.publish_bytes(f"{bucket}/{name}", b"x")
    filesystem = type(fsspec.filesystem(store.protocol))
    rm_file = filesystem.rm_file

    def remove_late(self, path):
        rm_file(self, path)
        if not path.endswith("2"):
            raise FileNotFoundError(path)

    monkeypatch.setattr(filesystem, "rm_file", remove_late)
    for name in ("a[1]", "b"):
        storage.remove(f"{bucket}/{name}")
    assert store.contents(bucket) == {}


def test_a_range_is_what_there_is_of_it(store):
    path = f"{store.new_bucket()}/file"
    storage.publish_bytes(path, bytes(range(100)))
    for offset, size in [(0, 100), (10, 5), (95, 50), (100, 1), (200, 1), (3, 0)]:
        assert storage.read_range(path, offset, size) == bytes(range(100))[offset : offset + size]
    with pytest.raises(FileNotFoundError):
        storage.read_range(f"{path}-none", 0, 1)


def test_another_content_is_another_marker(store):
    path = f"{store.new_bucket()}/file"
    markers = []
    for written in (b"one", b"two", b"one"):
        storage.publish_bytes(path, written)
        markers.append(storage.file_marker(path))
    assert markers[0] == markers[2] != markers[1]
    assert [marker[0] for marker in markers] == [3, 3, 3]


def test_scattered_reads_give_the_bytes_that_are_there(store):
    path, written = f"{store.new_bucket()}/file", content(20 << 20)
    storage.publish_bytes(path, written)
    with storage.open_scattered(path) as file:
        for place in (18_000_000, 0, 5_000_000, 12):
            file.seek(place)
            assert file.read(1000) == written[place : place + 1000]


def reads_of(store) -> list[str]:
    return [request for request in store.requests if request.startswith("GET") and "/file" in request]


def test_a_file_that_is_read_bit_by_bit_is_fetched_16_mib_at_a_time(store):
    path, written = f"{store.new_bucket()}/file", content(20 << 20)
    storage.publish_bytes(path, written)
    with storage.open_file(path) as file:
        store.requests.clear()
        assert b"".join(iter(lambda: file.read(10_000), b"")) == written
    assert len(reads_of(store)) == {"s3": 2, "gs": 4}[store.protocol]  # gcsfs fetches large ranges in parts at once


def test_gcs_that_fails_in_the_middle_of_a_file_is_told(gcs_server, monkeypatch):
    path = f"{gcs_server.new_bucket()}/file"
    storage.publish_bytes(path, content(20 << 20))
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=lambda _: asyncio.sleep(0)))  # between its tries
    with storage.open_file(path) as file:
        file.read(10_000)
        gcs_server.fault = lambda request: "503 Slow Down"
        with pytest.raises(StorageError, match=r"/file: expected to read it, found HttpError \(.*\); check the"):
            file.read()


def test_a_bucket_that_is_not_there_is_refused(store):
    path = f"{store.protocol}://no-such-bucket/x/file"
    expected = r"no-such-bucket/x/file: expected to write it, found FileNotFoundError \(.*\); make the bucket or choose"
    with pytest.raises(StorageError, match=expected):
        storage.publish_bytes(path, b"x")
    assert not storage.is_file(path)


def test_missing_credentials_are_told(s3, monkeypatch):
    bucket = s3.new_bucket()
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": s3.options["endpoint_url"]})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    expected = r"/file: expected to {} it, found NoCredentialsError \(Unable to locate credentials\); give credentials"
    with pytest.raises(StorageError, match=expected.format("write")):
        storage.publish_bytes(f"{bucket}/file", b"x")
    for read in (storage.is_file, storage.file_marker, storage.list_directory, *READS):
        with pytest.raises(StorageError, match=expected.format("read")):
            read(f"{bucket}/file")


def test_what_is_forbidden_is_told_and_not_taken_for_missing(s3):
    bucket = s3.new_bucket()
    storage.publish_bytes(f"{bucket}/file", b"x")
    s3.fault = lambda request: "403 Access Denied"
    expected = r"/file: expected to {} it, found PermissionError \(.*\); give credentials that may"
    with pytest.raises(StorageError, match=expected.format("write")):
        storage.publish_bytes(f"{bucket}/file", b"x")
    for read in (storage.is_file, storage.is_directory, *READS, storage.remove):
        with pytest.raises(StorageError, match=expected.format("read")):
            read(f"{bucket}/file")


def test_a_store_that_cannot_be_reached_is_told_and_not_taken_for_empty(s3, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", s3.options | {"endpoint_url": "http://127.0.0.1:9"})
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    expected = r"s3://a/b: expected to {} it, found EndpointConnectionError \(.*\); check the network and the endpoint"
    with pytest.raises(StorageError, match=expected.format("read")):
        storage.is_file("s3://a/b")
    with pytest.raises(StorageError, match=expected.format("write")):
        storage.publish_bytes("s3://a/b", b"x")


@pytest.mark.parametrize("size", [5, BIG])
@pytest.mark.parametrize("status", ["503 Slow Down", "500 Internal Error"])
def test_what_passes_is_tried_again(s3, size, status):
    path, written, puts = f"{s3.new_bucket()}/file", content(size), []

    def fail_twice(request: str) -> str | None:
        if request.startswith("PUT"):
            puts.append(request)
        return status if request.startswith("PUT") and len(puts) in (1, 2) else None

    s3.fault = fail_twice
    storage.publish_bytes(path, written)
    assert len(puts) == (3 if size == 5 else 7)
    assert storage.read_bytes(path) == written


def test_an_upload_that_fails_for_good_leaves_no_object_and_no_parts(s3):
    bucket = s3.new_bucket()
    s3.fault = lambda request: "403 Access Denied" if "partNumber=2" in request else None
    with pytest.raises(StorageError, match=r"/file: expected to write it, found PermissionError \(made up\); give"):
        storage.publish_bytes(f"{bucket}/file", content())
    assert any("uploadId" in request and request.startswith("DELETE") for request in s3.requests)
    s3.fault = lambda request: None
    assert fsspec.filesystem("s3").list_multipart_uploads(bucket.removeprefix("s3://")) == []
    assert storage.expand(f"{bucket}/*") == []


def test_a_large_file_goes_up_in_parts_and_a_small_one_in_one_request(s3):
    bucket = s3.new_bucket()
    storage.publish_bytes(f"{bucket}/small", b"x")
    assert [request.split("?")[0] for request in s3.requests] == [f"PUT /{bucket.removeprefix('s3://')}/small"]
    storage.publish_bytes(f"{bucket}/large", content())
    assert sum("partNumber=" in request for request in s3.requests) == 5


def test_no_file_has_more_parts_than_s3_takes(s3):
    options = _bound_memory(fsspec.filesystem("s3"), 1 << 40)
    assert -(-(1 << 40) // options["chunksize"]) <= 10_000


UPLOAD = """
import sys
from parti_data.storage import publish
with publish(sys.argv[1]) as file:
    file.write(bytes(40 << 20))
"""


def test_a_process_killed_while_it_uploads_leaves_nothing_that_can_be_seen(s3, tmp_path):
    path, started = f"{s3.new_bucket()}/file", []

    def hold(request: str) -> None:
        if "partNumber=2" in request:
            started.append(request)
            time.sleep(1)

    s3.fault = hold
    environment = s3.environment() | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", UPLOAD, path], env=environment) as child:
        while not started:
            time.sleep(0.01)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert not storage.is_file(path)
    assert list(tmp_path.iterdir()) == []
    s3.fault = lambda request: None
    subprocess.run([sys.executable, "-c", UPLOAD, path], env=environment, check=True)
    assert storage.read_bytes(path) == bytes(BIG)


def test_an_object_that_changes_while_it_is_read_is_told(s3):
    path = f"{s3.new_bucket()}/file"
    storage.publish_bytes(path, content())
    with storage.open_file(path) as file:
        file.read(10)
        storage.publish_bytes(path, content())
        with pytest.raises(SourceError, match="/file: expected the file as it was when it was opened, found another"):
            file.read()


def test_a_full_temporary_disk_is_named(s3, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(ShardError, match=rf"expected room on the disk of {tempfile.gettempdir()}, found none left"):
        storage.publish_bytes(f"{s3.new_bucket()}/file", b"x")
