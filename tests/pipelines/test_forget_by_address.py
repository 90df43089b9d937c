"""Rows forgotten by URL or host: what a name takes with it, and what stays."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_forget import said_by, silent, verify_all

from parti_data.errors import ConfigError, ShardError
from parti_data.images import to_png
from parti_data.ledger import FORGOTTEN, LedgerRow, PairDirectory
from parti_data.manifest import MANIFEST, read_manifest
from parti_data.quality import QualityFloors
from parti_data.rules import Rules
from parti_data.sources import WebDatasetSource
from pipelines.duplicates import Duplicates
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.forget import forget, read_names
from pipelines.forget.names import Names, match_addresses
from pipelines.shard import ShardConfig
from pipelines.tokenize import TokenizeConfig


def names(urls: list[str] | None = None, hosts: list[str] | None = None) -> Names:
    return read_names([], urls or [], hosts or [], [])


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((120, 100), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    return to_png(np.asarray(image))


SMALL = jpeg(picture(1).resize((60, 50)))
PAIRS = {
    "0": {
        "large": ("https://a.org/large.png", png(picture(1)), "a large bird"),
        "copied": ("https://elsewhere.net/copy.png", png(picture(2)), "one of two"),
        "alone": ("https://notexample.com/alone.png", png(picture(3)), "all alone"),
    },
    "1": {
        "small": ("https://img.example.com/small.jpg", SMALL, "a secret name"),
        "again": ("https://b.org/again.jpg", SMALL, "a small bird"),
        "original": ("http://EXAMPLE.com:80/original.png#top", png(picture(2)), "two of two"),
        "gone": ("https://example.com/gone.png", None, "no image"),
    },
    "2": {
        "mid": ("https://c.org/mid.jpg", jpeg(picture(1).resize((90, 75))), "a small bird"),
        "other": ("https://c.org/other.png", png(picture(4)), "another one"),
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, image_file, text_file, run_stage) -> Path:
    """Pictures 1 to 4 filtered, copied to tars, tokenized; picture 1 in three sizes and one twice, 2 twice."""
    root = tmp_path_factory.mktemp("addresses")
    for name, pairs in PAIRS.items():
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            for key, (url, image, caption) in pairs.items():
                stated = json.dumps({"url": url, "caption": caption, "license": "https://example.com/by"}).encode()
                for ending, content in (("png", image), ("txt", caption.encode()), ("json", stated)):
                    if content is not None:
                        member = tarfile.TarInfo(f"{key}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
    runs = root / "runs"
    source = WebDatasetSource(kind="webdataset", path=str(root / "*.tar"))
    run_stage(FilterConfig(output=f"{runs}/pairs", source=source, duplicates=Duplicates(near=True)))
    run_stage(ShardConfig(output=f"{runs}/shards", source=f"{runs}/pairs", pairs_per_shard=2))
    run_stage(TokenizeConfig(
        output=f"{runs}/tokens", source=f"{runs}/shards", image_tokenizer=image_file, text_tokenizer=text_file,
        rows_per_shard=2, quality=QualityFloors(min_psnr_db=0.0, max_equal_rows=1.0),
    ))  # fmt: skip
    return runs


@pytest.fixture
def runs(made, tmp_path) -> Path:
    copied = Path(shutil.copytree(made, tmp_path / "runs"))
    manifest = copied / "tokens" / MANIFEST
    manifest.write_text(manifest.read_text().replace(str(made), str(copied)))
    return copied


def ledger(runs: Path) -> dict[str, LedgerRow]:
    return {row.source_key: row for row in PairDirectory(str(runs / "pairs")).ledger()}


def outcomes(runs: Path) -> dict[str, str]:
    return {key: f"{row.outcome} {row.reason}".strip() for key, row in ledger(runs).items()}


def captions(runs: Path, stage: str) -> set[str]:
    if stage == "tokens":
        tables = [pq.read_table(path) for path in sorted((runs / "tokens").glob("*.parquet"))]
        return {text for table in tables for texts in table["captions"].to_pylist() for text in texts}
    return {text for row in PairDirectory(str(runs / stage)).kept() for text in row.captions}


def test_the_data_are_what_the_tests_take_them_for(made):
    assert outcomes(made) == {
        "large": "kept", "small": "merged near_duplicate", "again": "merged exact_duplicate",
        "mid": "merged near_duplicate", "copied": "kept", "original": "merged exact_duplicate", "alone": "kept",
        "other": "kept", "gone": "dropped image_missing",
    }  # fmt: skip
    assert set(ledger(made)["large"].captions) == {"a large bird", "a small bird", "a secret name"}


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        (names(urls=["https://notexample.com/alone.png"]), {"alone"}),
        (names(urls=["http://NOTEXAMPLE.com:80/alone.png#a"]), {"alone"}),
        (names(urls=["https://elsewhere.net/copy.png"]), {"copied", "original"}),
        (names(urls=["https://example.com/original.png"]), {"copied", "original"}),
        (names(urls=["https://example.com/gone.png"]), {"gone"}),
        (names(hosts=["c.org"]), {"mid", "other"}),
        (names(hosts=["Example.com."]), {"small", "again", "copied", "original", "gone"}),
        (names(hosts=["a.org"]), {"large", "small", "again", "mid"}),
    ],
)  # fmt: skip
def test_a_name_takes_its_image_with_all_copies_of_its_bytes_and_what_was_merged_into_it(runs, given, gone):
    before = ledger(runs)
    forget(str(runs), given, silent)
    after = ledger(runs)
    assert before.keys() - after.keys() == gone
    rows = list(PairDirectory(str(runs / "pairs")).ledger())
    assert sum(row.reason == FORGOTTEN for row in rows) == len(gone)
    keys = {before[name].key for name in gone} - {""}
    said = said_by(runs)
    assert not [key for key in keys if key in said]
    assert not [name for name in gone if before[name].attributes["url"] in said]
    assert {row.key for row in PairDirectory(str(runs / "shards")).kept()} == {
        row.key for row in after.values() if row.outcome == "kept"
    }
    assert verify_all(runs)


def test_the_picture_that_stays_loses_the_captions_of_the_forgotten_alone(runs):
    lines: list[str] = []
    forget(str(runs), names(urls=["https://img.example.com/small.jpg"]), lines.append)
    after = ledger(runs)
    assert set(after["large"].captions) == {"a large bird", "a small bird"}  # the mid one has "a small bird" too
    for stage in ("pairs", "shards", "tokens"):
        assert captions(runs, stage) >= {"a large bird", "a small bird", "one of two"}
    assert "a secret name" not in said_by(runs)
    for path in sorted((runs / "tokens").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            assert len(row["captions"]) == len(row["text_ids"])
    stated = [json.loads(content) for path in (runs / "shards").glob("*.tar") for name, content in
              members(path).items() if name.endswith(".json")]  # fmt: skip
    assert {row["key"]: row["captions"] for row in stated} == {
        row.key: row.captions for row in PairDirectory(str(runs / "shards")).kept()
    }
    counts = [read_manifest(str(runs / name)).details["forgotten"][0] for name in ("pairs", "shards", "tokens")]
    assert [(entry["rows"], entry["captions"]) for entry in counts] == [(2, 1), (0, 1), (0, 1)]
    assert any(line.startswith("shards: 0 rows, 1 caption of rows that stay; ") for line in lines)
    assert verify_all(runs)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_judging_again_gives_the_ledger_that_is_left(runs, made, beam_options):
    forget(str(runs), names(hosts=["example.com"]), silent)
    before = {path.name: pq.read_table(path) for path in (runs / "pairs").glob("*.parquet")}
    source = WebDatasetSource(kind="webdataset", path=str(made.parent / "*.tar"))
    config = FilterConfig(output=f"{runs}/pairs", source=source, duplicates=Duplicates(near=True, max_captions=999))
    filter_pairs(config, beam_options(), rejudge=True)
    assert {path.name: pq.read_table(path) for path in (runs / "pairs").glob("*.parquet")} == before


def test_what_was_made_before_another_judging_is_told(runs, made, beam_options):
    source = WebDatasetSource(kind="webdataset", path=str(made.parent / "*.tar"))
    rules = Rules(min_side_px=11)
    config = FilterConfig(output=f"{runs}/pairs", source=source, duplicates=Duplicates(near=True), rules=rules)
    filter_pairs(config, beam_options(), rejudge=True)
    lines: list[str] = []
    forget(str(runs), names(hosts=["example.com"]), lines.append)
    assert [line.partition(",")[0] for line in lines if line.startswith("not sure")] == [
        "not sure of shards: its source is none of these stages"
    ]


def test_the_source_is_told_and_left_alone(runs, made):
    sources = {path.name: path.read_bytes() for path in made.parent.glob("*.tar")}
    lines: list[str] = []
    forget(str(runs), names(hosts=["c.org", "b.org"]), lines.append)
    assert f"still in the source: {made.parent}/1.tar (2 rows)" in lines
    assert f"still in the source: {made.parent}/2.tar (2 rows)" in lines
    assert {path.name: path.read_bytes() for path in made.parent.glob("*.tar")} == sources


def test_what_was_forgotten_does_not_come_back_with_a_retry(runs, made, beam_options):
    """Neither with its row's number, nor with a file that has changed, in which it could not be told."""
    forget(str(runs), names(urls=["https://img.example.com/small.jpg"]), silent)
    source = WebDatasetSource(kind="webdataset", path=str(made.parent / "*.tar"))
    config = FilterConfig(output=f"{runs}/pairs", source=source, duplicates=Duplicates(near=True))
    filter_pairs(config, beam_options(), retry_reasons=["image_missing"])
    assert "small" not in ledger(runs)
    assert [row.reason for row in PairDirectory(str(runs / "pairs")).ledger()].count(FORGOTTEN) == 2
    changed = runs / "1.tar"
    changed.write_bytes((made.parent / "1.tar").read_bytes() + b"\0" * 512)
    before = (made.parent / "1.tar").read_bytes()
    try:
        (made.parent / "1.tar").write_bytes(changed.read_bytes())
        with pytest.raises(ShardError, match="1.tar: expected a file as it was, as rows of it are forgotten"):
            filter_pairs(config, beam_options(), retry_reasons=["image_missing"])
    finally:
        (made.parent / "1.tar").write_bytes(before)
    assert read_manifest(str(runs / "pairs"))


