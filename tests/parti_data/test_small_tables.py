import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parti_data import small_tables
from parti_data.errors import ShardError
from parti_data.small_tables import read_rows

WANTED = pa.schema([pa.field("prompt", pa.string(), nullable=False), pa.field("number", pa.int64(), nullable=False)])
LATER = pa.schema([pa.field("rank", pa.int64())])


def write(path, **columns) -> str:
    pq.write_table(pa.table(columns), path / "table.parquet")
    return str(path / "table.parquet")


def test_rows_have_the_wanted_columns_and_the_later_ones_that_there_are(tmp_path):
    path = write(tmp_path, prompt=["a", "b"], number=[1, 2], other=[0, 0])
    assert list(read_rows(path, "sample", WANTED, LATER)) == [
        {"prompt": "a", "number": 1}, {"prompt": "b", "number": 2},
    ]  # fmt: skip
    path = write(tmp_path, rank=[None, 3], prompt=["a", "b"], number=[1, 2])
    assert [row["rank"] for row in read_rows(path, "sample", WANTED, LATER)] == [None, 3]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"prompt": ["a"]}, ".*number.*"),
        ({"prompt": ["a"], "number": [1.5]}, "a column number of double"),
        ({"prompt": [["a"]], "number": [1]}, "a column prompt of list<.*>"),
        ({"prompt": ["a", None], "number": [1, 2]}, "a row without prompt"),
        ({"prompt": pa.array([b"\xff"]).view(pa.string()), "number": [1]}, ".*codec can't decode.*"),
    ],
)
def test_other_columns_are_refused(tmp_path, columns, found):
    path = write(tmp_path, **columns)
    with pytest.raises(
        ShardError, match=f"expected a table with prompt, number, found {found}; run sample into a new directory$"
    ):
        list(read_rows(path, "sample", WANTED))


@pytest.mark.parametrize("content", [None, b"", b"no", b"\4\0\0\0PAR1"])
def test_what_is_no_table_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "none.parquet").write_bytes(content)
    with pytest.raises(ShardError, match="none.parquet: expected a table with prompt, number, found .+; run sample"):
        list(read_rows(f"{tmp_path}/none.parquet", "sample", WANTED))


def test_a_table_that_would_take_too_much_memory_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, prompt=["x" * (1 << 14)], number=[0])
    whole = (tmp_path / "table.parquet").read_bytes()
    (tmp_path / "table.parquet").write_bytes(whole[:-8] + (1 << 30).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ShardError, match="expected a footer of at most 64 MiB, found 1024; sample fewer prompts into"):
        list(read_rows(path, "sample", WANTED))
    monkeypatch.setattr(small_tables, "_MAX_TABLE_BYTES", 1 << 20)
    repeated = pa.concat_tables([pq.read_table(io.BytesIO(whole))] * 2000)
    for use_dictionary in (True, False):  # a column that unpacks to much is small in both
        pq.write_table(repeated.combine_chunks(), path, use_dictionary=use_dictionary, compression="zstd")
        assert (tmp_path / "table.parquet").stat().st_size < 1 << 17
        with pytest.raises(ShardError, match="expected a table of at most 1 MiB, found (16|31); sample fewer prompts"):
            list(read_rows(path, "sample", WANTED))
    write(tmp_path, prompt=[""] * 9000, number=[0] * 9000)  # of little more than rows
    with pytest.raises(ShardError, match="expected a table of at most 1 MiB, found 1; sample fewer prompts"):
        list(read_rows(path, "sample", WANTED))
