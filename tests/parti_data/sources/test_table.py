import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parti_data.errors import SourceError
from parti_data.ledger import PairDirectory
from parti_data.sources import TableSource
from parti_data.sources.pairs import Location, RawPair
from parti_data.storage import publish_bytes
from pipelines.filter import FilterConfig, filter_pairs


def source(path: object, **options) -> TableSource:
    return TableSource(kind="table", path=str(path), **options)


def read(path: object, max_image_bytes: int = 1 << 20, **options) -> list[RawPair]:
    pairs = source(path, **options)
    return [pair for split in pairs.splits() for pair in pairs.read(split, max_image_bytes)]


@pytest.fixture
def write(tmp_path) -> Callable[..., str]:
    """Write a table, as text or as Parquet, and the images a.png and deep/b.png beside it; return its path."""
    for name in ("a.png", "deep/b.png"):
        publish_bytes(f"{tmp_path}/data/{name}", f"image {name}".encode())

    def write(name: str, content: str | bytes | dict) -> str:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            pq.write_table(pa.table(content), path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


TABLES = {
    "metadata.jsonl": '{"file_name": "a.png", "text": "one", "similarity": 0.5}\n'
                      '{"similarity": 1, "text": "two, 2", "file_name": "deep/b.png"}\n',
    "x.csv": '﻿file_name,text,similarity\na.png,one,0.5\ndeep/b.png,"two, 2",1\n',
    "x.tsv": "similarity\ttext\tfile_name\n0.5\tone\ta.png\n1\ttwo, 2\tdeep/b.png\n",
    "x.parquet": {"file_name": ["a.png", "deep/b.png"], "text": ["one", "two, 2"], "similarity": [0.5, 1.0]},
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_every_kind_of_table_gives_the_same_pairs(write, name):
    path = write(name, TABLES[name])
    folder = Path(path).parent
    pairs = read(path)
    assert [pair._replace(source_key="") for pair in pairs] == [
        RawPair("", Location(f"{folder}/a.png", 0, 11), b"image a.png", ["one"], {"similarity": 0.5}),
        RawPair("", Location(f"{folder}/deep/b.png", 0, 16), b"image deep/b.png", ["two, 2"], {"similarity": 1}),
    ]
    first = {"metadata.jsonl": 1, "x.csv": 2, "x.tsv": 2, "x.parquet": 0}[name]  # the number of the line, or of the row
    assert [pair.source_key for pair in pairs] == [f"{first:08d}", f"{first + 1:08d}"]
    assert [source(path).fetch(pair.location) for pair in pairs] == [pair.image for pair in pairs]


@pytest.mark.parametrize("name", [
    "", "../secret", "deep/../../secret", "/etc/passwd", "C:\\a.png", "http://example.com/a.png", "file:///etc/passwd",
    "memory://secret/a.png", "simplecache::file:///etc/passwd", "link.png", "none.png", "deep", "a\0.png", "\ud800",
    "x" * 5000, None, 7, ["a.png"], {"path": "a.png"}, True,
])  # fmt: skip
def test_a_row_whose_image_is_elsewhere_has_none(write, tmp_path, name):
    (tmp_path / "secret").write_bytes(b"secret")
    publish_bytes("memory://secret/a.png", b"secret")
    good = '\n{"file_name": "a.png", "text": "good"}'
    path = write("x.jsonl", json.dumps({"file_name": name, "text": "stays"}) + good)
    (tmp_path / "data/link.png").symlink_to("../secret")
    bad, fine = read(path)
    assert bad == RawPair("00000001", Location(path, 0, 0), None, ["stays"], {})
    assert (fine.image, fine.captions) == (b"image a.png", ["good"])


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "http://x/y", "link.png", "none.png", "a\0.png"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_other_tables_are_trusted_no_more(write, tmp_path, name, ending):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "data/link.png").symlink_to("../secret")
    separator = "," if ending == "csv" else "\t"
    rows = {"file_name": [name, "a.png"], "text": ["stays", "good"]}
    lines = [separator.join(line) for line in (rows, *zip(*rows.values(), strict=True))]
    path = write(f"x.{ending}", rows if ending == "parquet" else "\n".join(lines))
    assert [(pair.image, pair.captions) for pair in read(path)] == [(None, ["stays"]), (b"image a.png", ["good"])]


def test_a_broken_line_is_a_row_without_image_and_captions(write):
    huge = b'{"file_name": "a.png", "text": "' + b"x" * (5 << 20) + b'"}'
    lines = [b'{"file_name": "a.png", "text": "one"}', b"{", b"[]", huge, b"", b"\xff", b'{"file_name": "a.png"}']
    path = write("x.jsonl", b"\n".join(lines))
    broken = {2, 3, 4, 6}
    pairs = read(path)
    assert [int(pair.source_key) for pair in pairs] == [1, 2, 3, 4, 6, 7]
    for pair in pairs:
        is_broken = int(pair.source_key) in broken
        assert (pair.image is None) == is_broken
        assert pair.captions == (["one"] if pair is pairs[0] else [])


def test_the_broken_line_of_a_csv_does_not_shift_what_follows(write):
    content = 'file_name,text\na.png,one, two\na.png\n"a.png,three\na.png,"four\nfour"\n'
    assert [(pair.source_key, pair.image is None, pair.captions) for pair in read(write("x.csv", content))] == [
        ("00000002", True, []), ("00000003", True, []), ("00000004", True, ["three"]),
        ("00000005", False, ["four\nfour"])
    ]  # fmt: skip


def test_captions_of_several_columns_and_of_lists(write):
    path = write("x.jsonl", '{"file_name": "a.png", "caption": "b", "all": ["c", 1, "d"], "text": "e"}')
    assert read(path)[0].captions == ["e"]
    pair = read(path, caption_columns=["all", "caption"])[0]
    assert (pair.captions, pair.fields) == (["c", "d", "b"], {"text": "e"})
    path = write("x.parquet", {"image": ["a.png"], "caption": [["one", None, "two"]], "raw": [b"x"], "n": [3]})
    pair = read(path, image_column="image")[0]
    assert (pair.captions, pair.fields) == (["one", "two"], {"n": 3})


def test_a_number_for_a_caption_is_a_text_in_csv(write):
    (pair,) = read(write("x.csv", "file_name,text,n,code\na.png,42,7,007\n"))
    assert (pair.captions, pair.fields) == (["42"], {"n": 7, "code": "007"})


def test_a_file_without_a_first_line_takes_names_from_the_config(write):
    path = write("x.tsv", 'a "nice" picture\ta.png\n"quoted\thttp://example.com/b.png\n')
    pairs = read(path, column_names=["caption", "url"], image_column="url")
    assert [(pair.image, pair.captions) for pair in pairs] == [
        (b"image a.png", ['a "nice" picture']), (None, ['"quoted'])
    ]  # fmt: skip


def test_images_may_lie_below_another_folder(write, tmp_path):
    path = write("tables/x.csv", "file_name,text\na.png,one\ntables/x.csv,two\n../secret,three\n")
    (tmp_path / "secret").write_bytes(b"secret")
    pairs = read(path, root=f"{tmp_path}/data")
    assert [pair.image and pair.image[:5] for pair in pairs] == [b"image", b"file_", None]
    assert source(path, root=f"{tmp_path}/data").fetch(pairs[0].location) == b"image a.png"
    with pytest.raises(SourceError, match="a.png: expected the image that filter read, found none in .*/data/tables;"):
        source(path).fetch(pairs[0].location)


def test_a_root_that_is_no_folder_is_refused(write, tmp_path):
    path = write("x.csv", "file_name,text\na.png,one\n")
    for root in (f"{tmp_path}/none", path):
        with pytest.raises(SourceError, match=f"^{root}: expected the folder of the images, found none; check source."):
            source(path, root=root).splits()


def test_tables_of_a_directory_or_a_glob_are_splits_with_their_own_folders(write, tmp_path):
    for number in (1, 0):
        write(f"t{number}/i.png", f"image {number}")
        write(f"t{number}/metadata.jsonl", f'{{"file_name": "i.png", "text": "{number}"}}')
    for pattern in ("*/metadata.jsonl", "**/*.jsonl", "t[01]", "*"):
        pairs = read(tmp_path / "data" / pattern)
        assert [(pair.image, pair.captions) for pair in pairs] == [(b"image 0", ["0"]), (b"image 1", ["1"])]
        assert [source(tmp_path / "data" / pattern).fetch(pair.location) for pair in pairs] == [b"image 0", b"image 1"]
    assert [pair.captions for pair in read(tmp_path / "data/t1")] == [["1"]]
    with pytest.raises(SourceError, match=r"tables \(.jsonl, .csv, .tsv, .parquet\), found none; check source.path"):
        source(tmp_path / "nothing").splits()


def test_a_relative_path_is_read_and_fetched(write, monkeypatch):
    monkeypatch.chdir(Path(write("x.csv", TABLES["x.csv"])).parent)
    for pattern in ("x.csv", "*.csv", "./x.csv"):
        pairs = read(pattern)
        assert [source(pattern).fetch(pair.location) for pair in pairs] == [b"image a.png", b"image deep/b.png"]


def test_tables_behind_a_url_are_read():
    for name in ("metadata.jsonl", "x.csv"):
        publish_bytes(f"memory://tables/{name}/{name}", TABLES[name].encode())
        publish_bytes(f"memory://tables/{name}/a.png", b"abc")
        pairs = read(f"memory://tables/{name}/{name}")
        assert [(pair.image, pair.captions) for pair in pairs] == [(b"abc", ["one"]), (None, ["two, 2"])]
        assert source(f"memory://tables/{name}/{name}").fetch(pairs[0].location) == b"abc"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"filename": "a", "text": "b"}', "expected a column 'file_name', found 'filename', 'text'; did "
         "you mean 'filename'"),
        ("x.csv", "file_name,captoin\n", "expected a column 'text', found 'file_name', 'captoin'"),
        ("x.tsv", "file_name,text\na,b\n", "expected a column 'file_name', found 'file_name,text'; did you mean"),
        ("x.csv", "", "expected a first line with the names of the columns, found none"),
        ("x.csv", "file_name,text,text\n", "expected one column 'text', found 2 of that name"),
        ("x.parquet", {"file_name": [1], "text": ["b"]}, "expected paths in column 'file_name', found int64; set "
         "source.image_column, or read images in Parquet with source.kind=parquet"),
        ("x.parquet", {"file_name": ["a"], "text": [1]}, "expected texts in column 'text', found int64"),
        ("x.parquet", b"PAR1", "expected a whole Parquet file, found"),
        ("x.csv", "file_name,text\n".encode("utf-16"), "expected UTF-8 text, found UTF-16"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_refused(write, name, content, message):
    with pytest.raises(SourceError, match=f"{name}: {message}"):
        read(write(name, content))


def test_a_column_that_comes_twice_is_no_field(write):
    (pair,) = read(write("x.csv", "file_name,a,text,a,b\na.png,1,t,2,3\n"))
    assert pair.fields == {"b": 3}


def test_a_table_without_rows_has_none(write):
    assert read(write("x.jsonl", "")) == []
    assert read(write("x.csv", "file_name,text\n")) == []


def test_the_digest_tells_which_tables_and_how_large(write):
    path = write("x.csv", TABLES["x.csv"])
    before = source(path).digest()
    write("x.csv", TABLES["x.csv"] + "c.png,c,1\n")
    assert before != source(path).digest()


def test_an_image_over_the_limit_is_cut_one_byte_behind_it(write):
    pair = read(write("x.csv", TABLES["x.csv"]), max_image_bytes=3)[0]
    assert (pair.image, pair.location.size) == (b"imag", 11)


def test_pairs_are_filtered_and_fetched(write, tmp_path, beam_options, plain_png):
    for value in (1, 2):
        publish_bytes(f"{tmp_path}/data/{value}.png", plain_png(value))
    os.symlink("/etc/passwd", tmp_path / "data/link.png")
    rows = [("1.png", "one"), ("2.png", "two"), ("1.png", "again"), ("../1.png", "out"), ("link.png", "link")]
    lines = [json.dumps({"file_name": name, "caption": text, "license": "CC"}) for name, text in rows]
    path = write("metadata.jsonl", "\n".join([*lines, "{broken"]))
    config = FilterConfig(output=f"{tmp_path}/out", source=source(path))
    manifest = filter_pairs(config, beam_options())
    assert manifest.details["reasons"] == {"dropped image_missing": 3, "kept": 2, "merged exact_duplicate": 1}
    pairs = PairDirectory(config.output)
    kept = list(pairs.kept())
    assert [(row.captions, row.attributes) for row in kept] == [
        (["one", "again"], {"license": "CC"}), (["two"], {"license": "CC"})
    ]  # fmt: skip
    assert [pairs.fetch(row) for row in kept] == [plain_png(1), plain_png(2)]
    publish_bytes(f"{tmp_path}/data/2.png", plain_png(3))
    with pytest.raises(SourceError, match="found other bytes; the source changed since"):
        pairs.fetch(kept[1])


def test_pictures_lie_beside_their_table_whatever_its_folder_is_called(tmp_path):
    for folder in (".", "plain", "set [1]"):
        publish_bytes(f"{tmp_path}/{folder}/0.png", f"image of {folder}".encode())
    for folder in ("plain", "set [1]"):
        publish_bytes(f"{tmp_path}/{folder}/metadata.jsonl", b'{"file_name": "0.png", "text": "x"}\n')
    for path, folders in ((f"{tmp_path}/*/metadata.jsonl", ["plain", "set [1]"]), (f"{tmp_path}/set [1]", ["set [1]"])):
        pairs = read(path)
        assert [pair.image for pair in pairs] == [f"image of {folder}".encode() for folder in folders]
        assert [source(path).fetch(pair.location) for pair in pairs] == [pair.image for pair in pairs]
