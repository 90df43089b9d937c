import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parti_data.errors import ShardError
from parti_data.parquet_pages import Page, read_pages


def write(path: Path, **writing) -> pq.ColumnChunkMetaData:
    table = pa.table({"n": pa.array(range(5000), pa.int32())})
    pq.write_table(table, path, **{"use_dictionary": False, "write_page_checksum": True} | writing)
    return pq.read_metadata(path).row_group(0).column(0)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(
    ("writing", "pages"),
    [
        ({}, [Page("data", "PLAIN", True)]),
        ({"write_page_checksum": False}, [Page("data", "PLAIN", False)]),
        ({"column_encoding": {"n": "DELTA_BINARY_PACKED"}}, [Page("data", "DELTA_BINARY_PACKED", True)]),
        (
            {"use_dictionary": True, "write_statistics": False},
            [Page("dictionary", "PLAIN", True), Page("data", "RLE_DICTIONARY", True)],
        ),
    ],
)
def test_pages_say_what_they_were_written_as(tmp_path, version, writing, pages):
    column = write(tmp_path / "t", data_page_version=version, **writing)
    assert list(read_pages(f"{tmp_path}/t", column)) == pages


def test_a_dictionary_that_grew_too_large_is_seen(tmp_path):
    column = write(tmp_path / "t", use_dictionary=True, dictionary_pagesize_limit=4000, write_batch_size=500)
    found = [page.encoding for page in read_pages(f"{tmp_path}/t", column) if page.kind == "data"]
    assert found == ["RLE_DICTIONARY", "PLAIN"]


def test_all_of_many_pages_are_found(tmp_path):
    column = write(tmp_path / "t", data_page_size=2000, write_batch_size=100)
    assert len(list(read_pages(f"{tmp_path}/t", column))) > 5


def test_other_bytes_are_refused_and_nothing_else_happens(tmp_path):
    path = tmp_path / "t"
    column, whole, rng = write(path), path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        content[4:40] = rng.randbytes(36)
        path.write_bytes(content)
        try:
            list(read_pages(str(path), column))
        except ShardError as error:
            assert f"{path}: expected a page at byte" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 250
    path.write_bytes(whole[:10])
    with pytest.raises(ShardError, match="expected a page at byte 4, found other bytes; run tokenize again"):
        list(read_pages(str(path), column))


@pytest.mark.parametrize(
    "header",
    [
        b"\x15\x00\x15\x00\x18\x00\x2c\x15\x00\x15\x00\x00\x00",  # a size that is text
        b"\x15\x00\x15\x00\x15\x08\x2c\x15\x00\x1c\x00\x00\x00",  # an encoding that is a struct
        b"\x1c\x00\x15\x00\x15\x08\x2c\x15\x00\x15\x00\x00\x00",  # a kind that is one
    ],
)
def test_numbers_of_other_types_are_refused(tmp_path, header):
    path = tmp_path / "t"
    column = write(path)
    content = bytearray(path.read_bytes())
    content[4 : 4 + len(header)] = header
    path.write_bytes(content)
    with pytest.raises(ShardError, match="expected a page at byte 4, found other bytes; run tokenize again"):
        list(read_pages(str(path), column))
