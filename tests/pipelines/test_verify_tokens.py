import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from spoiled_tokens import (
    codes_of,
    edit_manifest,
    first_shard,
    reconfigure,
    redescribe,
    restate,
    rewrite,
    shards_of,
    with_column,
    with_tokens,
    write_anyhow,
)

from parti_data.errors import ShardError
from parti_data.manifest import read_manifest
from parti_data.storage import digest_json
from parti_data.token_directory import open_token_directory
from parti_data.token_shard import order_hash, read_metadata, read_row_group
from pipelines.verify import verify
from pipelines.verify_pictures import choose_rows, read_rows

FIRST = "tokens-00000-of-00003.parquet"


@pytest.fixture
def copy(tokens, tmp_path) -> Path:
    return Path(shutil.copytree(tokens, tmp_path / "copy"))


def faults_of(directory: Path) -> list[str]:
    """What verify tells, without the directory's path; pictures are not made again."""
    with pytest.raises(ShardError) as found:
        verify(str(directory), 0)
    return [
        line.strip().removeprefix(f"{directory}/").removeprefix(f"{directory}: ")
        for line in str(found.value).split("\n")[1:]
    ]


def first_keys(directory: Path) -> list[str]:
    return read_row_group(str(first_shard(directory)), 0).column("key").to_pylist()


def test_a_flipped_bit_behind_a_right_digest_is_found_by_the_page_checksum(copy):
    path = first_shard(copy)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    restate(copy, path.name)
    assert any(fault.startswith(f"{FIRST}: expected row group 0, found") for fault in faults_of(copy))


def test_text_ids_that_the_tokenizer_does_not_give_are_found(copy):
    def change(table, metadata):
        ids = table.column("text_ids").to_pylist()
        ids[3][0][0] = 3 if ids[3][0][0] != 3 else 4
        return with_column(table, "text_ids", ids), metadata

    rewrite(copy, change)
    assert faults_of(copy) == [
        f"{FIRST}: row group 0, row {first_keys(copy)[3]}: expected the text_ids that the text tokenizer gives its "
        "captions, found others"
    ]


def test_captions_are_not_tokenized_again_without_their_tokenizer_and_that_is_said(copy, tmp_path):
    edit_manifest(copy, lambda manifest: manifest["details"]["places"].update(text_tokenizer=f"{tmp_path}/none"))
    assert verify(str(copy), 0)[-1].startswith(
        f"{copy}: captions not tokenized again, for want of what did it ({tmp_path}/none: expected a SentencePiece"
    )
    edit_manifest(copy, lambda manifest: manifest["details"].pop("places"))
    assert "expected a manifest that tells the places of" in verify(str(copy), 0)[-1]


def test_tokens_beyond_the_codebook_are_found(copy):
    rewrite(copy, lambda table, metadata: (with_tokens(table, codes_of(table) + 64), metadata))
    (fault,) = [fault for fault in faults_of(copy) if "image tokens" in fault]
    assert fault.startswith(f"{FIRST}: row group 0, row {first_keys(copy)[0]}: expected image tokens from 0 to 63, fou")


def test_text_ids_beyond_the_vocabulary_are_found(copy):
    redescribe(copy, text_vocabulary_size=5)
    found = faults_of(copy)
    assert len(found) == 3
    assert all(
        re.search("row group 0, row .{32}: expected text ids from 0 to 4, found [0-9]+$", fault) for fault in found
    )


def test_captions_without_text_ids_are_found(copy):
    def change(table, metadata):
        captions = table.column("captions").to_pylist()
        return with_column(table, "captions", [*captions[:2], [*captions[2], "one more"], *captions[3:]]), metadata

    rewrite(copy, change)
    count = len(read_row_group(str(first_shard(copy)), 0).column("captions").to_pylist()[2])
    assert f"expected text ids of {count} captions, found {count - 1}" in faults_of(copy)[0]


@pytest.mark.parametrize("key", ["", "ab" * 15, "AB" * 16, "g" * 32, "ab" * 17])
def test_keys_that_are_no_hex_digits_are_found(copy, key):
    def change(table, metadata):
        return with_column(table, "key", [key, *table.column("key").to_pylist()[1:]]), metadata

    rewrite(copy, change)
    assert f"expected keys of 32 hex digits, found {key!r}" in faults_of(copy)[0]


def test_rows_out_of_order_are_found(copy):
    rewrite(copy, lambda table, metadata: (table.take(pa.array([1, 0, *range(2, len(table))])), metadata))
    assert faults_of(copy) == [
        f"{FIRST}: row group 0, row {first_keys(copy)[1]}, view 0: expected rows in the order of their hash, found it "
        "out of order"
    ]


def test_a_row_that_is_there_twice_is_found(copy):
    rewrite(copy, lambda table, metadata: (table.take(pa.array([0, 0, *range(2, len(table))])), metadata))
    assert "view 0: expected every key and view once, found them twice" in faults_of(copy)[0]


