import hashlib
import json
import math
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parti_data.errors import ShardError
from parti_data.token_shard import (
    ROW_GROUP_ROWS,
    ShardMetadata,
    TokenRow,
    order_hash,
    read_metadata,
    read_row_group,
    to_table,
    token_matrix,
    token_schema,
    write_tables,
    write_token_shard,
)


def make_metadata(codebook_size: int = 256, grid_side: int = 4, text_vocabulary_size: int = 1000) -> ShardMetadata:
    return ShardMetadata(
        image_tokenizer="ab" * 32, image_tokenizer_name="vit_vqgan", codebook_size=codebook_size, grid_side=grid_side,
        image_side=32, resize_recipe="resize_center", resize_library="pillow 1", precision="float32",
        text_tokenizer="cd" * 32, text_vocabulary_size=text_vocabulary_size, config_digest="e", input_digest="f",
    )  # fmt: skip


def make_rows(count: int, metadata: ShardMetadata, seed: int = 0) -> list[TokenRow]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, metadata.codebook_size, (count, metadata.num_tokens))
    return [
        TokenRow(
            key=hashlib.sha256(f"{seed} {number}".encode()).hexdigest()[:32],
            view=number % 2,
            box=[number, 2, 3, 4],
            flipped=number % 3 == 0,
            captions=[f"caption {number}"] + ["zwei ☃"] * (number % 2),
            text_ids=[[number % 1000, 2]] + [[5, 6, 7, 2]] * (number % 2),
            image_tokens=codes[number],
            source="synthetic",
            source_key=str(number),
        )
        for number in range(count)
    ]


def plain(rows: list[TokenRow]) -> list[dict]:
    return [row._asdict() | {"image_tokens": row.image_tokens.tolist()} for row in rows]


def read_all(path: str) -> pa.Table:
    groups = range(len(read_metadata(path)[1]))
    return pa.concat_tables([read_row_group(path, group) for group in groups])


@pytest.mark.parametrize("count", [0, 1, 300])
def test_reading_undoes_writing(tmp_path, count):
    metadata = make_metadata()
    rows = make_rows(count, metadata)
    path = f"{tmp_path}/tokens.parquet"
    write_token_shard(path, to_table(rows, metadata), metadata)
    assert read_metadata(path) == (metadata, [count])
    table = read_all(path)
    assert table.to_pylist() == plain(rows)
    np.testing.assert_array_equal(
        token_matrix(table), np.array([row.image_tokens for row in rows]).reshape(count, metadata.num_tokens)
    )


def test_row_groups_have_one_size(tmp_path):
    metadata = make_metadata(grid_side=1)
    write_token_shard(f"{tmp_path}/t", to_table(make_rows(ROW_GROUP_ROWS + 5, metadata), metadata), metadata)
    assert read_metadata(f"{tmp_path}/t")[1] == [ROW_GROUP_ROWS, 5]


def test_tables_become_row_groups_even_where_empty(tmp_path):
    metadata = make_metadata()
    tables = [to_table(make_rows(count, metadata), metadata) for count in (3, 0, 2)]
    write_tables(f"{tmp_path}/t", tables, metadata)
    assert read_metadata(f"{tmp_path}/t")[1] == [3, 0, 2]
    assert [read_row_group(f"{tmp_path}/t", group) for group in range(3)] == tables


def test_the_same_rows_give_the_same_bytes(tmp_path):
    metadata = make_metadata()
    for name in "ab":
        write_token_shard(f"{tmp_path}/{name}", to_table(make_rows(100, metadata), metadata), metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("codebook_size", "kind"), [(256, "uint16"), (65_536, "uint16"), (70_000, "uint32")])
def test_any_parquet_reader_opens_a_shard(tmp_path, codebook_size, kind):
    metadata = make_metadata(codebook_size)
    rows = make_rows(200, metadata)
    rows[0] = rows[0]._replace(image_tokens=np.full(16, codebook_size - 1))
    path = f"{tmp_path}/tokens.parquet"
    write_token_shard(path, to_table(rows, metadata), metadata)
    table = pq.read_table(path)
    assert table.to_pylist() == plain(rows)
    assert str(table.schema.field("image_tokens").type.value_type) == kind
    assert json.loads(table.schema.metadata[b"parti"]) == metadata.model_dump()
    relation = duckdb.sql(f"SELECT * FROM '{path}'")
    found = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    assert [row | {"image_tokens": list(row["image_tokens"]), "box": list(row["box"])} for row in found] == plain(rows)


def test_text_ids_take_two_bytes_where_the_vocabulary_lets_them():
    for size, kind in ((65_536, pa.uint16()), (65_537, pa.uint32())):
        assert (
            token_schema(make_metadata(text_vocabulary_size=size)).field("text_ids").type.value_type.value_type == kind
        )


