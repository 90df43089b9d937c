"""The proof finds what should not have changed, and files of trainings and audits lose what they hold."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_forget import said_by, silent

from parti_data.contact_sheet import Cell, cut_pairs, draw_contact_sheet, remove_cells
from parti_data.errors import ShardError
from parti_data.images import image_key, to_png
from parti_data.ledger import LedgerRow, read_ledger, write_ledger, write_measures
from parti_data.manifest import Beginning, StageDirectory, manifest_digest, read_manifest, record_shard
from parti_data.shard_footer import read_footer
from parti_data.storage import publish_bytes
from pipelines.forget import forget, prove, read_names, rewrite
from pipelines.forget.find_rows import Keys, read_columns
from pipelines.forget.rewrite import RowChange, drop_captions, regroup

EMPTY = LedgerRow("", "s", "", "kept", "", "", "", [], 1, 1, 1, "PNG", "", {}, {}, "", 0, 0)


def change(*gone: int, captions: dict[int, frozenset[str]] | None = None) -> RowChange:
    return RowChange(np.array(gone, np.int64), captions or {})


def row(number: int, **values) -> LedgerRow:
    key = f"{number:032x}"
    return EMPTY._replace(key=key, source_key=f"key {number}", captions=[f"text {number}", "x"], **values)


@pytest.fixture
def ledger(tmp_path) -> str:
    """Ten rows, one with a score that is no number."""
    path = f"{tmp_path}/old.parquet"
    write_ledger(path, [row(number, scores={"a": float("nan")} if number == 4 else {}) for number in range(10)])
    return path


def altered(path: str, rows: list[LedgerRow]) -> str:
    new = path.replace("old", "new")
    write_ledger(new, rows)
    return new


@pytest.mark.parametrize("gone", [(), (0,), (3, 4, 9), tuple(range(10))])
def test_a_ledger_without_rows_is_the_old_one_but_for_them(ledger, gone):
    new = ledger.replace("old", "new")
    rewrite.remove_ledger_rows(ledger, new, change(*gone))
    assert prove.prove_removed(ledger, new, change(*gone)) == 10 - len(gone)
    left = [str(one) for number, one in enumerate(read_ledger(ledger)) if number not in gone]
    assert [str(one) for one in read_ledger(new)] == left
    rewrite.bury_rows(ledger, new, change(*gone))
    assert prove.prove_buried(ledger, new, change(*gone)) == 10 - len(gone)


def test_a_row_that_loses_a_caption_loses_nothing_else(ledger):
    new, less = ledger.replace("old", "new"), {2: frozenset({"x"})}
    rewrite.bury_rows(ledger, new, change(5, captions=less))
    assert prove.prove_buried(ledger, new, change(5, captions=less)) == 9
    assert [one.captions for one in read_ledger(new)][2] == ["text 2"]
    with pytest.raises(ShardError, match="expected a row without those captions, found another at row 2 of the old"):
        prove.prove_buried(ledger, new, change(5, captions={2: frozenset({"text 2"})}))


@pytest.mark.parametrize(
    ("alter", "expected", "at"),
    [
        (lambda rows: rows[:2] + rows[3:], "the row as it was", 2),
        (lambda rows: [*rows[:-1]], "every row that stays", 8),
        (lambda rows: [*rows, rows[0]], "no row more than before", 0),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "the row as it was", 0),
        (lambda rows: [rows[0]._replace(format="GIF"), *rows[1:]], "the row as it was", 0),
        (lambda rows: [*rows[:8], rows[8]._replace(scores={"b": 1.0})], "the row as it was", 9),
    ],
)
def test_any_other_change_of_a_file_that_lost_rows_is_found(ledger, alter, expected, at):
    rows = list(read_ledger(ledger))
    new = altered(ledger, alter(rows[:5] + rows[6:]))
    with pytest.raises(ShardError, match=f"{new}: expected {expected}, found another at row {at} of the old file; not"):
        prove.prove_removed(ledger, new, change(5))


@pytest.mark.parametrize(
    ("alter", "expected"),
    [
        (lambda rows: rows, "nothing of a forgotten row but its place"),
        (lambda rows: rows[:9], "as many rows"),
        (lambda rows: [one._replace(source="other") for one in rows], "nothing of a forgotten row but its place"),
    ],
)
def test_a_row_that_is_not_buried_is_found(ledger, alter, expected):
    new = altered(ledger, alter(list(read_ledger(ledger))))
    with pytest.raises(ShardError, match=f"{new}: expected {expected}, found another at row 0"):
        prove.prove_buried(ledger, new, change(5))


def test_other_rows_of_a_buried_ledger_are_compared(ledger):
    new = ledger.replace("old", "new")
    rewrite.bury_rows(ledger, new, change(5, 6))
    with pytest.raises(ShardError, match="expected the row as it was, found another at row 6 of the old file"):
        prove.prove_buried(ledger, new, change(5))
    with pytest.raises(ShardError, match="expected as many parts as before"):
        prove.prove_buried(ledger, altered(ledger, []), change(5))


def test_a_key_that_is_left_is_found(ledger):
    with pytest.raises(ShardError, match="expected no row of what is forgotten, found another at row 0"):
        prove.refuse_left_behind(ledger, ["key", "merged_into"], Keys.of([f"{3:032x}"]))
    prove.refuse_left_behind(ledger, ["key", "merged_into"], Keys.of([f"{11:032x}"]))


def test_thumbnails_go_with_their_rows(tmp_path):
    old, new = f"{tmp_path}/old.parquet", f"{tmp_path}/new.parquet"
    write_measures(old, [row(number, thumbnail=b"picture") for number in range(3)])
    rewrite.bury_rows(old, new, change(1))
    assert [one.thumbnail for one in read_ledger(new, with_thumbnails=True)] == [b"picture", b"", b"picture"]


def test_what_is_no_ledger_is_refused(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "old.parquet")
    with pytest.raises(ShardError, match="expected the columns of a ledger, found a; run its stage again"):
        rewrite.bury_rows(f"{tmp_path}/old.parquet", f"{tmp_path}/new.parquet", change())
    (tmp_path / "old.parquet").write_bytes(b"nothing")
    with pytest.raises(ShardError, match="old.parquet: expected a Parquet file with rows, found "):
        list(rewrite.read_groups(f"{tmp_path}/old.parquet"))


@pytest.mark.parametrize(("sizes", "expected"), [([3, 0, 4, 5], [5, 5, 2]), ([5, 5], [5, 5]), ([0, 0], [0]), ([], [])])
def test_row_groups_are_filled(sizes, expected):
    tables = [pa.table({"a": range(size)}, pa.schema({"a": pa.int64()})) for size in sizes]
    assert [len(table) for table in regroup(tables, 5)] == expected


def test_text_ids_go_with_their_captions():
    record = {"captions": ["a", "b", "c"], "text_ids": [[1], [2], [3]], "key": "k"}
    assert drop_captions(record, frozenset({"b"})) == {"captions": ["a", "c"], "text_ids": [[1], [3]], "key": "k"}


@pytest.fixture
def tar(make_tar, plain_png) -> str:
    members = []
    for number in range(3):
        name = f"{number:09d}"
        members += [(f"{name}.png", plain_png(number)), (f"{name}.txt", b"x"), (f"{name}.json", b"{}")]
    return make_tar("old.tar", members)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("000000000.png", 0), ("000000000.txt", b"x"), ("000000000.json", b"{}")], "as many parts as before"),
        ([("000000002.png", 2), ("000000000.png", 0)], "the members in order"),
        ([("000000000.png", 0), ("000000000.txt", b"y")], "member 000000000.txt as it was"),
    ],
)
def test_any_other_change_of_a_tar_is_found(tar, make_tar, plain_png, members, expected):
    members = [(name, plain_png(content) if isinstance(content, int) else content) for name, content in members]
    gone = {member.image for member in rewrite.pair_members(tar) if member.info.name.startswith("000000001")}
    with pytest.raises(ShardError, match=f"new.tar: expected {expected}"):
        prove.prove_tar(tar, make_tar("new.tar", members), gone, set())


def test_an_image_that_is_not_where_its_ledger_says_is_found(tar, tmp_path, plain_png):
    path, size = f"{tmp_path}/ledger.parquet", len(plain_png(0))
    write_ledger(path, [row(0)._replace(key=image_key(plain_png(0)), offset=512, size=size)])
    assert prove.prove_places(path, tar) == 1
    write_ledger(path, [row(0)._replace(key=image_key(plain_png(0)), offset=513, size=size)])
    with pytest.raises(ShardError, match=r"old.tar: expected image \w{32} at 513, found another at row 0"):
        prove.prove_places(path, tar)


def test_a_list_of_what_benchmarks_removed_loses_lines(tmp_path):
    old, new = f"{tmp_path}/old.jsonl", f"{tmp_path}/new.jsonl"
    lines = [json.dumps({"key": key, "source": "s", "source_key": "k", "captions": []}) for key in "abca"]
    publish_bytes(old, "".join(f"{line}\n" for line in lines).encode())
    rows = Counter({("b", "s", "k"): 1, ("c", "s", "k"): 1})
    rewrite.remove_lines(old, new, rows)
    assert prove.prove_lines(old, new, rows) == 2
    assert Path(new).read_text().splitlines() == [lines[0], lines[3]]
    with pytest.raises(ShardError, match="new.jsonl: expected the other lines as they were"):
        prove.prove_lines(old, new, Counter({("b", "s", "k"): 1}))


@pytest.mark.parametrize("gone", [[], [0], [3, 9], list(range(10))])
def test_a_contact_sheet_is_drawn_again_from_what_is_left(tmp_path, gone):
    noise = np.random.default_rng(0).integers(0, 256, (10, 2, 144, 144, 3), np.uint8)
    pairs = [Cell(pair, f"number {number}") for number, pair in enumerate(noise)]
    sheet, left = draw_contact_sheet(pairs, "title"), [pair for n, pair in enumerate(pairs) if n not in gone]
    (tmp_path / "old.png").write_bytes(sheet)
    (tmp_path / "left.png").write_bytes(draw_contact_sheet(left, "title"))
    before, expected = rewrite.read_pixels(f"{tmp_path}/old.png"), rewrite.read_pixels(f"{tmp_path}/left.png")
    assert np.array_equal(remove_cells(before, 10, gone), expected)
    rewrite.cut_sheet(f"{tmp_path}/old.png", f"{tmp_path}/new.png", 10, gone)
    assert prove.prove_sheet(f"{tmp_path}/old.png", f"{tmp_path}/new.png", 10, gone) == 10 - len(gone)
    if 0 < len(gone) < 10:
        with pytest.raises(ShardError, match="expected the picture as it was"):
            prove.prove_sheet(f"{tmp_path}/old.png", f"{tmp_path}/new.png", 10, [7, 8][: len(gone)])
    assert len(cut_pairs(expected, len(left))) == len(left)


@pytest.fixture
def trained(tmp_path, plain_png):
    """A tokenizer's training on a source without filter, with pictures; made with its settings and rows."""

    def make(
        name: str, inputs: dict[str, str], config: dict, rows: list[LedgerRow], stage: str = "train_tokenizer"
    ) -> Path:
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        if rows:
            write_ledger(f"{path}/images.parquet", rows)
        (path / "reconstructions.png").write_bytes(plain_png(7))
        (path / "tokenizer.safetensors").write_bytes(b"weights")
        (path / "tensorboard").mkdir()
        (path / "tensorboard" / "events").write_bytes(b"pictures")
        records = [record_shard(str(path), file.name, 0) for file in path.iterdir() if file.is_file()]
        beginning = Beginning(stage=stage, config=config, inputs=inputs)
        StageDirectory(str(path), beginning).finish(records, {"pictures": 30}, {"psnr_db": 1.0})
        return path

    return make