def test_a_row_of_another_shard_is_found(copy):
    other = read_row_group(str(shards_of(copy)[1]), 0).slice(0, 1)

    def change(table, metadata):
        joined = pa.concat_tables([table.slice(1), other])
        places = [order_hash(key, 0, 0) for key in joined.column("key").to_pylist()]
        return joined.take(pa.array(np.argsort(np.array(places, np.uint64)))), metadata

    rewrite(copy, change)
    key = other.column("key")[0].as_py()
    assert f"row {key}, view 0: expected it in shard 1 by its hash, found it in 0" in faults_of(copy)[0]


def test_the_order_that_is_checked_is_the_one_of_the_seed(copy):
    reconfigure(copy, lambda config: config.update(seed=7))
    assert any("expected rows in the order of their hash" in fault for fault in faults_of(copy))


def test_a_config_that_the_shards_were_not_made_with_is_found(copy):
    edit_manifest(copy, lambda manifest: manifest["config"].update(seed=7))
    assert faults_of(copy) == ["expected the config that its shards were made with, found another in its manifest"]


def test_a_row_too_few_is_found(copy):
    rewrite(copy, lambda table, metadata: (table.slice(1), metadata))
    rows = read_manifest(str(copy)).shards[0].rows
    assert f"{FIRST}: expected {rows} rows, found {rows - 1}" in faults_of(copy)


def test_counts_that_do_not_add_up_are_found(copy):
    edit_manifest(copy, lambda manifest: manifest["counts"].update(rows=80, pairs=72))
    assert faults_of(copy) == [
        "expected 80 rows as the manifest counts, found shards of 72",
        "expected 1 rows of each of 72 pairs, found 80 rows",
    ]


def test_a_quality_that_the_tokens_do_not_have_is_found(copy):
    edit_manifest(copy, lambda manifest: manifest["details"]["quality"]["shards"][FIRST].update(code_usage=0.25))
    (fault,) = faults_of(copy)
    assert fault.startswith(f"{FIRST}: expected code_usage 0.25 as the manifest keeps, found 0.")


def test_other_metadata_are_found(copy):
    rewrite(copy, lambda table, metadata: (table, metadata.model_copy(update={"precision": "bfloat16"})))
    assert faults_of(copy) == [f"{FIRST}: expected the precision 'float32' that the manifest states, found 'bfloat16'"]


def test_shards_that_name_another_making_than_the_run_s_are_found(copy):
    reconfigure(copy, lambda config: config["execution"].update(compile=True))
    assert faults_of(copy) == ["expected compile True as the run was configured, found False"]
    redescribe(copy, compile=True, image_tokenizer="ab" * 32)
    assert faults_of(copy)[0].endswith(f"as the run was configured, found '{'ab' * 32}'")


def test_a_file_that_the_manifest_does_not_know_is_found(copy):
    shutil.copy(first_shard(copy), copy / "tokens-00003-of-00004.parquet")
    assert faults_of(copy) == ["tokens-00003-of-00004.parquet: expected only files of the manifest, found another"]


def test_a_shard_with_another_name_is_found(copy):
    first_shard(copy).rename(copy / "part-0.parquet")
    edit_manifest(copy, lambda manifest: manifest["shards"][0].update(name="part-0.parquet"))
    assert faults_of(copy) == ["part-0.parquet: expected a name like tokens-00000-of-00001.parquet, found another"]


@pytest.mark.parametrize(
    ("writing", "fault"),
    [
        ({"compression": "snappy"}, "expected key compressed with ZSTD, found SNAPPY in row group 0"),
        ({"write_statistics": ["key", "view"]}, "expected statistics of key alone, found them of key, view in row gr"),
        ({"write_statistics": False}, "expected statistics of key alone, found them of nothing in row group 0"),
        ({"write_page_checksum": False}, "expected a checksum of every page, found none of one of key in row group 0"),
        (
            {"use_dictionary": False},
            "expected image_tokens.list.element encoded as RLE_DICTIONARY, found PLAIN in row group 0",
        ),
        (
            {"use_dictionary": ["source"]},
            "expected source encoded as PLAIN, found RLE_DICTIONARY in row group 0",
        ),
    ],
)
def test_another_form_is_found(copy, writing, fault):
    rewrite(copy, lambda table, metadata: (table, metadata), **writing)
    assert any(found.startswith(f"{FIRST}: {fault}") for found in faults_of(copy))


@pytest.mark.parametrize(
    ("cuts", "stated", "fault"),
    [
        ((0, 5), 4096, "expected row groups of 4096 rows, so {rows} in number 0, found 5"),
        ((0, 5), 5, "expected row groups of 5 rows, so 5 in number 1, found {rest}"),
        ((0,), 10, "expected row groups of 10 rows, so 10 in number 0, found {rows}"),
        ((0, 10, 10, 20), 10, "expected row groups of 10 rows, so 10 in number 1, found 0"),
    ],
)
def test_row_groups_of_other_sizes_are_found(copy, cuts, stated, fault):
    path = first_shard(copy)
    table, metadata = read_row_group(str(path), 0), read_metadata(str(path))[0]
    ends = [*cuts[1:], len(table)]
    write_anyhow(path, [table.slice(cut, end - cut) for cut, end in zip(cuts, ends, strict=True)], metadata)
    restate(copy, path.name)
    edit_manifest(copy, lambda manifest: manifest["details"].update(row_group_rows=stated))
    said = f"{FIRST}: {fault.format(rows=len(table), rest=len(table) - 5)}"
    assert said in faults_of(copy)