def test_nothing_in_a_shard_is_nullable():
    schema = token_schema(make_metadata())
    assert not any(field.nullable for field in schema)
    for name in ("box", "captions", "text_ids", "image_tokens"):
        assert not schema.field(name).type.value_field.nullable
    assert not schema.field("text_ids").type.value_type.value_field.nullable


@pytest.mark.parametrize(("codebook_size", "grid_side", "count"), [(256, 8, 4096), (1024, 8, 4096), (8192, 32, 512)])
def test_uniform_tokens_take_hardly_more_than_their_bits(tmp_path, codebook_size, grid_side, count):
    metadata = make_metadata(codebook_size, grid_side)
    codes = np.random.default_rng(0).integers(0, codebook_size, (count, metadata.num_tokens))
    rows = [
        row._replace(image_tokens=row_codes) for row, row_codes in zip(make_rows(count, metadata), codes, strict=True)
    ]
    write_token_shard(f"{tmp_path}/t", to_table(rows, metadata), metadata)
    footer = pq.ParquetFile(f"{tmp_path}/t").metadata
    groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
    columns = [group.column(n) for group in groups for n in range(group.num_columns)]
    num_bytes = sum(c.total_compressed_size for c in columns if c.path_in_schema.startswith("image_tokens"))
    bits = 8 * num_bytes / codes.size
    assert bits <= 1.05 * math.ceil(math.log2(codebook_size))


def test_only_the_key_has_statistics(tmp_path):
    metadata = make_metadata()
    write_token_shard(f"{tmp_path}/t", to_table(make_rows(10, metadata), metadata), metadata)
    group = pq.ParquetFile(f"{tmp_path}/t").metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    assert [column.path_in_schema for column in columns if column.is_stats_set] == ["key"]


def read_unchecked(path: Path) -> pa.Table | None:
    """What a reader that ignores the checksums takes the file to hold."""
    try:
        return pq.ParquetFile(path).read_row_group(0)
    except (OSError, pa.ArrowInvalid):
        return None


def test_no_flipped_byte_changes_what_is_read(tmp_path):
    metadata = make_metadata()
    path = tmp_path / "t"
    table = to_table(make_rows(200, metadata), metadata)
    write_token_shard(str(path), table, metadata)
    whole = path.read_bytes()
    group = pq.ParquetFile(path).metadata.row_group(0)
    refused, misread_unchecked = 0, 0
    end = 4 + sum(group.column(number).total_compressed_size for number in range(group.num_columns))
    for place in range(4, end, 7):
        spoiled = bytearray(whole)
        spoiled[place] ^= 0x10
        path.write_bytes(spoiled)
        unchecked = read_unchecked(path)
        misread_unchecked += unchecked is not None and unchecked != table
        try:
            assert read_row_group(str(path), 0) == table, place  # a byte that decides nothing, as of a statistic
        except ShardError:
            refused += 1
    assert misread_unchecked > 100
    assert refused >= misread_unchecked


def test_a_row_group_that_is_not_there_is_refused(tmp_path):
    metadata = make_metadata()
    write_token_shard(f"{tmp_path}/t", to_table(make_rows(2, metadata), metadata), metadata)
    (tmp_path / "cut").write_bytes((tmp_path / "t").read_bytes()[:-1])
    for name in ("cut", "none"):
        with pytest.raises(ShardError, match=f"{name}: expected row group 0, found"):
            read_row_group(f"{tmp_path}/{name}", 0)
        with pytest.raises(ShardError, match=f"{name}: expected a token shard, found .*; run tokenize again"):
            read_metadata(f"{tmp_path}/{name}")


def write_with(path: Path, schema: pa.Schema, content: object) -> None:
    table = schema.empty_table()
    pq.write_table(table.replace_schema_metadata({"parti": json.dumps(content)} if content else None), path)


def test_another_parquet_file_is_refused(tmp_path):
    for content in (None, {"format_version": 1}, [1]):
        write_with(tmp_path / "t", token_schema(make_metadata()), content)
        with pytest.raises(ShardError, match="found a Parquet file without the metadata 'parti'; check the path"):
            read_metadata(f"{tmp_path}/t")


def test_another_format_version_is_refused(tmp_path):
    write_with(tmp_path / "t", token_schema(make_metadata()), make_metadata().model_dump() | {"format_version": 2})
    with pytest.raises(ShardError, match="t: expected format version 1, found 2"):
        read_metadata(f"{tmp_path}/t")


def test_other_columns_are_refused(tmp_path):
    schema = token_schema(make_metadata()).remove(1)
    write_with(tmp_path / "t", schema, make_metadata().model_dump())
    with pytest.raises(ShardError, match="expected the columns of a token shard, found key, box, flipped"):
        read_metadata(f"{tmp_path}/t")


def test_the_order_depends_on_key_view_and_seed_and_never_changes():
    assert order_hash("00" * 16, 0, 0) == 4389881924163690112
    assert order_hash("00" * 16, 1, 0) == 10603316056595679746
    assert order_hash("00" * 16, 0, 1) == 18190645573003677240