def forget_row(runs: Path, number: int) -> list[str]:
    lines: list[str] = []
    forget(str(runs), read_names([f"{number:032x}"], [], [], []), lines.append)
    return lines


@pytest.mark.parametrize("stage", ["train_tokenizer", "train_dvae", "train_palette", "train_upsampler"])
@pytest.mark.parametrize(("number", "is_drawn"), [(3, True), (11, True), (12, False), (29, False)])
def test_an_index_loses_the_row_and_pictures_that_may_show_it_turn_grey(trained, plain_png, stage, number, is_drawn):
    path = trained("tokenizer", {"source": "d"}, {}, [row(one) for one in range(30)], stage)
    lines = forget_row(path.parent, number)
    assert f"{number:032x}" not in said_by(path)
    assert len(list(read_ledger(f"{path}/images.parquet"))) == 29
    assert ((path / "reconstructions.png").read_bytes() != plain_png(7)) == is_drawn
    assert (path / "reconstructions.png").read_bytes() == (plain_png(200) if is_drawn else plain_png(7))
    assert (path / "tensorboard").exists() != is_drawn
    assert "not unlearned: tokenizer was trained on rows that are forgotten; train it anew in a new output" in lines
    manifest = read_manifest(str(path))
    assert [record_shard(str(path), one.name, one.rows) for one in manifest.shards] == manifest.shards
    assert manifest.inputs == {"source": "d"}
    assert lines[1].startswith(f"tokenizer: 1 row; {2 if is_drawn else 1} file")