def addresses(*rows: dict[str, str], keys: list[str] | None = None) -> pa.Table:
    attributes = pa.array([list(row.items()) for row in rows], pa.map_(pa.string(), pa.string()))
    return pa.table({"source_key": keys or [str(n) for n in range(len(rows))], "attributes": attributes})


def rows_of(table: pa.Table, given: Names) -> set[int]:
    return {hit.row for hit in match_addresses(table, given)}


@pytest.mark.parametrize(
    ("url", "is_named"),
    [
        ("https://example.com/a", True), ("https://EXAMPLE.com./a", True), ("http://img.example.com:8080/a", True),
        ("//cdn.example.com/a", True), ("https://user:word@example.com/a", True), (" https://example.com/a ", True),
        ("https://notexample.com/a", False), ("https://example.com.evil.org/a", False), ("example.com", False),
        ("https://a.org/example.com", False), ("https://a.org/?u=https://example.com/a", False), ("", False),
        ("https://[broken/a", False), ("https://example.com@a.org/a", False),
    ],
)  # fmt: skip
def test_a_host_names_itself_and_its_subdomains(url, is_named):
    assert rows_of(addresses({"url": url}), names(hosts=["example.com"])) == ({0} if is_named else set())


@pytest.mark.parametrize(
    ("url", "is_named"),
    [
        ("https://example.com/a?b=1", True), ("http://Example.com:80/a?b=1#c", True),
        ("https://x@example.com/a?b=1", True), ("https://example.com/a", False), ("https://example.com/A?b=1", False),
        ("https://example.com:8080/a?b=1", False), ("https://img.example.com/a?b=1", False),
    ],
)  # fmt: skip
def test_a_url_names_what_differs_from_it_in_nothing_that_matters(url, is_named):
    found = rows_of(addresses({"url": url}), names(urls=["https://example.com/a?b=1"]))
    assert found == ({0} if is_named else set())