def test_row_groups_of_the_size_that_the_manifest_states_are_good(copy):
    for path in shards_of(copy):
        table, metadata = read_row_group(str(path), 0), read_metadata(str(path))[0]
        write_anyhow(path, [table.slice(start, 10) for start in range(0, len(table), 10)], metadata)
        restate(copy, path.name)
    edit_manifest(copy, lambda manifest: manifest["details"].update(row_group_rows=10))
    assert verify(str(copy), 1000)[-1] == f"{copy}: 72 rows encoded again, all ids equal"


@pytest.mark.parametrize("stated", [0, "4096", None])
def test_a_size_of_row_groups_that_is_none_is_refused(copy, stated):
    edit_manifest(copy, lambda manifest: manifest["details"].update(row_group_rows=stated))
    with pytest.raises(ShardError, match="expected a manifest with row_group_rows of at least 1, found"):
        verify(str(copy))


def test_the_sample_is_spread_over_all_shards(tokens):
    directory = open_token_directory(tokens)
    every = [row["key"] for row in read_rows(directory, list(range(72)))]
    assert every == [
        key for path in shards_of(Path(tokens)) for key in read_row_group(str(path), 0).column("key").to_pylist()
    ]
    for count in (1, 3, 20, 72, 100):
        places = choose_rows(directory, count)
        assert places == choose_rows(directory, count)
        assert len(set(places)) == min(count, 72)
        assert all(number * 72 // count <= place for number, place in enumerate(places))


@pytest.fixture
def imported(copy) -> Path:
    """What an import leaves: shards whose pictures are not there."""

    def change(manifest: dict) -> None:
        manifest["stage"] = "import_tokens"
        manifest["details"] = {name: manifest["details"][name] for name in ("metadata", "places")}
        manifest["details"]["places"]["source"] = "elsewhere"
        manifest["counts"] = {"read": 72, "dropped": 0, "rows": 72}

    edit_manifest(copy, change)
    (copy / "quality.png").unlink()
    return copy


def test_imported_tokens_are_decoded_again(imported):
    assert verify(str(imported)) == [
        f"{imported}: 3 files of import_tokens as the manifest says",
        f"{imported}: 64 rows decoded again; there are no pictures to compare",
    ]


def test_imported_tokens_whose_tokenizer_was_declared_are_not_decoded_and_that_is_said(imported):
    edit_manifest(imported, lambda manifest: manifest["details"]["places"].update(image_tokenizer=""))
    assert verify(str(imported))[-1].endswith(
        "tokens not decoded again, for want of what made them (it was declared, and no file given)"
    )


@pytest.mark.parametrize("kept", [{}, [], {FIRST: {"rows": 1}}])
def test_what_an_import_keeps_of_its_shards_is_checked(imported, kept):
    edit_manifest(imported, lambda manifest: manifest["details"].update(shards=kept))
    if not kept:
        assert verify(str(imported), 0)
        return
    said = f"{FIRST}: expected a manifest that tells the quality of its tokens, found Field required"
    assert faults_of(imported) == [said]


def test_what_is_wrong_with_imported_tokens_is_found(imported):
    rewrite(imported, lambda table, metadata: (with_tokens(table, codes_of(table) + 64), metadata))
    assert "expected image tokens from 0 to 63" in faults_of(imported)[0]


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"views": {"kind": 3}}, "expected a config that tells views, found Input should be 'center'"),
        ({"views": None}, "expected a config that tells views, found Input should be"),
        ({"execution": 1.5}, "expected execution 1.5 as the run was configured, found None"),
        ({"execution": {"luck": 1}}, "expected luck 1 as the run was configured, found None"),
    ],
)
def test_a_config_that_is_none_is_a_fault(copy, config, fault):
    def change(manifest: dict) -> None:
        manifest["config"].update(config)
        manifest["details"]["metadata"]["config_digest"] = digest_json(manifest["config"])

    edit_manifest(copy, change)
    assert fault in "\n".join(faults_of(copy))


@pytest.mark.parametrize("places", [None, 3, "../x", {"source": 3}])
def test_places_that_are_none_are_told_to_be_missing(copy, places):
    edit_manifest(copy, lambda manifest: manifest["details"].update(places=places))
    assert "expected a manifest that tells the places of" in verify(str(copy), 0)[-1]


def test_a_manifest_that_claims_more_rows_than_can_be_listed_is_refused(copy):
    edit_manifest(copy, lambda manifest: manifest["shards"][0].update(rows=10**12))
    with pytest.raises(
        ShardError, match="expected a manifest with at most 16777216 row groups, found 244140627; write"
    ):
        open_token_directory(str(copy))
