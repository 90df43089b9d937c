import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from parti_data.errors import ShardError
from parti_data.ledger import read_ledger, write_ledger
from parti_data.manifest import MANIFEST, read_manifest, record_shard
from parti_data.sources import SyntheticSource
from parti_data.token_shard import order_hash, read_metadata, read_row_group, write_token_shard
from parti_data.views import Views
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.tokenize import tokenize_pairs
from pipelines.verify import verify


@pytest.fixture
def copy(tokens, tmp_path) -> Path:
    return Path(shutil.copytree(tokens, tmp_path / "copy"))


def restate(directory: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed, so that only a look inside can find it."""
    manifest = json.loads((directory / MANIFEST).read_text())
    for number, shard in enumerate(manifest["shards"]):
        if shard["name"] == name:
            manifest["shards"][number] = record_shard(str(directory), name, shard["rows"]).model_dump()
    (directory / MANIFEST).write_text(json.dumps(manifest))


def first_shard(directory: Path) -> Path:
    return directory / read_manifest(str(directory)).shards[0].name


def rewrite(directory: Path, change) -> None:
    """Put a changed table into the first shard, and the manifest right."""
    path = first_shard(directory)
    table, metadata = read_row_group(str(path), 0), read_metadata(str(path))[0]
    table, metadata = change(table, metadata)
    write_token_shard(str(path), table, metadata)
    restate(directory, path.name)


def with_tokens(table: pa.Table, codes: np.ndarray) -> pa.Table:
    kind = table.schema.field("image_tokens").type
    column = pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel().astype(np.uint16)), type=kind)
    position = table.schema.get_field_index("image_tokens")
    return table.set_column(position, table.schema.field(position), column)


def codes_of(table: pa.Table) -> np.ndarray:
    return np.array(table.column("image_tokens").to_pylist())


@pytest.mark.parametrize("stage", ["filtered", "sharded"])
def test_a_finished_ledger_is_good(request, stage):
    directory = request.getfixturevalue(stage)
    manifest = read_manifest(directory)
    assert verify(directory) == [f"{directory}: {len(manifest.shards)} files of {manifest.stage} as the manifest says"]


def test_finished_tokens_are_good_and_encoded_again(tokens):
    rows = read_manifest(tokens).shards[0].rows
    _, quality, _ = lines = verify(tokens)
    assert lines == [
        f"{tokens}: 3 files of tokenize as the manifest says",
        quality,
        f"{tokens}: {rows} rows encoded again, all ids equal",
    ]


def test_what_was_measured_is_told(tokens):
    said = r": PSNR of the samples \d+\.\d to \d+\.\d dB, codes in use \(least of a shard\) \d+\.\d %, rows"
    assert re.search(said, verify(tokens)[1])


def test_measures_that_cannot_be_read_are_found(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest["details"]["quality"]["floors"]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="copy: expected a manifest that tells the quality of its tokens, found Field"):
        verify(str(copy))


def test_a_changed_contact_sheet_is_found(copy):
    sheet = copy / "quality.png"
    sheet.write_bytes(sheet.read_bytes()[:-1] + b"\0")
    with pytest.raises(ShardError, match=r"quality.png: expected SHA-256 \w{12}, found \w{12}; remove what is broken"):
        verify(str(copy))


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_a_flipped_bit_in_a_shard_is_found(copy, place):
    path = first_shard(copy)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ShardError, match=rf"{path.name}: expected SHA-256 \w+, found \w+; remove what is broken and manifest"
    ):
        verify(str(copy))


def test_a_flipped_bit_behind_a_right_digest_is_found_by_the_page_checksum(copy):
    path = first_shard(copy)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    restate(copy, path.name)
    with pytest.raises(ShardError, match=f"{path.name}: expected row group 0, found"):
        verify(str(copy))


def test_a_missing_and_a_shortened_shard_are_found_and_counted(copy):
    first, second, third = [copy / shard.name for shard in read_manifest(str(copy)).shards]
    third.write_bytes(third.read_bytes()[:-1])
    with pytest.raises(ShardError, match=rf"{third.name}: expected \d+ bytes, found \d+; remove"):
        verify(str(copy))
    first.unlink()
    second.unlink()
    with pytest.raises(
        ShardError, match=rf"{first.name}: expected a file of \d+ bytes, found none \(and 2 more\); remove"
    ):
        verify(str(copy))


def test_tokens_changed_to_others_are_found_by_encoding_again(copy):
    def change(table, metadata):
        codes = codes_of(table)
        codes[-1, -1] = (codes[-1, -1] + 1) % metadata.codebook_size
        return with_tokens(table, codes), metadata

    rewrite(copy, change)
    key = read_row_group(str(first_shard(copy)), 0).column("key").to_pylist()[-1]
    with pytest.raises(
        ShardError, match=f"expected the image_tokens that its tokenizer gives for {key}, found others; tokenize"
    ):
        verify(str(copy))


@pytest.fixture(scope="module")
def views(tmp_path_factory, make_tokenize_config, beam_options) -> str:
    """Tokens of three random views of each pair, in one shard."""
    output = str(tmp_path_factory.mktemp("views") / "tokens")
    views = Views(kind="random", count=3, may_flip=True, near_center=False)
    tokenize_pairs(make_tokenize_config(output, views=views, rows_per_shard=1000), beam_options())
    return output


def test_views_are_made_again(views):
    assert (
        verify(views)[-1] == f"{views}: 22 rows encoded again, all ids equal"
    )  # the views of 22 pairs are 64 and more


@pytest.mark.parametrize(("column", "value"), [("box", [0, 0, 1, 1]), ("flipped", None)])
def test_another_box_of_a_view_is_found_by_making_it_again(views, tmp_path, column, value):
    copy = Path(shutil.copytree(views, tmp_path / "views"))

    def change(table, metadata):
        row = table.slice(5, 1).to_pylist()[0]
        row[column] = not row[column] if value is None else value
        changed = pa.Table.from_pylist([row], table.schema)
        return pa.concat_tables([table.slice(0, 5), changed, table.slice(6)]), metadata

    rewrite(copy, change)
    with pytest.raises(ShardError, match=f"expected the {column} that its tokenizer gives for .*, found others"):
        verify(str(copy))


def test_text_ids_changed_to_others_are_found_by_encoding_again(copy):
    def change(table, metadata):
        ids = table.column("text_ids").to_pylist()
        ids[0][0][0] = 1 if ids[0][0][0] != 1 else 3
        position = table.schema.get_field_index("text_ids")
        field = table.schema.field(position)
        return table.set_column(position, field, pa.array(ids, field.type)), metadata

    rewrite(copy, change)
    with pytest.raises(ShardError, match="expected the text_ids that its tokenizer gives for"):
        verify(str(copy))


def test_tokens_beyond_the_codebook_are_found(copy):
    rewrite(copy, lambda table, metadata: (with_tokens(table, codes_of(table) + 64), metadata))
    with pytest.raises(ShardError, match=r"expected tokens below 64, found \d+ in row group 0"):
        verify(str(copy))


def test_text_ids_beyond_the_vocabulary_are_found(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    small = {"text_vocabulary_size": 5}
    manifest["details"]["metadata"] |= small
    (copy / MANIFEST).write_text(json.dumps(manifest))
    rewrite(copy, lambda table, metadata: (table, metadata.model_copy(update=small)))
    with pytest.raises(ShardError, match=r"expected text ids below 5, found \d+"):
        verify(str(copy))


def test_rows_out_of_order_are_found(copy):
    rewrite(copy, lambda table, metadata: (table.take(pa.array([1, 0, *range(2, len(table))])), metadata))
    with pytest.raises(ShardError, match=r"expected rows in the order of their hash, found \w{32} out of order"):
        verify(str(copy))


def test_a_row_too_few_is_found(copy):
    rewrite(copy, lambda table, metadata: (table.slice(1), metadata))
    with pytest.raises(ShardError, match=r"expected (\d+) rows, found \d+"):
        verify(str(copy))


def test_other_metadata_are_found(copy):
    rewrite(copy, lambda table, metadata: (table, metadata.model_copy(update={"precision": "bfloat16"})))
    with pytest.raises(ShardError, match="expected the metadata that the manifest states, found other"):
        verify(str(copy))


def test_shards_that_name_another_execution_than_the_run_s_are_found(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["config"]["execution"]["compile"] = True
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=r"tokens-00000.*: expected compile True as the run was configured, found Fal"):
        verify(str(copy))


def test_a_ledger_that_does_not_add_up_is_found(filtered, tmp_path):
    directory = Path(shutil.copytree(filtered, tmp_path / "pairs"))
    path = first_shard(directory)
    rows = list(read_ledger(str(path)))
    write_ledger(str(path), [rows[0]._replace(outcome="dropped", reason="image_missing"), *rows[1:]])
    restate(directory, path.name)
    with pytest.raises(ShardError, match=r"expected 72 rows kept, found 71 \(and 2 more\)"):
        verify(str(directory))


def test_kept_rows_in_another_file_than_stated_are_found(filtered, tmp_path):
    directory = Path(shutil.copytree(filtered, tmp_path / "pairs"))
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["details"]["kept"][0] += 1
    (directory / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="expected 73 kept rows by file, found 72"):
        verify(str(directory))


@pytest.fixture
def own_tokens(tmp_path, make_image_file, make_tokenize_config, beam_options) -> Path:
    """A tokenize directory whose tokenizer's file may be changed."""
    image_file = make_image_file(tmp_path / "own.safetensors", 0)
    tokenize_pairs(make_tokenize_config(tmp_path / "out", image_tokenizer=image_file), beam_options())
    return tmp_path / "out"


def test_a_replaced_tokenizer_is_found(own_tokens, tmp_path, make_image_file):
    assert verify(str(own_tokens))
    make_image_file(tmp_path / "own.safetensors", 1)
    with pytest.raises(
        ShardError, match=r"own.safetensors: expected the image_tokenizer \w{12} that made .*; the file was repl"
    ):
        verify(str(own_tokens))


def test_without_the_tokenizer_or_the_pairs_the_rest_is_verified_and_that_is_said(own_tokens, tmp_path):
    (tmp_path / "own.safetensors").unlink()
    good, _, note = verify(str(own_tokens))
    assert good == f"{own_tokens}: 3 files of tokenize as the manifest says"
    assert note.startswith(f"{own_tokens}: tokens not encoded again, for want of what made them (")


def test_a_source_with_other_pairs_is_found(copy, tmp_path, beam_options):
    source = SyntheticSource(num_pairs=5, side_px=32, seed=9)
    filter_pairs(FilterConfig(output=f"{tmp_path}/other", source=source), beam_options())
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["details"]["places"]["source"] = f"{tmp_path}/other"
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(
        ShardError, match=r"expected the pairs of \d+ rows in .*/other, found 0; the source was replaced"
    ):
        verify(str(copy))


def test_an_unfinished_directory_is_refused(tmp_path):
    with pytest.raises(ShardError, match="expected a finished directory with manifest.json, found none"):
        verify(str(tmp_path))


def test_the_order_that_is_checked_is_the_one_of_the_seed(copy):
    keys = read_row_group(str(first_shard(copy)), 0).column("key").to_pylist()
    other = sorted(keys, key=lambda key: order_hash(key, 0, 7))
    assert other != keys
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["config"]["seed"] = 7
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="in the order of their hash"):
        verify(str(copy))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tokens_of_a_gpu_are_not_encoded_again_without_one(copy):
    for name in [shard.name for shard in read_manifest(str(copy)).shards]:
        table, (metadata, _) = read_row_group(f"{copy}/{name}", 0), read_metadata(f"{copy}/{name}")
        write_token_shard(f"{copy}/{name}", table, metadata.model_copy(update={"device": "cuda"}))
        restate(copy, name)
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["config"]["execution"]["device"] = manifest["details"]["metadata"]["device"] = "cuda"
    (copy / MANIFEST).write_text(json.dumps(manifest))
    assert (
        "tokens not encoded again, for want of what made them (execution.device=cuda: expected a GPU"
        in verify(str(copy))[-1]
    )
