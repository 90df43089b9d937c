import json
import shutil
from collections import Counter
from itertools import accumulate, islice
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from spoiled_tokens import edit_manifest

from parti_data import ledger
from parti_data.errors import ShardError, SourceError
from parti_data.images import image_key
from parti_data.ledger import (
    LedgerRow,
    PairDirectory,
    read_kept,
    read_ledger,
    to_json,
    write_ledger,
    write_measures,
)
from parti_data.manifest import read_manifest
from parti_data.sources.pairs import Location

ROW = LedgerRow(
    key="00" * 16, source="a.tar", source_key="x/1", outcome="kept", reason="", detail="", merged_into="",
    captions=["one", "zwei ☃"], width=3, height=4, num_bytes=5, format="PNG",
    perceptual_hash="0f" * 8, scores={"a": 0.5, "similarity": 0.25}, attributes={"url": "http://x/☃"}, path="a.tar",
    offset=1 << 40, size=5,
)  # fmt: skip


@pytest.mark.parametrize("num_rows", [0, 1, 4096, 4097])
def test_reading_undoes_writing(tmp_path, num_rows):
    rows = [ROW._replace(source_key=str(number), captions=["c"] * (number % 3)) for number in range(num_rows)]
    path = f"{tmp_path}/ledger.parquet"
    assert write_ledger(path, iter(rows)) == num_rows
    assert list(read_ledger(path)) == rows


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in "ab":
        write_ledger(f"{tmp_path}/{name}", [ROW] * 10)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_parquet_reader_opens_a_ledger(tmp_path):
    path = f"{tmp_path}/ledger.parquet"
    write_ledger(path, [ROW])
    as_pairs = {"scores": list(ROW.scores.items()), "attributes": list(ROW.attributes.items())}
    record = ROW._asdict() | as_pairs
    del record["thumbnail"]
    assert pq.read_table(path).to_pylist() == [record]
    assert duckdb.sql(f"SELECT * FROM '{path}'").fetchall() == [ROW[:-1]]


def test_measures_hold_thumbnails_that_are_read_only_where_asked_for(tmp_path):
    rows = [ROW._replace(thumbnail=b"a jpeg"), ROW._replace(thumbnail=b"")]
    path = f"{tmp_path}/split.parquet"
    assert write_measures(path, rows) == 2
    assert list(read_ledger(path, with_thumbnails=True)) == rows
    assert list(read_ledger(path)) == [ROW, ROW]


def test_measures_without_thumbnails_are_refused_where_they_are_asked_for(tmp_path):
    path = f"{tmp_path}/split.parquet"
    write_ledger(path, [ROW])
    with pytest.raises(ShardError, match=r"split.parquet: .* found none of its \['thumbnail'\]; run its stage again"):
        list(read_ledger(path, with_thumbnails=True))


def test_a_row_knows_where_its_bytes_lie():
    assert ROW.location == Location("a.tar", 1 << 40, 5)


def test_what_a_tar_keeps_of_a_row_is_json():
    assert json.loads(to_json(ROW)) == {
        "key": ROW.key, "source": "a.tar", "source_key": "x/1", "captions": ["one", "zwei ☃"]
    }  # fmt: skip


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ShardError, match=r"ledger.parquet: expected a ledger file, found .*; run its stage again"):
        list(read_ledger(f"{tmp_path}/ledger.parquet"))


def test_a_parquet_file_of_other_columns_is_refused(tmp_path):
    path = f"{tmp_path}/ledger.parquet"
    write_ledger(path, [ROW])
    pq.write_table(pq.read_table(path).drop_columns(["scores"]), path)
    with pytest.raises(
        ShardError, match=r"expected a ledger file, found none of its \['scores'\]; run its stage again"
    ):
        list(read_ledger(path))


def test_a_ledger_that_is_gone_is_refused(tmp_path):
    with pytest.raises(ShardError, match="none.parquet: expected a ledger file, found .*No such file"):
        list(read_ledger(f"{tmp_path}/none.parquet"))
    with pytest.raises(ShardError, match="none.parquet: expected a ledger file, found .*No such file"):
        list(read_kept(f"{tmp_path}/none.parquet", 0, 1))


def test_every_slice_of_the_kept_rows_is_that_slice_of_all(filtered):
    pairs = PairDirectory(filtered)
    every = list(pairs.kept())
    assert len(every) == len(pairs) == Counter(row.outcome for row in pairs.ledger())["kept"]
    for start in (0, 1, 23, 24, 25, len(every) - 1, len(every)):
        for stop in (start, start + 1, start + 30, len(every)):
            assert list(pairs.kept(start, stop)) == every[start:stop]


@pytest.mark.parametrize("stage", ["filtered", "sharded"])
def test_kept_rows_are_found_by_their_keys(request, stage, monkeypatch):
    pairs = PairDirectory(request.getfixturevalue(stage))
    rows = list(pairs.kept())
    wanted = {row.key for row in rows[::7]}
    assert list(pairs.find(wanted | {"00" * 16, ""})) == rows[::7]
    assert list(pairs.find(set())) == []
    read = []
    find = ledger.find_kept
    monkeypatch.setattr(ledger, "find_kept", lambda path, keys: read.append(path) or find(path, keys))
    assert list(pairs.find({rows[0].key})) == rows[:1]
    assert len(read) == 1


