import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parti_data.errors import SourceError
from parti_data.ledger import PairDirectory
from parti_data.sources import ParquetSource
from parti_data.sources import parquet as sources
from parti_data.sources.pairs import Location, RawPair
from parti_data.sources.parquet_rows import ParquetRows
from parti_data.storage import publish_bytes
from pipelines.filter import FilterConfig, filter_pairs

HUGGING_FACE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def source(path: object, **options) -> ParquetSource:
    return ParquetSource(kind="parquet", path=str(path), **options)


def read(path: object, max_image_bytes: int = 1 << 20, **options) -> list[RawPair]:
    pairs = source(path, **options)
    return [pair for split in pairs.splits() for pair in pairs.read(split, max_image_bytes)]


@pytest.fixture
def write(tmp_path) -> Callable[..., str]:
    """Write columns as a Parquet file and return its path."""

    def write(columns: dict[str, object], name: str = "x.parquet", **options) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, **options)
        return str(path)

    return write


def images(count: int, size: int = 10) -> list[bytes]:
    return [np.random.default_rng(number).bytes(size) for number in range(count)]


@contextmanager
def counting_pool() -> Iterator[pa.MemoryPool]:
    """A pool for all that Arrow allocates in the block."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(before)


@pytest.mark.parametrize("kind", [HUGGING_FACE, pa.struct([("path", pa.string()), ("bytes", pa.large_binary())]),
                                  pa.binary(), pa.large_binary(), pa.binary_view()])  # fmt: skip
def test_images_are_bytes_or_structs_with_bytes(write, kind):
    contents = [b"one", None, b"", b"three"]
    stated = [{"bytes": content, "path": "p"} for content in contents] if pa.types.is_struct(kind) else contents
    path = write({"image": pa.array(stated, kind), "text": ["a", "b", "c", "d"]})
    assert read(path) == [
        RawPair("00000000", Location(path, 0, 3), b"one", ["a"], {}),
        RawPair("00000001", Location(path, 1, 0), None, ["b"], {}),
        RawPair("00000002", Location(path, 2, 0), b"", ["c"], {}),
        RawPair("00000003", Location(path, 3, 5), b"three", ["d"], {}),
    ]


def test_a_null_struct_is_a_missing_image(write):
    path = write({"image": pa.array([None, {"bytes": b"x"}], HUGGING_FACE), "text": ["a", "b"]})
    assert [pair.image for pair in read(path)] == [None, b"x"]


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pa.array(["a", None]), [["a"], []]),
        (pa.array(["a", None], pa.large_string()), [["a"], []]),
        (pa.array(["a", None], pa.string_view()), [["a"], []]),
        (pa.array(["a", None]).dictionary_encode(), [["a"], []]),
        (pa.array([b"caf\xe9", None], pa.binary()), [["caf�"], []]),
        (pa.array([["a", None, "b"], None]), [["a", "b"], []]),
        (pa.array([["a"], []], pa.large_list(pa.large_string())), [["a"], []]),
        (pa.array([["a", "b"], [None, "c"]], pa.list_(pa.string(), 2)), [["a", "b"], ["c"]]),
    ],
)
def test_captions_are_texts_or_lists_of_them(write, column, found):
    path = write({"image": images(2), "caption": column})
    assert [pair.captions for pair in read(path)] == found


def test_several_caption_columns_are_taken_in_their_order(write):
    path = write({"image": images(1), "a": ["one"], "text": ["two"], "b": [["three", "four"]]})
    assert read(path, caption_columns=["b", "a"])[0].captions == ["three", "four", "one"]
    assert read(path, caption_columns=["b", "a"])[0].fields == {"text": "two"}


def test_texts_that_are_not_utf8_or_very_long_are_still_texts(write):
    texts = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"x" * (2 << 20)], pa.binary()).buffers())
    path = write({"image": images(2), "text": texts, "also": texts})
    assert [pair.captions for pair in read(path)] == [["caf�"], ["x" * (1 << 20)]]
    assert [pair.fields["also"] for pair in read(path)] == ["caf�", "x" * (1 << 20)]


def test_the_other_columns_of_scalars_go_with_the_pair(write):
    others = {
        "url": ["http://x"], "similarity": np.array([0.5], np.float32), "id": np.array([1 << 63], np.uint64),
        "safe": [True], "none": pa.array([None], pa.string()), "nan": [float("nan")],
        "kind": pa.array(["k"]).dictionary_encode(), "list": [[1]], "struct": [{"a": 1}], "bytes": [b"x"],
        "when": pa.array([0], pa.timestamp("s")),
    }  # fmt: skip
    (pair,) = read(write({"image": images(1), "text": ["a"], **others}))
    assert pair.fields == {"url": "http://x", "similarity": 0.5, "id": 1 << 63, "safe": True, "kind": "k"}


def test_only_the_columns_that_are_needed_are_read(write, monkeypatch):
    asked = []
    batches = ParquetRows.batches
    monkeypatch.setattr(ParquetRows, "batches", lambda rows, names: asked.append(names) or batches(rows, names))
    read(write({"emb": [[1.0]], "image": pa.array([{"bytes": b"x"}], HUGGING_FACE), "text": ["a"], "raw": [b"x"]}))
    assert asked == [["image.bytes", "text"]]


def test_an_image_over_the_limit_is_cut_one_byte_behind_it(write):
    path = write({"image": [b"image"], "text": ["a"]})
    for limit, image in ((3, b"imag"), (4, b"image"), (5, b"image")):
        (pair,) = read(path, max_image_bytes=limit)
        assert (pair.image, pair.location.size) == (image, 5)


@pytest.mark.parametrize("options", [{}, {"row_group_size": 7}, {"use_dictionary": False, "compression": "zstd"}])
def test_a_location_gives_the_bytes_again_in_any_order(write, options):
    path = write({"image": images(100, 50_000), "text": ["a"] * 100}, **options)
    pairs = read(path)
    order = [*range(100), *range(99, -1, -7), 3, 3, 99, 0, 50, 51, 49]
    assert [source(path).fetch(pairs[row].location) for row in order] == [pairs[row].image for row in order]


@pytest.mark.parametrize(("order", "decoded"), [(range(100), (100, 100)), ((0, 95, 3, 96), (4, 60))])
def test_fetching_in_order_decodes_each_row_once_and_a_jump_its_row_group_alone(write, monkeypatch, order, decoded):
    path = write({"image": images(100, 50_000), "text": ["a"] * 100}, row_group_size=10)
    pairs = read(path)
    rows = []
    batches = ParquetRows.batches

    def count(*arguments) -> Iterator:
        for batch in batches(*arguments):
            rows.append(batch.columns.num_rows)
            yield batch

    monkeypatch.setattr(ParquetRows, "batches", count)
    for row in order:
        assert source(path).fetch(pairs[row].location) == pairs[row].image
    assert decoded[0] <= sum(rows) <= decoded[1]


def test_threads_fetch_at_once(write):
    path = write({"image": images(200, 5000), "text": ["a"] * 200}, row_group_size=30)
    pairs, wrong = read(path), []

    def fetch(first: int) -> None:
        wrong.extend(pair for pair in pairs[first::4] if source(path).fetch(pair.location) != pair.image)

    threads = [threading.Thread(target=fetch, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_file_that_changed_is_not_fetched_from_what_was_kept(write):
    path = write({"image": [b"one"], "text": ["a"]})
    location = read(path)[0].location
    assert source(path).fetch(location) == b"one"
    os.utime(write({"image": [b"two"], "text": ["a"]}), ns=(1, 1))
    assert source(path).fetch(location) == b"two"


def test_much_less_than_the_file_is_held(tmp_path):
    path = tmp_path / "x.parquet"
    contents = images(300, 100_000)
    table = pa.table({"image": pa.array([{"bytes": image} for image in contents], HUGGING_FACE), "text": ["a"] * 300})
    pq.write_table(table, path, write_batch_size=4)  # some images a page: the default is all of them
    assert path.stat().st_size > 28 << 20
    assert pq.read_metadata(path).num_row_groups == 1
    del table
    tracemalloc.start()
    with counting_pool() as pool:
        for number, pair in enumerate(read_one_by_one(path)):
            assert pair.image == contents[number]
    python_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == 299
    assert 1 << 20 < (pool.max_memory() or 0) < 8 << 20
    assert python_peak < 8 << 20


def read_one_by_one(path: object) -> Iterator[RawPair]:
    pairs = source(path)
    for split in pairs.splits():
        yield from pairs.read(split, 1 << 20)


def test_one_image_that_a_dictionary_repeats_does_not_fill_the_memory(write):
    columns = {"image": [bytes(8 << 20)] * 50, "text": ["a"] * 50}
    path = write(columns, dictionary_pagesize_limit=1 << 30, compression="zstd")
    assert Path(path).stat().st_size < 10_000
    with counting_pool() as pool:
        assert sum(len(pair.image) for pair in read_one_by_one(path)) == 50 * ((1 << 20) + 1)
    assert (pool.max_memory() or 0) < 100 << 20


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"imgae": [b""], "text": [""]}, {}, "expected a column 'image', found 'imgae', 'text'; did you mean 'imgae'"
         "\\? set source.image_column"),
        ({"image": [b""], "txt": [""]}, {}, "expected a column 'text', found 'image', 'txt'; did you mean 'txt'\\? set "
         "source.caption_columns"),
        ({"image": [b""], "text": [""]}, {"caption_columns": ["texts"]}, "expected a column 'texts'.* mean 'text'"),
        ({"image": ["a.jpg"], "text": [""]}, {}, "expected bytes, or structs with a field 'bytes', in column 'image', "
         "found string; set source.image_column, or read a table of paths with source.kind=table"),
        ({"image": [{"path": "x"}], "text": [""]}, {}, "expected bytes, .* found struct<path: string>"),
        ({"image": [b""], "text": [1]}, {}, "expected texts in column 'text', found int64; set source.caption_columns"),
    ],
)  # fmt: skip
def test_columns_that_are_not_there_or_hold_something_else_are_refused(write, columns, options, message):
    with pytest.raises(SourceError, match=f"x.parquet: {message}"):
        read(write(columns), **options)


def test_a_column_that_is_needed_and_comes_twice_is_refused(tmp_path):
    def write(names: list[str]) -> str:
        columns = [pa.array([b"one"] if name == "image" else ["t"]) for name in names]
        pq.write_table(pa.Table.from_arrays(columns, names), tmp_path / "x.parquet")
        return str(tmp_path / "x.parquet")

    for name in ("image", "text"):
        with pytest.raises(
            SourceError, match=f"expected one column '{name}', found 2 of that name; rename all but one"
        ):
            read(write(["image", "text", name]))
    (pair,) = read(write(["image", "text", "a", "b", "a"]))
    assert (pair.captions, pair.fields) == (["t"], {"b": "t"})


@pytest.mark.parametrize("content", [b"", b"x" * 3, b"PAR1", b"x" * 5000, b"PAR1" + bytes(100) + b"PAR1"])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(SourceError, match="x.parquet: expected a whole Parquet file, found .*; download it again"):
        read(tmp_path / "x.parquet")


def test_a_torn_file_is_refused_wherever_it_is_torn(write):
    path = Path(write({"image": images(50, 2000), "text": ["a"] * 50}, compression="zstd", write_page_checksum=True))
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:size])
        with pytest.raises(SourceError, match="x.parquet: expected a whole Parquet file, found .*; download it again"):
            read(path)


def test_a_spoiled_byte_is_refused_or_changes_nothing(write):
    path = Path(write({"image": images(50, 2000), "text": ["a"] * 50}, compression="zstd", write_page_checksum=True))
    whole, before, num_refused = path.read_bytes(), read(path), 0
    for place in range(100, len(whole) - 2000, len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = read(path)
        except SourceError:
            num_refused += 1
        else:
            assert found == before, place  # Parquet's checksums leave out the statistics of a page
    assert num_refused > 30


def test_a_spoiled_footer_is_refused_or_the_rows_are_all_there(write):
    path = Path(write({"image": images(20, 100), "text": ["a"] * 20}, compression="zstd", row_group_size=7))
    whole, random = path.read_bytes(), np.random.default_rng(0)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    num_refused = 0
    for place, value in zip(random.integers(footer, len(whole) - 8, 300), random.bytes(300), strict=True):
        path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        try:
            assert len(read(path)) == 20
        except SourceError:
            num_refused += 1
    assert num_refused > 50


def test_a_file_with_fewer_rows_than_it_says_is_refused(write, monkeypatch):
    path = write({"image": images(20), "text": ["a"] * 20}, row_group_size=15)
    whole = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *args, **names: list(whole(*args, **names))[:1])
    with pytest.raises(SourceError, match="x.parquet: expected 15 rows, found 4; download it again"):
        read(path)


def test_each_file_is_a_split_and_only_listed(write, monkeypatch):
    for number in (2, 0, 1):
        path = write({"image": [bytes([number])], "text": [f"{number}"]}, f"data/{number}.parquet")
    folder = Path(path).parent
    (folder / "README.md").write_text("not this")
    assert [pair.captions for pair in read(folder)] == [["0"], ["1"], ["2"]]
    assert [pair.captions for pair in read(folder / "[12].parquet")] == [["1"], ["2"]]
    monkeypatch.setattr(sources, "ParquetRows", None)
    assert [(split.number, split.first, split.count) for split in source(folder).splits()] == [
        (0, 0, 0), (1, 0, 0), (2, 0, 0)
    ]  # fmt: skip
    before = source(folder).digest()
    write({"image": [b"2"], "text": ["longer than it was"]}, "data/2.parquet")
    assert source(folder).digest() != before


def test_a_path_without_files_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"/\*.parquet: expected Parquet files, found none; check source.path"):
        source(tmp_path).splits()


def test_files_behind_a_url_are_read(write):
    content = Path(write({"image": images(20, 1000), "text": ["a"] * 20})).read_bytes()
    publish_bytes("memory://parquet/x.parquet", content)
    pairs = read("memory://parquet")
    assert [pair.image for pair in pairs] == images(20, 1000)
    assert [source("memory://parquet").fetch(pair.location) for pair in pairs] == images(20, 1000)


def test_an_empty_file_has_no_rows(write):
    assert read(write({"image": pa.array([], HUGGING_FACE), "text": pa.array([], pa.string())})) == []


def test_a_file_or_a_row_that_has_gone_is_refused(write):
    path = write({"image": [b"one", None], "text": ["a", "b"]})
    for row in (1, 2, 1 << 40):
        with pytest.raises(
            SourceError, match=f"x.parquet: expected an image in row {row}, found none; the source chang"
        ):
            source(path).fetch(Location(path, row, 3))
    assert source(path).fetch(Location(path, 0, 3)) == b"one"
    Path(path).unlink()
    with pytest.raises(SourceError, match="x.parquet: expected the file that filter read, found none; put it back or"):
        source(path).fetch(Location(path, 0, 3))
    with pytest.raises(SourceError, match="x.parquet: expected a Parquet file, found none"):
        list(source(path).read(source(write({"image": [b""]}, "y.parquet")).splits()[0]._replace(path=path), 1))


def test_pairs_are_filtered_and_fetched(write, tmp_path, beam_options, plain_png):
    for number, rows in enumerate([[1, 2], [1, 3]]):
        pictures = [{"bytes": plain_png(value), "path": "x.png"} for value in rows]
        write({"image": pa.array([*pictures, None], HUGGING_FACE), "text": [f"text {number}{n}" for n in range(3)],
               "similarity": [0.5] * 3}, f"data/{number}.parquet")  # fmt: skip
    config = FilterConfig(output=f"{tmp_path}/out", source=source(tmp_path / "data"))
    manifest = filter_pairs(config, beam_options())
    assert manifest.counts == {"read": 6, "kept": 3, "merged": 1, "dropped": 2}
    pairs = PairDirectory(config.output)
    rows = list(pairs.kept())
    assert [(row.captions, row.scores) for row in rows] == [
        (["text 00", "text 10"], {"similarity": 0.5}), (["text 01"], {"similarity": 0.5}),
        (["text 11"], {"similarity": 0.5}),
    ]  # fmt: skip
    assert [pairs.fetch(row) for row in rows] == [plain_png(1), plain_png(2), plain_png(3)]