def test_addresses_are_looked_for_in_all_fields_of_urls_but_a_licences_and_in_the_key():
    table = addresses(
        {"URL": "https://a.org/0"}, {"coco_url": "https://a.org/1"}, {"license_url": "https://a.org/2"},
        {"license": "https://a.org/3"}, {}, {"similarity": "1", "url": "https://a.org/5", "x": "y"},
        keys=["0", "1", "2", "3", "https://a.org/4", "5"],
    )  # fmt: skip
    assert rows_of(table, names(hosts=["a.org"])) == {0, 1, 4, 5}
    assert rows_of(table.slice(3), names(hosts=["a.org"])) == {1, 2}
    assert rows_of(table, names(hosts=["xn--bcher-kva.de"])) == set()
    german = addresses({"url": "https://bücher.de/x"})
    assert rows_of(german, names(hosts=["xn--bcher-kva.de"])) == rows_of(german, names(hosts=["Bücher.de"])) == {0}


def test_a_url_that_was_cut_is_found():
    url = "https://a.org/" + "x" * 3000
    assert rows_of(addresses({"url": url[:2048]}), names(urls=[url])) == {0}


def test_a_list_file_holds_names_of_all_kinds(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text(f"\ufeff# taken down\n{'AB' * 16}\n\nhttps://a.org/b\nexample.com\n", encoding="utf-8")
    found = read_names([], [], ["b.org"], [str(path)])
    assert found.each() == [f"key {'ab' * 16}", "url https://a.org/b", "host b.org", "host example.com"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("https:///a", "line 2: expected a URL like https://example.com/cat.jpg, found 'https:///a'; correct it"),
        ("com", "line 2: expected a host such as example.com, found 'com'; correct it"),
        ("a.org/b", "line 2: expected a host such as example.com, found 'a.org/b'; correct it"),
        ("\xff", "expected text in UTF-8, found "),
    ],
)
def test_a_line_that_names_nothing_is_refused(tmp_path, line, message):
    path = tmp_path / "names.txt"
    path.write_bytes(b"a.org\n" + line.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        read_names([], [], [], [str(path)])


def test_names_that_are_none_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="forget: expected what is to be forgotten, found none; give --key, --url"):
        read_names([], [], [], [])
    with pytest.raises(ConfigError, match=r"--key abc: expected a key of 32 hex digits as in the ledger, found 'abc'"):
        read_names(["abc"], [], [], [])
    with pytest.raises(
        ConfigError, match=r"--list .*/none: expected a file with a key, URL or host a line, found none"
    ):
        read_names([], [], [], [f"{tmp_path}/none"])


def test_a_list_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.forget.names.MAX_LIST_BYTES", 3)
    (tmp_path / "names.txt").write_text("a.org")
    with pytest.raises(ConfigError, match=r"expected at most 3 bytes, found 5; split it"):
        read_names([], [], [], [f"{tmp_path}/names.txt"])