def test_pictures_of_a_training_on_filtered_pairs_turn_grey_and_its_manifest_names_what_it_was_trained_on(
    trained, filtered, plain_png
):
    import shutil

    first = trained("tokenizer", {"source": manifest_digest(filtered)}, {"source": "pairs"}, [])
    shutil.copytree(filtered, first.parent / "pairs")
    rows = [one for one in read_ledger(f"{filtered}/ledger-00000-of-00003.parquet") if one.outcome == "kept"]
    lines: list[str] = []
    forget(str(first.parent), read_names([rows[1].key], [], [], []), lines.append)
    assert (first / "reconstructions.png").read_bytes() == plain_png(200)
    assert read_manifest(str(first)).inputs == {"source": manifest_digest(filtered)}
    assert "not unlearned: tokenizer was trained on rows that are forgotten; train it anew in a new output" in lines


def test_a_training_on_what_is_not_here_is_told_and_left_as_it_is(trained, filtered, plain_png):
    import shutil

    path = trained("tokenizer", {"source": "of before it was judged again"}, {}, [])
    shutil.copytree(filtered, path.parent / "pairs")
    key = next(one.key for one in read_ledger(f"{filtered}/ledger-00000-of-00003.parquet") if one.outcome == "kept")
    lines: list[str] = []
    forget(str(path.parent), read_names([key], [], [], []), lines.append)
    assert (path / "reconstructions.png").read_bytes() == plain_png(7)
    assert [line for line in lines if line.startswith("not sure of tokenizer: its source is none of these stages")]


