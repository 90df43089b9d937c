import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_tokens import draw_tokens, write_dalle_mini

from parti_data.errors import SourceError
from parti_data.token_sources import DalleMiniSource
from parti_data.token_sources.tokenized import Fault, TokenizedImage

TOKENS = draw_tokens(200, num_tokens=256)
CAPTIONS = [f"number {number}" for number in range(200)]


def source(path: object, **options) -> DalleMiniSource:
    return DalleMiniSource(kind="dalle_mini", path=str(path), **options)


def read(found: DalleMiniSource, images_a_slice: int = 1000) -> list[TokenizedImage]:
    return [image for part in found.slices(images_a_slice).slices for image in found.read(part)]


@pytest.mark.parametrize("images_a_slice", [1, 7, 64, 1000])
def test_slices_hold_every_row_once(tmp_path, images_a_slice):
    write_dalle_mini(tmp_path / "001.parquet", list(TOKENS[:150]), CAPTIONS[:150])
    write_dalle_mini(tmp_path / "002.parquet", list(TOKENS[150:]), CAPTIONS[150:])
    found = source(tmp_path)
    listing, images = found.slices(images_a_slice), read(found, images_a_slice)
    assert listing.num_images == len(images) == 200
    assert max(part.num_images for part in listing.slices) <= images_a_slice
    assert [image.captions for image in images] == [[caption] for caption in CAPTIONS]
    np.testing.assert_array_equal(np.stack([image.tokens for image in images]), TOKENS)  # type: ignore[arg-type]
    assert (images[3].source_key, images[153].source_key) == ("00000003", "00000003")


@pytest.mark.parametrize("items", [pa.int64(), pa.uint16(), pa.int32()])
@pytest.mark.parametrize("lists", [pa.list_, pa.large_list, lambda items: pa.list_(items, 256)])
def test_every_list_of_integers_is_read(tmp_path, items, lists):
    column = pa.array(list(TOKENS[:5]), lists(items))
    table = pa.table({"text": [["a", "b"]] * 5, "codes": column, "extra": [1.5] * 5})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    images = read(source(tmp_path, caption_column="text", encoding_column="codes"), 3)
    np.testing.assert_array_equal(np.stack([image.tokens for image in images]), TOKENS[:5])  # type: ignore[arg-type]
    assert images[4].captions == ["a", "b"]


def test_nulls_are_faults(tmp_path):
    encodings = pa.array([None, [1, None], []], pa.list_(pa.int64()))
    pq.write_table(pa.table({"caption": [None, "a", "b"], "encoding": encodings}), tmp_path / "a.parquet")
    first, second, third = read(source(tmp_path))
    assert (first.tokens, first.captions) == (Fault("no_tokens", "a null"), Fault("no_caption", "no text"))
    assert second.tokens == Fault("no_tokens", "1 nulls among 2 codes")
    assert isinstance(third.tokens, np.ndarray)
    assert third.tokens.shape == (0,)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[0.5]]), r"expected lists of integers in column 'encoding', found list<element: double>; set"),
        (pa.array(["[1, 2]"]), r"expected lists of integers in column 'encoding', found string; set source.encoding"),
        (pa.array([[[1]]]), r"expected lists of integers in column 'encoding', found list<"),
    ],
)
def test_another_column_is_refused(tmp_path, column, message):
    pq.write_table(pa.table({"caption": ["a"], "encoding": column}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=message):
        source(tmp_path).slices(10)


def test_a_column_without_texts_is_refused(tmp_path):
    pq.write_table(pa.table({"caption": [1], "encoding": [[1]]}), tmp_path / "a.parquet")
    message = "expected texts in column 'caption', found int64; set source.caption_column$"
    with pytest.raises(SourceError, match=message):
        source(tmp_path).slices(10)


def test_missing_columns_and_files_are_refused(tmp_path):
    with pytest.raises(SourceError, match=r"\*.parquet: expected Parquet files, found none; check source.path"):
        source(tmp_path).slices(10)
    write_dalle_mini(tmp_path / "a.parquet", [[1]], ["a"])
    with pytest.raises(SourceError, match="did you mean 'encoding'"):
        source(tmp_path, encoding_column="encodings").slices(10)
    with pytest.raises(SourceError, match="did you mean 'caption'"):
        source(tmp_path, caption_column="captions").slices(10)


def test_a_torn_file_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write_dalle_mini(path, list(TOKENS), CAPTIONS)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match="a.parquet: expected a whole Parquet file, found"):
        source(tmp_path).slices(10)


def test_a_few_long_rows_are_held_at_a_time(tmp_path):
    codes = pa.array(np.zeros(64 << 18, np.int64))
    encodings = pa.ListArray.from_arrays(pa.array(np.arange(65, dtype=np.int32) << 18), codes)
    pq.write_table(pa.table({"caption": ["a"] * 64, "encoding": encodings}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 14
    found, before = source(tmp_path), pa.total_allocated_bytes()
    (part,) = found.slices(1000).slices
    held = [pa.total_allocated_bytes() - before for _ in found.read(part)]
    assert len(held) == 64
    assert max(held) < 32 << 20  # two MiB a row, of 128


def test_more_rows_than_bytes_are_refused(tmp_path):
    encodings = pa.array([[]] * 500_000, pa.list_(pa.int64()))
    pq.write_table(pa.table({"caption": ["a"] * 500_000, "encoding": encodings}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a.parquet: expected rows of a byte at least, found 500000 rows in \d+ by"):
        source(tmp_path).slices(10)
