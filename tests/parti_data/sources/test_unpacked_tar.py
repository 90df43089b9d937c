import errno
import gzip
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from parti_data.errors import ShardError, SourceError
from parti_data.sources import WebDatasetSource, unpacked_tar
from parti_data.sources.pairs import RawPair
from parti_data.storage import publish_bytes


def in_two_frames(content: bytes) -> bytes:
    half = len(content) // 2
    return zstandard.compress(content[:half]) + zstandard.compress(content[half:])


COMPRESSED = {
    "x.tar.gz": gzip.compress,
    "x.tgz": lambda content: gzip.compress(content[:700]) + gzip.compress(content[700:]),
    "x.tar.zst": zstandard.compress,
    "y.tar.zst": in_two_frames,
}


def source(path: object, **options) -> WebDatasetSource:
    return WebDatasetSource(kind="webdataset", path=str(path), **options)


def read(path: object, **options) -> list[RawPair]:
    tars = source(path, **options)
    return [pair for split in tars.splits() for pair in tars.read(split, 1 << 20)]


@pytest.fixture
def pack(make_tar, tmp_path) -> Callable[[str], str]:
    """Write a tar of ten pairs, compressed in the way of its name, and return its path."""

    def pack(name: str) -> str:
        members = [(f"{n}.{kind}", os.urandom(3000)) for n in range(10) for kind in ("txt", "png")]
        content = Path(make_tar("plain.tar", members)).read_bytes()
        (tmp_path / name).write_bytes(COMPRESSED[name](content))
        return str(tmp_path / name)

    return pack


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_tar_gives_the_pairs_of_the_plain_one(pack, tmp_path, name):
    pairs = read(pack(name))
    plain = read(tmp_path / "plain.tar")
    assert [pair._replace(location=pair.location._replace(path="")) for pair in pairs] == [
        pair._replace(location=pair.location._replace(path="")) for pair in plain
    ]
    for pair in [*pairs, *reversed(pairs)]:
        assert source(tmp_path / name).fetch(pair.location) == pair.image


def test_fetching_in_order_unpacks_a_tar_once(pack, monkeypatch):
    path = pack("x.tar.gz")
    locations = [pair.location for pair in read(path)]
    opened = []
    open_file = unpacked_tar.open_file
    monkeypatch.setattr(unpacked_tar, "open_file", lambda place: opened.append(place) or open_file(place))
    for location in locations:
        source(path).fetch(location)
    assert opened == [path]


def test_all_kinds_of_tars_in_a_directory_are_read_in_order(pack, tmp_path):
    for name in COMPRESSED:
        pack(name)
    names = [Path(split.path).name for split in source(tmp_path).splits()]
    assert names == ["plain.tar", "x.tar.gz", "x.tar.zst", "x.tgz", "y.tar.zst"]


@pytest.mark.parametrize("name", COMPRESSED)
def test_what_unpacks_to_too_much_is_refused(pack, tmp_path, name):
    path = pack(name)
    size = (tmp_path / "plain.tar").stat().st_size
    assert len(read(path, max_tar_bytes=size)) == 10
    with pytest.raises(
        SourceError, match=f"{name}: expected at most {size - 1} bytes unpacked, found more; raise sourc"
    ):
        read(path, max_tar_bytes=size - 1)


@pytest.mark.parametrize("name", ["bomb.tar.gz", "bomb.tar.zst"])
def test_a_bomb_is_stopped_at_the_limit(tmp_path, name, monkeypatch):
    compress = gzip.compress if name.endswith("gz") else zstandard.compress
    (tmp_path / name).write_bytes(compress(bytes(256 << 20)))
    assert (tmp_path / name).stat().st_size < 1 << 20
    most = 0

    class Counting(tempfile.SpooledTemporaryFile):
        def write(self, content):
            nonlocal most
            most += len(content)
            return super().write(content)

    monkeypatch.setattr(unpacked_tar.tempfile, "SpooledTemporaryFile", Counting)
    with pytest.raises(SourceError, match="expected at most 3000000 bytes unpacked, found more"):
        read(tmp_path / name, max_tar_bytes=3_000_000)
    assert most <= 3_000_000


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_tar_cut_short_is_refused(pack, name):
    path = Path(pack(name))
    whole = path.read_bytes()
    for size in range(1, len(whole) - 2000, len(whole) // 15):
        path.write_bytes(whole[:size])
        with pytest.raises(SourceError, match=f"{name}: expected .*, found .*; download it again"):
            read(path)


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("content", [b"", b"<!doctype html>" * 100, b"\x1f\x8b" + bytes(100), b"\x28\xb5\x2f\xfd\xff"])
def test_what_is_no_compressed_tar_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"{name}: expected a .*tar, found .*; download it again"):
        read(tmp_path / name)


def test_no_room_for_the_unpacked_tar_is_refused(pack, monkeypatch):
    class Full(tempfile.SpooledTemporaryFile):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unpacked_tar.tempfile, "SpooledTemporaryFile", Full)
    with pytest.raises(ShardError, match="x.tgz: expected room to unpack it in .*, found none left; free some, or set"):
        read(pack("x.tgz"))


def test_a_tar_that_has_gone_or_changed_is_noticed(pack):
    path = pack("x.tar.zst")
    location = read(path)[0].location
    first = source(path).fetch(location)
    os.utime(pack("x.tar.zst"), ns=(1, 1))
    assert source(path).fetch(location) != first
    Path(path).unlink()
    with pytest.raises(SourceError, match="x.tar.zst: expected the tar that filter read, found none; put it back"):
        source(path).fetch(location)


def test_compressed_tars_behind_a_url_are_read(pack):
    publish_bytes("memory://packed/x.tar.gz", Path(pack("x.tar.gz")).read_bytes())
    pairs = read("memory://packed")
    assert len(pairs) == 10
    assert [source("memory://packed").fetch(pair.location) for pair in pairs] == [pair.image for pair in pairs]