def test_a_held_out_image_is_taken_for_drawn(trained, plain_png):
    held_out = trained("tokenizer", {"source": "d", "held_out": "e"}, {}, [row(one) for one in range(3)])
    write_ledger(f"{held_out}/held_out.parquet", [row(one) for one in range(3, 40)])
    manifest = read_manifest(str(held_out))
    records = [*manifest.shards, record_shard(str(held_out), "held_out.parquet", 0)]
    StageDirectory(str(held_out), Beginning.model_validate(manifest.model_dump(include={"stage", "config", "inputs"}))
    ).finish(records, manifest.counts, manifest.details)  # fmt: skip
    forget_row(held_out.parent, 1)
    assert (held_out / "reconstructions.png").read_bytes() == plain_png(7)
    forget_row(held_out.parent, 38)
    assert (held_out / "reconstructions.png").read_bytes() == plain_png(200)


def test_a_share_that_is_held_out_is_what_is_drawn(trained, plain_png):
    rows = [row(one)._replace(key=f"{one:024x}{'0' if one % 2 else 'f'}{one:07x}") for one in range(60)]
    path = trained("tokenizer", {"source": "d"}, {"held_out_share": 0.5}, rows)
    for number, is_drawn in ((0, False), (25, False), (23, True)):
        forget(str(path.parent), read_names([rows[number].key], [], [], []), silent)
        assert ((path / "reconstructions.png").read_bytes() == plain_png(200)) == is_drawn, number


def test_grey_is_as_large_as_the_picture(tmp_path):
    (tmp_path / "old.png").write_bytes(to_png(np.zeros((5, 9, 3), np.uint8)))
    rewrite.blank_picture(f"{tmp_path}/old.png", f"{tmp_path}/new.png")
    assert rewrite.read_pixels(f"{tmp_path}/new.png").shape == (5, 9, 3)


def test_a_file_without_a_column_that_is_read_is_refused(tmp_path):
    pq.write_table(pa.table({"kez": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(ShardError, match='t.parquet: expected a Parquet file with rows, found \'Field "key" does not'):
        list(read_columns(f"{tmp_path}/t.parquet", ["key", "attributes"]))
    (tmp_path / "t.parquet").write_bytes(b"PAR1" * 9)
    with pytest.raises(ShardError, match="t.parquet: expected a Parquet file, found .*; check the path"):
        read_footer(f"{tmp_path}/t.parquet")
