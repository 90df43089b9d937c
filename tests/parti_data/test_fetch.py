import hashlib
import random
import tempfile

import fsspec
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFile
from stand_in_hub import URL, StandInHub, serve_hub

from parti_data import fetch as fetching
from parti_data.errors import ShardError, StorageError
from parti_data.fetch import Patience, fetch
from parti_data.manifest import ShardRecord
from parti_data.storage import publish_bytes

CONTENT = random.Random(0).randbytes(100_000)
SHARD = ShardRecord(name="s", rows=1, bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


def fetched(path: str, attempts: int = 3) -> bytes:
    with tempfile.TemporaryFile() as file:
        fetch(path, SHARD, file, Patience(attempts, 0.001))
        file.seek(0)
        return file.read()


def published(bucket: str, content: bytes = CONTENT) -> str:
    publish_bytes(f"{bucket}/s.parquet", content)
    return f"{bucket}/s.parquet"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Four requests for a shard."""
    monkeypatch.setattr(fetching, "_BLOCK_BYTES", 30_000)


@pytest.fixture
def impatient_client(s3, monkeypatch):
    """S3, whose own client gives up at once."""
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield s3
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("status", ["503 Slow Down", "500 Internal Error"])
def test_requests_that_fail_are_made_again_and_what_is_there_is_not(impatient_client, status):
    path, gets = published(impatient_client.new_bucket()), []

    def fail_every_other(request: str) -> str | None:
        if not request.startswith("GET"):
            return None
        gets.append(request)
        return status if len(gets) % 2 else None

    impatient_client.fault = fail_every_other
    assert fetched(path) == CONTENT
    assert len(gets) == 8


def test_a_store_that_fails_for_good_is_asked_so_often_and_told(impatient_client, monkeypatch):
    path, waits = published(impatient_client.new_bucket()), []
    monkeypatch.setattr(fetching.time, "sleep", waits.append)
    monkeypatch.setattr(fetching.random, "uniform", lambda low, high: high)
    impatient_client.fault = lambda request: "503 Slow Down" if request.startswith("GET") else None
    with pytest.raises(StorageError, match=r"/s.parquet: expected to read it, found OSError \(.*\); check the network"):
        fetched(path, attempts=4)
    assert waits == [0.0015, 0.003, 0.006]
    assert sum(request.startswith("GET") for request in impatient_client.requests) == 4


def test_a_store_that_cannot_be_reached_is_told(s3, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", s3.options | {"endpoint_url": "http://127.0.0.1:9"})
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="expected to read it, found EndpointConnectionError"):
        fetched("s3://a/b", attempts=2)


def test_a_refusal_is_told_at_once(s3):
    path = published(s3.new_bucket())
    s3.requests.clear()
    s3.fault = lambda request: "403 Access Denied"
    with pytest.raises(StorageError, match=r"found PermissionError \(.*\); give credentials that may"):
        fetched(path, attempts=50)
    assert len(s3.requests) < 4


def test_a_shard_that_is_not_there_is_told_at_once(store):
    path = f"{store.new_bucket()}/s.parquet"
    expected = (
        "/s.parquet: expected a shard of 100000 bytes, found none in the store; copy it there again from where it"
    )
    with pytest.raises(ShardError, match=expected):
        fetched(path, attempts=50)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (CONTENT[:-1], "99999 bytes"),
        (b"", "0 bytes"),
        (CONTENT + b"x", "more than 100000 bytes"),
        (CONTENT * 2, "more than 100000 bytes"),
        (CONTENT[:-1] + b"x", r"SHA-256 \w{12}"),
    ],
)
def test_an_object_that_differs_is_fetched_twice_and_told(s3, content, found):
    path = published(s3.new_bucket(), content)
    expected = (
        f"/s.parquet: expected 100000 bytes with SHA-256 {SHARD.sha256[:12]} as the manifest says, found {found} in the"
        " store; copy it there again from where it is whole"
    )
    with pytest.raises(ShardError, match=expected):
        fetched(path)
    gets = [request for request in s3.requests if request.startswith("GET")]
    assert len(gets) in {0, 2 * min(4, -(-len(content) // 30_000))}


@pytest.mark.parametrize("first", [CONTENT[:500], CONTENT + b"x", b"x" + CONTENT[1:]])
def test_what_arrives_whole_the_second_time_is_good(first, monkeypatch):
    answers, source = iter([first, CONTENT]), fetching._Source
    monkeypatch.setattr(fetching, "_Source", lambda _: source(published("memory://fetched", next(answers))))
    assert fetched("memory://fetched/s.parquet") == CONTENT


def test_short_reads_are_gone_on_from(monkeypatch):
    path, read = published("memory://fetched"), MemoryFile.read
    monkeypatch.setattr(MemoryFile, "read", lambda self, size: read(self, min(size, 7_001)))
    assert fetched(path) == CONTENT


def test_an_object_that_is_replaced_while_it_is_read_is_fetched_again(s3):
    path, gets = published(s3.new_bucket(), CONTENT[::-1]), []

    def replace(request: str) -> None:
        if request.startswith("GET"):
            gets.append(request)
            if len(gets) == 2:
                publish_bytes(path, CONTENT)

    s3.fault = replace
    assert fetched(path) == CONTENT


def test_an_object_that_never_stays_is_told(s3):
    path, versions = published(s3.new_bucket()), iter(range(100))

    def replace(request: str) -> None:
        if request.startswith("GET"):
            publish_bytes(path, CONTENT + bytes([next(versions)]))

    s3.fault = replace
    with pytest.raises(
        ShardError, match="as the manifest says, found one that changes while it is read in the store; "
    ):
        fetched(path)


@pytest.fixture
def hub(monkeypatch):
    """Hugging Face's hub, with the shard."""
    monkeypatch.setattr("time.sleep", lambda _: None)  # its client's waits
    with serve_hub() as served:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": served.endpoint})
        served.files["s.parquet"] = CONTENT
        yield served


def test_a_shard_of_hugging_face_is_fetched_block_by_block(hub: StandInHub):
    assert fetched(f"{URL}/s.parquet") == CONTENT
    assert sum("/resolve/" in request for request in hub.requests) == 4


def test_what_fails_on_hugging_face_is_tried_again_and_what_differs_is_told(hub: StandInHub):
    hub.failures = [503] * 7  # its client gives up at the sixth
    assert fetched(f"{URL}/s.parquet") == CONTENT
    hub.files["s.parquet"] = CONTENT[:-1] + b"x"
    with pytest.raises(ShardError, match=f"{URL}/s.parquet: expected 100000 bytes with SHA-256 .* in the store"):
        fetched(f"{URL}/s.parquet")
    with pytest.raises(ShardError, match=f"{URL}/none.parquet: expected a shard of 100000 bytes, found none in the st"):
        fetched(f"{URL}/none.parquet")


def test_a_hub_that_cannot_be_reached_is_told(hub: StandInHub, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(StorageError, match=f"{URL}/s.parquet: expected to read it, found ConnectError"):
        fetched(f"{URL}/s.parquet", attempts=2)
