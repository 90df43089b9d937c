import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from spoiled_tokens import (
    codes_of,
    edit_manifest,
    first_shard,
    reconfigure,
    redescribe,
    restate,
    rewrite,
    shards_of,
    with_tokens,
)

from parti_data.errors import ShardError
from parti_data.ledger import read_ledger, write_ledger
from parti_data.manifest import read_manifest
from parti_data.sources import SyntheticSource
from parti_data.token_shard import read_row_group
from parti_data.views import Views
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.findings import Findings
from pipelines.tokenize import tokenize_pairs
from pipelines.verify import verify

ALL = 1000
"""More pictures than there are rows."""


@pytest.fixture
def copy(tokens, tmp_path) -> Path:
    return Path(shutil.copytree(tokens, tmp_path / "copy"))


@pytest.mark.parametrize("stage", ["filtered", "sharded"])
def test_a_finished_ledger_is_good(request, stage):
    directory = request.getfixturevalue(stage)
    manifest = read_manifest(directory)
    assert verify(directory) == [f"{directory}: {len(manifest.shards)} files of {manifest.stage} as the manifest says"]


def test_finished_tokens_are_good_and_encoded_again(tokens):
    _, quality, decoded, _ = lines = verify(tokens)
    assert lines == [
        f"{tokens}: 3 files of tokenize as the manifest says",
        quality,
        decoded,
        f"{tokens}: 64 rows encoded again, all ids equal",
    ]
    assert re.fullmatch(rf"{tokens}: \d+ rows decoded again, PSNR of their pictures \d+\.\d dB", decoded)


def test_as_many_pictures_are_made_again_as_are_asked_for(tokens):
    assert verify(tokens, 7)[-1] == f"{tokens}: 7 rows encoded again, all ids equal"
    assert verify(tokens, 1000)[-1] == f"{tokens}: 72 rows encoded again, all ids equal"
    assert len(verify(tokens, 0)) == 2


def test_what_was_measured_is_told(tokens):
    said = r": PSNR of the samples \d+\.\d to \d+\.\d dB, codes in use \(least of a shard\) \d+\.\d %, rows"
    assert re.search(said, verify(tokens)[1])


def test_measures_that_cannot_be_read_are_found(copy):
    edit_manifest(copy, lambda manifest: manifest["details"]["quality"].pop("floors"))
    with pytest.raises(ShardError, match="copy: expected a manifest that tells the quality of its tokens, found Field"):
        verify(str(copy))


def test_a_changed_contact_sheet_is_found(copy):
    sheet = copy / "quality.png"
    sheet.write_bytes(sheet.read_bytes()[:-1] + b"\0")
    with pytest.raises(ShardError, match=r"quality.png: expected SHA-256 \w{12}, found \w{12}$"):
        verify(str(copy))


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_a_flipped_bit_in_a_shard_is_found(copy, place):
    path = first_shard(copy)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ShardError,
        match=r"copy: expected what its manifest.json says, found 1 fault; remove what is broken and manifest.json to "
        rf"make it again, or begin a new directory\n  .*{path.name}: expected SHA-256 \w+, found \w+$",
    ):
        verify(str(copy))


def test_a_missing_and_a_shortened_shard_are_found_and_counted(copy):
    first, second, third = shards_of(copy)
    third.write_bytes(third.read_bytes()[:-1])
    with pytest.raises(ShardError, match=rf"{third.name}: expected \d+ bytes, found \d+$"):
        verify(str(copy))
    first.unlink()
    second.unlink()
    with pytest.raises(ShardError, match=r"found 3 faults; remove") as found:
        verify(str(copy))
    for line, path in zip(str(found.value).split("\n")[1:], (first, second, third), strict=True):
        assert line.startswith(f"  {path}: expected")


def test_a_shard_that_cannot_be_read_is_found(copy, monkeypatch):
    def refuse(path: str) -> str:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("pipelines.verify.sha256_file", refuse)
    path = first_shard(copy)
    with pytest.raises(
        ShardError, match=rf"{path.name}: expected a file of \d+ bytes, found one that cannot be read .Perm"
    ):
        verify(str(copy))


def test_faults_beyond_the_twentieth_are_counted():
    Findings([], []).refuse_faults("a")
    faults = [f"fault {number}" for number in range(1, 1024)]
    with pytest.raises(ShardError, match="a: expected what its manifest.json says, found 1,023 faults; ") as found:
        Findings([], faults).refuse_faults("a")
    assert str(found.value).split("\n")[1:] == [*(f"  fault {number}" for number in range(1, 21)), "  and 1,003 more"]


def test_tokens_changed_to_others_are_found_by_encoding_again(copy):
    edit_manifest(copy, lambda manifest: manifest["details"]["quality"]["shards"].clear())

    def change(table, metadata):
        codes = codes_of(table)
        codes[-1, -1] = (codes[-1, -1] + 1) % metadata.codebook_size
        return with_tokens(table, codes), metadata

    rewrite(copy, change)
    key = read_row_group(str(first_shard(copy)), 0).column("key").to_pylist()[-1]
    with pytest.raises(
        ShardError, match=f"expected the image_tokens that its tokenizer gives for {key}, found others; tokenize"
    ):
        verify(str(copy), ALL)


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
        verify(str(copy), ALL)


def test_a_ledger_that_does_not_add_up_is_found(filtered, tmp_path):
    directory = Path(shutil.copytree(filtered, tmp_path / "pairs"))
    path = first_shard(directory)
    rows = list(read_ledger(str(path)))
    write_ledger(str(path), [rows[0]._replace(outcome="dropped", reason="image_missing"), *rows[1:]])
    restate(directory, path.name)
    with pytest.raises(ShardError, match=r"found 3 faults; .*\n.*expected 72 rows kept, found 71"):
        verify(str(directory))


def test_kept_rows_in_another_file_than_stated_are_found(filtered, tmp_path):
    directory = Path(shutil.copytree(filtered, tmp_path / "pairs"))
    edit_manifest(directory, lambda manifest: manifest["details"].update(kept=[40, *manifest["details"]["kept"][1:]]))
    with pytest.raises(ShardError, match="expected 88 kept rows by file, found 72"):
        verify(str(directory))


def test_a_ledger_of_which_the_manifest_does_not_tell_is_refused(filtered, tmp_path):
    directory = Path(shutil.copytree(filtered, tmp_path / "pairs"))
    edit_manifest(directory, lambda manifest: manifest["details"].pop("kept"))
    with pytest.raises(ShardError, match=r"manifest.json: expected a manifest as filter writes it, found for kept"):
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
    edit_manifest(copy, lambda manifest: manifest["details"]["places"].update(source=f"{tmp_path}/other"))
    with pytest.raises(
        ShardError, match=r"expected the pairs of \d+ rows in .*/other, found 0; the source was replaced"
    ):
        verify(str(copy))


def test_an_unfinished_directory_is_refused(tmp_path):
    with pytest.raises(ShardError, match="expected a finished directory with manifest.json, found none"):
        verify(str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tokens_of_a_gpu_are_not_encoded_again_without_one(copy):
    reconfigure(copy, lambda config: config["execution"].update(device="cuda"))
    redescribe(copy, device="cuda")
    assert (
        "tokens not encoded again, for want of what made them (execution.device=cuda: expected a GPU"
        in verify(str(copy))[-1]
    )