def test_a_slice_of_the_kept_rows_decodes_no_row_group_beside_it(tmp_path, monkeypatch):
    path, decoded = f"{tmp_path}/ledger.parquet", []
    rows = [ROW._replace(source_key=str(n), outcome="kept" if n % 3 else "dropped") for n in range(5 * 4096)]
    write_ledger(path, rows)
    read = ledger._read_records
    monkeypatch.setattr(ledger, "_read_records", lambda parquet, n: decoded.append(n) or read(parquet, n))
    kept = [row for row in rows if row.outcome == "kept"]
    ends = list(accumulate(sum(row.outcome == "kept" for row in rows[n : n + 4096]) for n in range(0, len(rows), 4096)))
    for start, stop, groups in [
        (0, 1, [0]), (ends[0] - 1, ends[0], [0]), (ends[0] - 1, ends[0] + 1, [0, 1]), (ends[2], ends[3], [3]),
        (ends[1] + 5, ends[4] + 9, [2, 3, 4]), (-3, 2, [0]), (7, 7, []), (len(kept), len(kept) + 9, []),
    ]:  # fmt: skip
        decoded.clear()
        assert list(read_kept(path, start, stop)) == kept[max(start, 0) : stop]
        assert decoded == groups


def test_a_ledger_that_was_written_again_is_counted_again(tmp_path):
    path = f"{tmp_path}/ledger.parquet"
    for outcome, count in (("kept", 3), ("dropped", 0)):
        write_ledger(path, [ROW._replace(outcome=outcome)] * 3)
        assert len(list(read_kept(path, 0, 9))) == count


@pytest.mark.parametrize("stage", ["filtered", "sharded"])
def test_fetching_gives_the_original_bytes(request, stage, synthetic):
    originals = {}
    for split in synthetic.splits():
        for pair in synthetic.read(split, 1 << 30):
            originals[pair.source_key] = pair.image
    pairs = PairDirectory(request.getfixturevalue(stage))
    assert len(pairs) > 50
    for row in pairs.kept():
        image = pairs.fetch(row)
        assert image == originals[row.source_key]
        assert image_key(image) == row.key


def test_a_source_that_changed_is_refused(sharded, tmp_path):
    directory = Path(shutil.copytree(sharded, tmp_path / "shards"))
    pairs = PairDirectory(str(directory))
    row = next(pairs.kept())
    tar = bytearray(Path(row.path).read_bytes())
    tar[row.offset + 20] ^= 1
    Path(row.path).write_bytes(tar)
    with pytest.raises(
        SourceError, match=rf"at {row.offset}: expected image {row.key}, found other bytes; the source changed"
    ):
        pairs.fetch(row)


def test_a_source_that_is_gone_is_refused(sharded, tmp_path):
    pairs = PairDirectory(str(shutil.copytree(sharded, tmp_path / "shards")))
    row = next(pairs.kept())
    Path(row.path).unlink()
    with pytest.raises(
        SourceError, match="tar: expected the tar that filter read, found none; put it back or run filter again"
    ):
        pairs.fetch(row)


def test_a_sharded_directory_may_be_moved(sharded, tmp_path):
    moved = PairDirectory(str(shutil.copytree(sharded, tmp_path / "elsewhere")))
    for row in islice(moved.kept(), 3):
        assert row.path.startswith(str(tmp_path))
        assert image_key(moved.fetch(row)) == row.key


def test_tokens_are_no_pairs(tokens):
    with pytest.raises(ShardError, match="expected the output of filter or shard, found that of tokenize"):
        PairDirectory(tokens)


@pytest.mark.parametrize(
    ("stage", "change", "found"),
    [
        ("filtered", lambda manifest: manifest["details"].pop("kept"), "kept: Field required"),
        ("filtered", lambda manifest: manifest["details"].update(kept=[-1]), "kept.0: Input should be greater than or"),
        ("filtered", lambda manifest: manifest["config"].pop("source"), "source: Field required"),
        ("filtered", lambda manifest: manifest["config"].update(limits=None), "limits: Input should be a valid"),
        ("sharded", lambda manifest: manifest["details"].update(kept=7), "kept: Input should be a valid list"),
    ],
)
def test_a_manifest_that_does_not_tell_of_its_pairs_is_refused(request, tmp_path, stage, change, found):
    directory = shutil.copytree(request.getfixturevalue(stage), tmp_path / "pairs")
    edit_manifest(directory, change)
    with pytest.raises(ShardError, match=r"manifest.json: expected a manifest as \w+ writes it, found for " + found):
        PairDirectory(str(directory))


def test_a_manifest_that_tells_of_other_ledgers_is_refused(filtered, tmp_path):
    directory = shutil.copytree(filtered, tmp_path / "pairs")
    edit_manifest(directory, lambda manifest: manifest["details"]["kept"].append(0))
    with pytest.raises(ShardError, match="pairs: expected the kept rows of 3 ledgers, found of 4; run filter into a"):
        PairDirectory(str(directory))


def test_the_manifest_lists_the_ledger_that_is_read(filtered):
    names = [shard.name for shard in read_manifest(filtered).shards]
    ledgers = [f"ledger-0000{number}-of-00003.parquet" for number in range(3)]
    fragments = [f"measured/split-0000{number}.parquet" for number in range(3)]
    assert names == [*ledgers, *fragments, "measured/splits.json"]


def test_an_image_that_the_machine_cannot_read_is_named(filtered, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    pairs = PairDirectory(filtered)
    monkeypatch.setattr(type(pairs._source), "fetch", fail)
    with pytest.raises(SourceError, match=r"expected to read it, found Input/output error; mend that and run the same"):
        pairs.fetch(next(pairs.kept()))
