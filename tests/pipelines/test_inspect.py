import io
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from parti_data.code_counts import RowGroup
from parti_data.contact_sheet import CELL_PX
from parti_data.errors import ConfigError, ShardError, TokenizerError
from parti_data.manifest import Beginning, StageDirectory, begin, read_manifest, record_shard
from parti_data.token_shard import ShardMetadata, TokenRow, to_table, write_tables
from pipelines.command_line import main
from pipelines.inspect import draw_rows, inspect_shards, inspection_lines
from pipelines.inspect.bars import Bin, bar, bin_lengths
from pipelines.inspect.measure import SAMPLED_GROUPS, spread
from pipelines.inspect.say import bin_codes, say_type
from pipelines.inspect.shard_set import MOST_GROUP_BYTES, spread_groups

GROUP = 4


def make_metadata(**changes) -> ShardMetadata:
    values = {"codebook_size": 16, "text_vocabulary_size": 100, "image_tokenizer_name": "vit_vqgan"} | changes
    return ShardMetadata(
        image_tokenizer="a" * 64, grid_side=2, image_side=32, resize_recipe="r", resize_library="l",
        precision="float32", text_tokenizer="b" * 64, config_digest="c", input_digest="d", **values,
    )  # fmt: skip


def make_rows(count: int) -> list[TokenRow]:
    """Rows of two views an image, with one or two captions, each code as often as any other."""
    return [
        TokenRow(
            f"{n // 2:032x}", n % 2, [n, 0, 8, 8], n % 2 == 1, [f"caption {n}", "☃"][: 1 + n % 4 // 2],
            [list(range(2 + n % 3)), [2]][: 1 + n % 4 // 2], np.arange(4 * n, 4 * n + 4) % 16, "s", f"{n}",
        )
        for n in range(count)
    ]  # fmt: skip


def make_directory(
    path: Path, counts: list[int], metadata: ShardMetadata | None = None, group_rows: int = GROUP
) -> str:
    """A directory of token shards with so many rows each, in row groups of four."""
    metadata = metadata or make_metadata()
    begun = begin(str(path), Beginning(stage="tokenize", config={}, inputs={}))
    assert isinstance(begun, StageDirectory)
    records = []
    for number, count in enumerate(counts):
        name, table = f"tokens-{number:05d}-of-{len(counts):05d}.parquet", to_table(make_rows(count), metadata)
        groups = [table.slice(start, GROUP) for start in range(0, max(count, 1), GROUP)]
        write_tables(f"{path}/{name}", groups, metadata)
        records.append(record_shard(str(path), name, count))
    details = {"metadata": metadata.model_dump(), "row_group_rows": group_rows}
    begun.finish(records, {"pairs": sum(counts) // 2, "rows": sum(counts)}, details)
    return str(path)


def say(path: str, num_rows: int = 2, read_all: bool = False) -> str:
    return "\n".join(inspection_lines(inspect_shards(path, num_rows, read_all)))


def test_a_directory_is_described_line_by_line(tmp_path):
    lines = say(make_directory(tmp_path / "tokens", [8, 6]), 1).splitlines()
    assert lines[0] == f"{tmp_path}/tokens"
    assert lines[3:10] == [
        "  shards      2 of 6 to 8 rows",
        "  rows        14",
        "  images      7, 2 views an image",
        "  captions    1.43 an image (1: 57.1 %, 2: 42.9 %)",
        lines[7],
        "  row groups  4 of 2 to 4 rows",
        "  read        all 14 rows",
    ]
    codes = lines.index("codes of 56 tokens")
    assert lines[codes + 1 : codes + 3] == [
        "  in use         16 of 16, 100 %",
        "  entropy        3.99 bits a token, 4.00 if all codes were as frequent",
    ]
    assert lines[-6:] == [
        "first 1 rows",
        "  00000000000000000000000000000000  view 0, box 0 0 8 8",
        "    from     s 0",
        "    caption  caption 0",
        "    ids      0 1",
        "    tokens   0 1 2 3",
    ]


def test_all_metadata_is_told(tmp_path):
    metadata = make_metadata()
    text = say(make_directory(tmp_path / "tokens", [3]))
    for name, value in metadata.model_dump().items():
        assert f"  {name:<20}  {value}\n" in text


def test_columns_are_told_as_they_are_stored(tmp_path):
    path = make_directory(tmp_path / "tokens", [8, 8])
    lines = say(path).splitlines()
    start = lines.index(next(line for line in lines if line.startswith("columns, by parquet-cpp-arrow")))
    table = {line.split()[0]: line for line in lines[start + 2 : start + 11]}
    assert list(table) == list(TokenRow._fields)
    assert "uint16[4]   INT32       PLAIN RLE RLE_DICTIONARY  ZSTD" in table["image_tokens"]
    assert "statistics" in table["key"]
    shards = [pq.ParquetFile(f"{path}/{shard.name}").metadata for shard in read_manifest(path).shards]
    chunks = [shard.row_group(n).column(6) for shard in shards for n in range(shard.num_row_groups)]
    num_bytes = sum(chunk.total_compressed_size for chunk in chunks)
    assert f"  on disk  {num_bytes / 16:,.1f}, {8 * num_bytes / 64:.2f} bits a token" in lines
    assert any(line.startswith("  packed   2.0, 4 bits a token; on disk ") for line in lines)
    assert any(line.startswith("  entropy  2.0, the least of order 0; on disk ") for line in lines)


def test_one_file_is_described_too(tmp_path):
    make_directory(tmp_path / "tokens", [8, 6])
    lines = say(f"{tmp_path}/tokens/tokens-00001-of-00002.parquet").splitlines()
    assert lines[1] == "  stage       none: one file"
    assert lines[4:6] == ["  rows        6", "  images      3, 2 views an image"]


def test_files_of_uneven_row_groups_are_read_whole(tmp_path):
    metadata = make_metadata()
    tables = [to_table(make_rows(count), metadata) for count in (3, 0, 2)]
    write_tables(f"{tmp_path}/t.parquet", tables, metadata)
    found = inspect_shards(f"{tmp_path}/t.parquet", 9, False)
    assert (found.codes.rows, found.is_whole) == (5, True)
    assert len(found.first_rows) == 3
    assert len(found.spread_rows) == 5


def test_only_some_row_groups_are_read_of_many_unless_all_are_asked_for(tmp_path):
    path = make_directory(tmp_path / "tokens", [40, 40])
    found = inspect_shards(path, 2, False)
    assert (found.groups, found.all_groups, found.codes.rows) == (SAMPLED_GROUPS, 20, 4 * SAMPLED_GROUPS)
    assert "64 rows, 16 row groups spread over all; the rest with --all" in say(path)
    whole = inspect_shards(path, 2, True)
    assert (whole.is_whole, whole.codes.rows) == (True, 80)


def test_of_many_shards_only_those_that_are_read_are_opened(tmp_path):
    path = make_directory(tmp_path / "tokens", [4] * 20)
    for shard in range(20):
        if shard not in {number * 20 // 16 for number in range(16)}:
            Path(path, f"tokens-{shard:05d}-of-00020.parquet").unlink()
    assert "of 16 shards" in say(path)


@pytest.mark.parametrize(("count", "at_most"), [(0, 3), (2, 3), (3, 3), (10, 3), (17, 16)])
def test_row_groups_are_spread_from_the_first_one_on(count, at_most):
    groups = [RowGroup("a", number) for number in range(count)]
    found = spread_groups(groups, at_most)
    assert len(found) == min(count, at_most)
    assert found[:1] == groups[:1]
    assert sorted(set(found)) == found
    gaps = {after.number - before.number for before, after in pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_rows_for_the_picture_come_from_all_row_groups_in_turn():
    groups = [[{"n": 1}, {"n": 2}], [{"n": 3}], [{"n": 4}, {"n": 5}]]
    assert [row["n"] for row in spread(groups, 4)] == [1, 3, 4, 2]
    assert [row["n"] for row in spread(groups, 9)] == [1, 3, 4, 2, 5]
    assert spread([], 3) == []


@pytest.mark.parametrize(
    ("share", "expected"), [(0, ""), (1e-9, "▏"), (0.5, "█" * 20), (0.51, "█" * 20 + "▍"), (1, "█" * 40)]
)
def test_a_bar_is_as_long_as_its_share(share, expected):
    assert bar(share) == expected


def test_lengths_are_binned_evenly_and_all_counted():
    assert bin_lengths(Counter()) == []
    assert bin_lengths(Counter({3: 2, 5: 1})) == [Bin("3", 2), Bin("4", 0), Bin("5", 1)]
    bins = bin_lengths(Counter(range(1, 101)))
    assert len(bins) == 12
    assert bins[0] == Bin("1–9", 9)
    assert sum(one.count for one in bins) == 100


def test_codes_are_binned_by_multiples_of_an_even_share():
    bins = bin_codes(np.array([0, 1, 5, 9, 10, 19, 36, 0]))
    assert [(one.name, one.count) for one in bins] == [
        ("never", 2), ("< 0.25", 1), ("0.25–0.5", 0), ("0.5–1", 2), ("1–2", 2), ("2–4", 1), ("≥ 4", 0)
    ]  # fmt: skip  # even: 10 of each
    assert bin_codes(np.array([0, 0, 0, 40, 0, 0, 0, 0]))[-1] == Bin("≥ 4", 1)


def test_types_are_said_in_short():
    assert say_type(pa.list_(pa.list_(pa.uint16()))) == "uint16[][]"
    assert say_type(pa.list_(pa.int32(), 4)) == "int32[4]"


def test_texts_of_strangers_move_no_cursor(tmp_path):
    metadata = make_metadata(image_tokenizer_name="a\x1b[2J")
    row = make_rows(1)[0]._replace(captions=["b\x1b]0;x\x07\nc"], key="\x1bk", source="\x1bs", source_key="\x9bq")
    write_tables(f"{tmp_path}/t.parquet", [to_table([row], metadata)], metadata)
    text = say(f"{tmp_path}/t.parquet")
    assert not set(text) & set("\x1b\x07\x9b")
    assert "    caption  b]0;x c" in text


def test_a_directory_without_rows_is_described(tmp_path):
    assert "text ids: none" in say(make_directory(tmp_path / "tokens", [0]))


def test_a_cut_file_a_foreign_file_and_nothing_end_in_one_line(tmp_path):
    path = Path(make_directory(tmp_path / "tokens", [8]), "tokens-00000-of-00001.parquet")
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-9])
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    for name, message in (
        ("cut.parquet", "cut.parquet: expected a token shard, found Parquet magic bytes not found"),
        ("foreign.parquet", "found a Parquet file without the metadata 'parti'; check the path"),
        ("none", "none: expected a directory of token shards or one of its files, found none; check the path"),
        (".", "expected a finished directory with manifest.json, found none; run its stage first"),
    ):
        with pytest.raises(ShardError, match=message) as raised:
            inspect_shards(f"{tmp_path}/{name}", 1, False)
        assert "\n" not in str(raised.value)


def test_a_flipped_bit_in_what_is_read_is_found(tmp_path):
    path = Path(make_directory(tmp_path / "tokens", [8]), "tokens-00000-of-00001.parquet")
    content = bytearray(path.read_bytes())
    content[150] ^= 4
    path.write_bytes(content)
    with pytest.raises(ShardError, match="expected row group 0, found"):
        inspect_shards(str(tmp_path / "tokens"), 1, False)


def test_shards_that_are_not_as_the_manifest_states_are_refused(tmp_path):
    path = Path(make_directory(tmp_path / "tokens", [8]), "tokens-00000-of-00001.parquet")
    for number, (metadata, count, message) in enumerate(
        [
            (make_metadata(codebook_size=32), 8, "expected the metadata that the manifest states, found other; see pa"),
            (make_metadata(), 9, "expected 8 rows in 2 row groups as the manifest states, found 9 in 3; see parti ver"),
        ]
    ):
        other = Path(make_directory(tmp_path / f"other-{number}", [count], metadata), path.name)
        path.write_bytes(other.read_bytes())
        with pytest.raises(ShardError, match=message):
            inspect_shards(str(tmp_path / "tokens"), 1, False)


def test_a_row_group_that_memory_may_not_hold_is_refused(tmp_path, monkeypatch):
    path = make_directory(tmp_path / "tokens", [8])
    monkeypatch.setattr("pipelines.inspect.shard_set.MOST_GROUP_BYTES", 100)
    with pytest.raises(ShardError, match=r"expected row groups of at most 100 bytes, found one of \d+; write it in sm"):
        inspect_shards(path, 1, False)
    assert MOST_GROUP_BYTES == 1 << 30


def test_rows_are_drawn_by_the_tokenizer_that_the_manifest_names(tokens):
    found = inspect_shards(tokens, 10, False)
    with Image.open(io.BytesIO(draw_rows(found.shards, found.spread_rows, ""))) as sheet:
        assert sheet.width > 8 * CELL_PX
        assert sheet.height > 2 * CELL_PX
        assert len(set(sheet.crop((8, 30, 8 + CELL_PX, 30 + CELL_PX)).tobytes())) > 1  # not a plain square


def test_another_tokenizer_or_none_is_refused(tokens, tmp_path, make_image_file):
    other = make_image_file(tmp_path / "other.safetensors", 1)
    found = inspect_shards(tokens, 1, False)
    with pytest.raises(
        TokenizerError, match="other.safetensors: expected the tokenizer .* that made the tokens, found"
    ):
        draw_rows(found.shards, found.spread_rows, other)
    alone = inspect_shards(f"{tokens}/{read_manifest(tokens).shards[0].name}", 1, False)
    with pytest.raises(ConfigError, match="--picture: expected a tokenizer for .*, found none; add --tokenizer=FILE"):
        draw_rows(alone.shards, alone.spread_rows, "")


def test_a_manifest_that_tells_no_reading_is_refused(tokens):
    found = inspect_shards(tokens, 1, False)
    assert found.shards.manifest
    found.shards.manifest.details["tokenizer"] = {"luck": 1}
    with pytest.raises(ShardError, match="expected a manifest that tells how its tokenizer is read, found Extra inp"):
        draw_rows(found.shards, found.spread_rows, "")


def test_a_picture_of_no_rows_is_refused(tmp_path):
    found = inspect_shards(make_directory(tmp_path / "tokens", [0]), 1, False)
    with pytest.raises(ShardError, match="tokens: expected rows to draw, found none; leave --picture out"):
        draw_rows(found.shards, found.spread_rows, "")


def test_the_command_prints_and_draws(tokens, tmp_path, image_file, capsys):
    shard = f"{tokens}/{read_manifest(tokens).shards[0].name}"
    picture = tmp_path / "rows.png"
    with pytest.raises(SystemExit, match="0"):
        main(["inspect", shard, "--rows=3", f"--picture={picture}", f"--tokenizer={image_file}"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{shard}\n  stage ")
    assert printed.endswith(f"\n\n{picture}: 3 rows\n")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokenizer=a"], "--tokenizer: expected with --picture alone, found without; add --picture=FILE.png"),
        (["--picture=a.jpg"], "--picture: expected a name that ends in .png, found a.jpg; add it"),
    ],
)
def test_options_that_go_nowhere_are_refused(options, message, tokens, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", tokens, *options])
    assert message in capsys.readouterr().err


def test_what_a_terminal_cannot_show_is_replaced(tokens):
    arguments = [sys.executable, "-m", "pipelines.command_line", "inspect", tokens]
    run = subprocess.run(arguments, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=True)
    assert b"codes of" in run.stdout
    assert run.stdout.isascii()
