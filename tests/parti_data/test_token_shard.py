import hashlib
import json
import math
from pathlib import Path

import datasets
import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parti_data.errors import ShardError
from parti_data.parquet_pages import read_pages
from parti_data.token_shard import (
    ROW_GROUP_ROWS,
    ShardMetadata,
    TokenRow,
    order_hash,
    read_metadata,
    read_row_group,
    to_table,
    token_encoding,
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


def read_by_pyarrow(path: str, cache: str) -> list[dict]:
    return pq.read_table(path).to_pylist()


def read_by_duckdb(path: str, cache: str) -> list[dict]:
    relation = duckdb.sql(f"SELECT * FROM '{path}'")
    rows = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    return [row | {"image_tokens": list(row["image_tokens"]), "box": list(row["box"])} for row in rows]


def read_by_polars(path: str, cache: str) -> list[dict]:
    return polars.read_parquet(path).to_dicts()


def read_by_datasets(path: str, cache: str) -> list[dict]:
    return datasets.Dataset.from_parquet(path, cache_dir=cache).to_list()


@pytest.fixture(autouse=True)
def no_bars():
    datasets.disable_progress_bars()


@pytest.mark.parametrize("read", [read_by_pyarrow, read_by_duckdb, read_by_polars, read_by_datasets])
@pytest.mark.parametrize(
    ("codebook_size", "vocabulary_size", "kind", "encoding"),
    [
        (256, 1000, pa.uint16(), "RLE_DICTIONARY"),
        (65_536, 65_537, pa.uint16(), "DELTA_BINARY_PACKED"),
        (70_000, 1000, pa.uint32(), "DELTA_BINARY_PACKED"),
    ],
)
def test_any_parquet_reader_opens_a_shard(tmp_path, read, codebook_size, vocabulary_size, kind, encoding):
    metadata = make_metadata(codebook_size, text_vocabulary_size=vocabulary_size)
    rows = make_rows(200, metadata)
    rows[0] = rows[0]._replace(image_tokens=np.full(16, codebook_size - 1), text_ids=[[vocabulary_size - 1]])
    assert {len(row.captions) for row in rows} == {1, 2}
    assert {row.view for row in rows} == {0, 1}
    path = f"{tmp_path}/tokens.parquet"
    write_token_shard(path, to_table(rows, metadata), metadata)
    assert read(path, f"{tmp_path}/cache") == plain(rows)
    assert pq.read_schema(path).field("image_tokens").type.value_type == kind
    assert encoding in column_of(path, "image_tokens").encodings


def column_of(path: str, name: str) -> pq.ColumnChunkMetaData:
    """The first row group's column that holds a column's items."""
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    return next(column for column in columns if column.path_in_schema.split(".")[0] == name)


def test_foreign_readers_see_the_types_of_the_page_on_the_format(tmp_path):
    metadata = make_metadata()
    path = f"{tmp_path}/tokens.parquet"
    write_token_shard(path, to_table(make_rows(3, metadata), metadata), metadata)
    table = pq.read_table(path)
    assert json.loads(table.schema.metadata[b"parti"]) == metadata.model_dump()
    assert str(table.schema.field("image_tokens").type) == "fixed_size_list<element: uint16 not null>[16]"
    relation = duckdb.sql(f"SELECT view, text_ids, image_tokens FROM '{path}'")
    assert [str(kind) for kind in relation.types] == ["UTINYINT", "USMALLINT[][]", "USMALLINT[]"]
    assert polars.read_parquet_schema(path)["image_tokens"] == polars.Array(polars.UInt16, 16)
    features = datasets.Dataset.from_parquet(path, cache_dir=f"{tmp_path}/cache").features
    assert features["image_tokens"] == datasets.List(datasets.Value("uint16"), length=16)


@pytest.mark.parametrize(
    ("num_codes", "grid_side", "encoding"),
    [
        (8192, 32, "RLE_DICTIONARY"),
        (512 * 16, 4, "RLE_DICTIONARY"),
        (512 * 16 + 1, 4, "DELTA_BINARY_PACKED"),
        (262_144, 32, "RLE_DICTIONARY"),
        (262_144, 16, "DELTA_BINARY_PACKED"),
        (1 << 32, 32, "DELTA_BINARY_PACKED"),
    ],
)
def test_the_encoding_depends_on_codes_a_token(num_codes, grid_side, encoding):
    assert token_encoding(make_metadata(num_codes, grid_side)) == encoding


def test_a_dictionary_of_all_codes_does_not_fall_back(tmp_path):
    metadata = make_metadata(1 << 18, 23)
    assert token_encoding(metadata) == "RLE_DICTIONARY"
    rows = make_rows(1000, metadata)
    every = np.arange(1000 * 529, dtype=np.uint32).reshape(1000, 529) % (1 << 18)
    rows = [row._replace(image_tokens=codes) for row, codes in zip(rows, every, strict=True)]
    write_token_shard(f"{tmp_path}/t", to_table(rows, metadata), metadata)
    pages = list(read_pages(f"{tmp_path}/t", column_of(f"{tmp_path}/t", "image_tokens")))
    assert {page.encoding for page in pages if page.kind == "data"} == {"RLE_DICTIONARY"}


def test_every_page_has_a_checksum_and_the_encoding_of_the_format(tmp_path):
    metadata = make_metadata()
    write_token_shard(f"{tmp_path}/t", to_table(make_rows(300, metadata), metadata), metadata)
    for name in token_schema(metadata).names:
        pages = list(read_pages(f"{tmp_path}/t", column_of(f"{tmp_path}/t", name)))
        assert all(page.has_checksum for page in pages)
        expected = ["RLE_DICTIONARY"] if name == "image_tokens" else ["PLAIN"]
        assert [page.encoding for page in pages if page.kind == "data"] == expected


def ragged(metadata: ShardMetadata, tokens: object) -> list[TokenRow]:
    rows = make_rows(3, metadata)
    return [*rows[:2], rows[2]._replace(image_tokens=tokens)]


@pytest.mark.parametrize(
    ("tokens", "fault"),
    [
        (np.zeros(15, int), "expected 16 image tokens, found 15; make the metadata and the rows by one tokenizer"),
        (np.zeros((4, 4), int), "expected 16 image tokens, found 4 x 4"),
        (7, "expected 16 image tokens, found one number"),
        (np.full(16, 0.5), "expected whole numbers as image tokens, found float64"),
        (np.array([None] * 16), "expected whole numbers as image tokens, found object"),
        (np.array([*range(15), 256]), "expected image tokens from 0 to 255, found 256"),
        (np.array([*range(15), -1]), "expected image tokens from 0 to 255, found -1"),
        (np.array([*range(15), -1], np.int8), "expected image tokens from 0 to 255, found -1"),
        (np.array([*range(15), 1 << 63], np.uint64), "expected image tokens from 0 to 255, found 9223372036854775808"),
    ],
)
def test_a_row_whose_tokens_do_not_fit_is_refused_by_its_key(tokens, fault):
    metadata = make_metadata()
    rows = ragged(metadata, tokens)
    if getattr(tokens, "dtype", None) == np.uint64:
        rows = [row._replace(image_tokens=np.asarray(row.image_tokens, np.uint64)) for row in rows]
    with pytest.raises(ShardError, match=f"^row {rows[2].key}: {fault}"):
        to_table(rows, metadata)


def test_tables_that_do_not_fit_are_refused_by_key_before_anything_is_written(tmp_path):
    metadata = make_metadata()
    rows = make_rows(5, metadata)
    table, key = to_table(rows, metadata), rows[3].key

    def with_column(name: str, values: list, kind: pa.DataType | None = None) -> pa.Table:
        place = table.schema.get_field_index(name)
        kind = kind or table.schema.field(name).type
        return table.set_column(place, pa.field(name, kind, nullable=False), pa.array(values, kind))

    def third(name: str, value: object) -> list:
        values = table.column(name).to_pylist()
        return [*values[:3], value, *values[4:]]

    tokens_list = pa.list_(pa.field("element", pa.uint16(), nullable=False))
    for wrong, fault in (
        (with_column("image_tokens", third("image_tokens", None)), f"row {key}: expected no null in image_tokens"),
        (with_column("image_tokens", third("image_tokens", [None] * 16)), f"row {key}: expected no null in image_to"),
        (with_column("text_ids", third("text_ids", [[5], [6, None]])), f"row {key}: expected no null in text_ids"),
        (with_column("captions", third("captions", [None])), f"row {key}: expected no null in captions, found one"),
        (with_column("view", third("view", None)), f"row {key}: expected no null in view"),
        (with_column("image_tokens", third("image_tokens", [256] * 16)), f"row {key}: expected image tokens from 0"),
        (
            with_column("image_tokens", third("image_tokens", [1] * 17), tokens_list),
            f"row {key}: expected 16 image tokens, found 17",
        ),
        (
            with_column("image_tokens", table.column("image_tokens").to_pylist(), tokens_list),
            "expected pyarrow.Field<image_tokens: fixed_size_list",
        ),
        (table.drop_columns(["box"]), "expected a column box, found none"),
        (table.append_column("more", table.column("key")), "expected the columns key, view, box, .*, found .*, more"),
    ):
        with pytest.raises(ShardError, match=f"t.parquet: {fault}"):
            write_tables(f"{tmp_path}/t.parquet", [table, wrong], metadata)
    assert list(tmp_path.iterdir()) == []


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


def token_bytes_a_row(path: str, metadata: ShardMetadata, codes: np.ndarray) -> float:
    """How many bytes the column of tokens takes."""
    rows = [row._replace(image_tokens=one) for row, one in zip(make_rows(len(codes), metadata), codes, strict=True)]
    write_token_shard(path, to_table(rows, metadata), metadata)
    footer = pq.ParquetFile(path).metadata
    groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
    columns = [group.column(n) for group in groups for n in range(group.num_columns)]
    return sum(c.total_compressed_size for c in columns if c.path_in_schema.startswith("image_tokens")) / len(codes)


@pytest.mark.parametrize(
    ("codebook_size", "grid_side", "count", "overhead"),
    [
        (256, 8, 4096, 1.02),
        (1024, 8, 4096, 1.02),
        (8192, 32, 512, 1.03),
        (65_536, 8, 4096, 1.1),
        (1 << 18, 8, 4096, 1.1),
    ],
)
def test_uniform_tokens_take_hardly_more_than_their_bits(tmp_path, codebook_size, grid_side, count, overhead):
    metadata = make_metadata(codebook_size, grid_side)
    codes = np.random.default_rng(0).integers(0, codebook_size, (count, metadata.num_tokens))
    found = token_bytes_a_row(f"{tmp_path}/t", metadata, codes)
    assert 8 * found / metadata.num_tokens <= overhead * math.log2(codebook_size)


def test_a_row_of_1024_tokens_of_8192_codes_takes_so_many_bytes(tmp_path):
    metadata, count = make_metadata(8192, 32), 1024
    dictionary = 8192 * 2.5 / count - 8192 * 2.5 / ROW_GROUP_ROWS  # what a full row group spreads over more rows
    rng = np.random.default_rng(0)
    uniform = rng.integers(0, 8192, (count, 1024))
    assert token_bytes_a_row(f"{tmp_path}/t", metadata, uniform) - dictionary <= 1690
    shares = 1 / np.arange(1, 8193)
    zipf = rng.permutation(8192)[rng.choice(8192, (count, 1024), p=shares / shares.sum())]
    assert token_bytes_a_row(f"{tmp_path}/t", metadata, zipf) - dictionary <= 1520


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
    write_with(tmp_path / "t", token_schema(make_metadata()), None)
    with pytest.raises(ShardError, match="found a Parquet file without the metadata 'parti'; check the path"):
        read_metadata(f"{tmp_path}/t")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"format_version": 1}, "image_tokenizer: Field required"),
        ([1], "Input should be a valid dictionary"),
        (make_metadata().model_dump() | {"codebook_size": 0}, "codebook_size: Input should be greater than or equal"),
        (make_metadata().model_dump() | {"grid_side": 1 << 20}, "grid_side: Input should be less than or equal to"),
    ],
)
def test_metadata_that_are_none_of_a_token_shard_are_refused(tmp_path, content, fault):
    write_with(tmp_path / "t", token_schema(make_metadata()), content)
    with pytest.raises(ShardError, match=f"t: expected a token shard, found metadata 'parti' that .* \\({fault}"):
        read_metadata(f"{tmp_path}/t")


def test_metadata_that_are_no_json_are_refused(tmp_path):
    table = token_schema(make_metadata()).empty_table().replace_schema_metadata({"parti": "{"})
    pq.write_table(table, tmp_path / "t")
    with pytest.raises(ShardError, match="found metadata 'parti' that say otherwise \\(Expecting"):
        read_metadata(f"{tmp_path}/t")


def test_another_format_version_is_refused(tmp_path):
    write_with(tmp_path / "t", token_schema(make_metadata()), {"format_version": 2})
    with pytest.raises(ShardError, match="t: expected format version 1, found 2; use a parti that knows it"):
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
