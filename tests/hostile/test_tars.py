import time
import tracemalloc

import pytest
from hostile_tars import BLOCK, END, FOUND, LONG_NAME, PAIR, PAX, READ, REFUSED, SPARSE, header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parti_data.errors import SourceError
from parti_data.sources import WebDatasetSource, unpacked_tar, webdataset
from parti_data.sources.pairs import RawPair
from parti_data.storage import open_file


def read(path: object) -> list[RawPair]:
    tars = WebDatasetSource(kind="webdataset", path=str(path))
    return [pair for split in tars.splits() for pair in tars.read(split, 1 << 20)]


@pytest.mark.parametrize("name", READ)
def test_an_odd_tar_gives_its_pairs_and_opens_no_other_file(tmp_path, monkeypatch, name):
    content, expected = READ[name]
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    opened = []
    monkeypatch.setattr(webdataset, "read_range", None)
    monkeypatch.setattr(unpacked_tar, "open_file", lambda place: opened.append(place) or open_file(place))
    pairs = read(path)
    assert {pair.source_key: (pair.image, pair.captions) for pair in pairs} == expected
    assert opened == [str(path)]


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_tar_is_refused_in_one_line_at_no_cost(tmp_path, name):
    content, message = REFUSED[name]
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(SourceError) as error:
            read(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: expected ")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400 + len(str(path))
    assert peak_bytes < 4 << 20
    assert time.process_time() - began < 2


@pytest.mark.parametrize("kind", [PAX, LONG_NAME, SPARSE])
def test_a_header_as_large_as_its_file_is_not_read(tmp_path, kind):
    path = tmp_path / "x.tar"
    size = 3 << 30
    with path.open("wb") as file:  # a file of holes: it takes no room on the disk
        file.write(header(b"n", size, kind))
        file.truncate(BLOCK + size)
        file.seek(0, 2)
        file.write(PAIR + END)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="an extended header of 3221225472 bytes|a sparse member"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


TARS = [content for content, _ in READ.values() if len(content) < 100_000]


@settings(max_examples=400, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_a_mutated_tar_is_read_or_refused(tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(TARS)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = BLOCK * data.draw(st.integers(0, len(content) // BLOCK - 1))
        place = data.draw(st.integers(0, BLOCK - 1))
        content[start + place] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):  # else nearly every mutation would end at the checksum
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + BLOCK])
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    path = tmp_path_factory.getbasetemp() / "mutated.tar"
    path.write_bytes(content)
    began = time.process_time()
    pairs, refusal = [], ""
    try:
        pairs = read(path)
    except SourceError as error:
        refusal = str(error)
    if refusal:
        assert refusal.isprintable()
    else:
        assert all(pair.image is None or len(pair.image) == pair.location.size for pair in pairs)
        assert all(pair.location.offset + pair.location.size <= len(content) for pair in pairs)
        assert all(pair.source_key.encode() is not None for pair in pairs)
    assert time.process_time() - began < 1


def test_the_plain_tar_is_read(tmp_path):
    (tmp_path / "x.tar").write_bytes(PAIR + END)
    assert {pair.source_key: (pair.image, pair.captions) for pair in read(tmp_path / "x.tar")} == FOUND
