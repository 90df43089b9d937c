import hashlib
import json
from pathlib import Path

import pytest

from parti_data.errors import ShardError
from parti_data.manifest import (
    BEGUN,
    MANIFEST,
    Beginning,
    Manifest,
    ShardRecord,
    StageDirectory,
    begin,
    manifest_digest,
    read_manifest,
    record_shard,
    shard_name,
)  # fmt: skip
from parti_data.storage import publish_bytes

BEGINNING = Beginning(stage="filter", config={"rules": {"depth": 1}, "seed": 0}, inputs={"source": "abc"})


def another(**changes) -> Beginning:
    return BEGINNING.model_copy(update=changes)


def finished(path: Path) -> Manifest:
    directory = begin(str(path), BEGINNING)
    assert isinstance(directory, StageDirectory)
    publish_bytes(f"{path}/b", b"bb")
    publish_bytes(f"{path}/a", b"a")
    records = [record_shard(str(path), "b", 2), record_shard(str(path), "a", 1)]
    return directory.finish(records, {"kept": 3}, {"x": [1]})


def test_reading_undoes_finishing(tmp_path):
    manifest = finished(tmp_path)
    assert read_manifest(str(tmp_path), ("filter", "shard")) == manifest
    assert manifest.shards == [
        ShardRecord(name="a", rows=1, bytes=1, sha256=hashlib.sha256(b"a").hexdigest()),
        ShardRecord(name="b", rows=2, bytes=2, sha256=hashlib.sha256(b"bb").hexdigest()),
    ]
    assert {"python", "pyarrow", "pillow", "numpy"} <= manifest.versions.keys()
    assert manifest_digest(str(tmp_path)) == hashlib.sha256((tmp_path / MANIFEST).read_bytes()).hexdigest()


def test_a_directory_goes_from_new_to_begun_to_finished(tmp_path):
    assert begin(str(tmp_path / "new"), BEGINNING) == StageDirectory(str(tmp_path / "new"), BEGINNING)
    assert begin(str(tmp_path / "new"), BEGINNING) == StageDirectory(str(tmp_path / "new"), BEGINNING)
    manifest = finished(tmp_path / "new")
    before = (tmp_path / "new" / MANIFEST).read_bytes()
    assert begin(str(tmp_path / "new"), BEGINNING) == manifest
    assert (tmp_path / "new" / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "shard"}, "expected an output of shard, found one of filter; choose another output"),
        ({"config": {"rules": {"depth": 2}, "seed": 0}}, r"\(rules.depth: begun with 1, now 2\); change it back"),
        ({"config": {"rules": {"depth": 1}}}, r"\(seed: begun with 0, now None\)"),
        ({"config": {"rules": {"depth": 3}, "seed": 4}}, r"depth: begun with 1, now 3; seed: begun with 0, now 4\)"),
        ({"inputs": {"source": "xyz"}}, r"\(input source: begun with 'abc', now 'xyz'\)"),
    ],
)  # fmt: skip
def test_another_beginning_is_refused_and_the_difference_shown(tmp_path, is_finished, changes, message):
    begin(str(tmp_path), BEGINNING)
    if is_finished:
        finished(tmp_path)
    with pytest.raises(ShardError, match=message):
        begin(str(tmp_path), another(**changes))


@pytest.mark.parametrize("name", ["old.parquet", "old.tar"])
def test_a_directory_with_someone_elses_shards_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ShardError, match=f"expected an empty directory or one that filter began, found {name} and no"):
        begin(str(tmp_path), BEGINNING)


def test_beginning_sweeps_what_a_killed_writer_left(tmp_path):
    begin(str(tmp_path), BEGINNING)
    (tmp_path / f"a.parquet.tmp-{'0f' * 16}").write_bytes(b"")
    begin(str(tmp_path), BEGINNING)
    assert [path.name for path in tmp_path.iterdir()] == [BEGUN]


def test_beginning_removes_nothing_from_a_directory_that_it_refuses(tmp_path):
    (tmp_path / f"a.parquet.tmp-{'0f' * 16}").write_bytes(b"")
    (tmp_path / "b.parquet").write_bytes(b"")
    with pytest.raises(ShardError, match="expected an empty directory"):
        begin(str(tmp_path), BEGINNING)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_beginning_that_is_none_is_refused(tmp_path):
    (tmp_path / BEGUN).write_bytes(b"{}")
    with pytest.raises(ShardError, match="expected what the directory was begun with, found .*; choose another output"):
        begin(str(tmp_path), BEGINNING)


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(ShardError, match="expected a finished directory with manifest.json, found none; run its stage"):
        read_manifest(f"{tmp_path}/none")


def test_an_unfinished_directory_is_refused(tmp_path):
    begin(str(tmp_path), BEGINNING)
    with pytest.raises(ShardError, match="with manifest.json, found an unfinished directory; run its stage first"):
        read_manifest(str(tmp_path))


def test_the_output_of_another_stage_is_refused(tmp_path):
    finished(tmp_path)
    with pytest.raises(ShardError, match="expected the output of shard or tokenize, found that of filter"):
        read_manifest(str(tmp_path), ("shard", "tokenize"))


@pytest.mark.parametrize("content", [b"{}", b"not json", b"[]"])
def test_a_manifest_that_is_none_is_refused(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ShardError, match="manifest.json: expected a manifest, found .*; run the stage again"):
        read_manifest(str(tmp_path))


def test_another_format_version_is_refused(tmp_path):
    finished(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text()) | {"format_version": 2}
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ShardError, match="expected format version 1, found 2; use a parti that knows it"):
        read_manifest(str(tmp_path))


def test_shard_names_sort_as_their_numbers():
    names = [shard_name("tokens", number, 42, "parquet") for number in range(42)]
    assert names[7] == "tokens-00007-of-00042.parquet"
    assert names == sorted(names)


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "", ".", "a//b", "a\0b", "s3://bucket/a"])
def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path, name):
    finished(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    content["shards"][0]["name"] = name
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ShardError, match="found Value error, a file named .*, which is no path below its directory"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("field", ["rows", "bytes"])
def test_a_manifest_that_counts_less_than_nothing_is_refused(tmp_path, field):
    finished(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    content["shards"][0][field] = -1
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ShardError, match="expected a manifest, found Input should be greater than or equal to 0"):
        read_manifest(str(tmp_path))
