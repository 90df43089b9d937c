import gc
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset

from parti_data.errors import ConfigError, ShardError
from parti_data.manifest import Beginning, StageDirectory, begin, read_manifest, record_shard
from parti_data.token_directory import open_token_directory, read_rows
from parti_data.token_shard import ShardMetadata, TokenRow, read_metadata, to_table, write_token_shard
from pipelines.export import Export, ExportConfig, export_file, export_tokens, metadata_json, plan_files
from pipelines.verify import verify


@pytest.fixture(scope="module")
def export(beam_options) -> Callable:
    """Export a token directory, with Beam's arguments; return where to."""

    def run(source: str, output: object, kind: str, *arguments: str, **others) -> str:
        config = ExportConfig.model_validate({"source": source, "output": str(output), "format": kind, **others})
        export_tokens(config, beam_options(*arguments))
        return config.output

    return run


@pytest.fixture(scope="module")
def directories(tmp_path_factory, tokens, exported, export) -> dict[str, str]:
    """`tokens` in each format."""
    output = tmp_path_factory.mktemp("exported") / "huggingface"
    return {"webdataset": exported, "huggingface": export(tokens, output, "huggingface")}


@pytest.fixture(scope="module")
def rows(tokens) -> list[dict]:
    """All rows of `tokens`, in order."""
    directory = open_token_directory(tokens)
    return pa.concat_tables(read_rows(directory, 0, directory.num_rows)).to_pylist()


def make_directory(path: Path, counts: list[int], **changes) -> str:
    """A directory of token shards of two views an image, with so many rows each."""
    values = {"codebook_size": 256, "grid_side": 4, "num_quantizers": 1, **changes.pop("metadata", {})}
    metadata = ShardMetadata(
        image_tokenizer="a", image_tokenizer_name="t", image_side=32, resize_recipe="r", resize_library="l",
        precision="float32", text_tokenizer="b", text_vocabulary_size=1000, config_digest="c", input_digest="d",
        **values,
    )  # fmt: skip
    begun = begin(str(path), Beginning(stage="tokenize", config={}, inputs={}))
    assert isinstance(begun, StageDirectory)
    records, random = [], np.random.default_rng(0)
    for number, count in enumerate(counts):
        made = [
            TokenRow(
                hashlib.sha256(f"{number} {n // 2}".encode()).hexdigest()[:32], n % 2, [n, 2, 3, 4], n % 2 == 1,
                ["eins ☃", "two"][: n % 3], [[5, 2], [6, 7, 2]][: n % 3],
                random.integers(0, metadata.codebook_size, metadata.num_tokens), "s", f"{n}",
            )._replace(**changes)
            for n in range(count)
        ]  # fmt: skip
        name = f"tokens-{number:05d}-of-{len(counts):05d}.parquet"
        write_token_shard(f"{path}/{name}", to_table(made, metadata), metadata)
        records.append(record_shard(str(path), name, count))
    details = {"metadata": metadata.model_dump(), "places": {"source": "/home/me"}}
    begun.finish(records, {"rows": sum(counts)}, details)
    return str(path)


def read_tars(directory: str) -> list[dict]:
    """What the webdataset library reads of the tars that a manifest lists."""
    tars = [f"{directory}/{shard.name}" for shard in read_manifest(directory).shards if shard.name.endswith(".tar")]
    read = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    gc.collect()
    return read


def as_row(member: dict) -> dict:
    return member["json"] | {"image_tokens": member["npy"].ravel().tolist()}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the garbage collector
def test_the_webdataset_library_reads_every_row(directories, rows):
    read = read_tars(directories["webdataset"])
    assert [as_row(member) for member in read] == rows
    for member, row in zip(read, rows, strict=True):
        assert member["__key__"] == row["key"]
        assert member["txt"] == row["captions"][0]
        assert (member["npy"].shape, member["npy"].dtype) == ((4, 4), np.uint16)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("metadata", "shape", "kind"),
    [({"num_quantizers": 2}, (32,), np.uint16), ({"codebook_size": 70_000}, (4, 4), np.uint32)],
)
def test_tokens_are_a_grid_of_the_shards_integers_or_a_list_where_a_position_has_several(
    tmp_path, export, metadata, shape, kind
):
    source = make_directory(tmp_path / "tokens", [3, 2], metadata=metadata)
    read = read_tars(export(source, tmp_path / "out", "webdataset"))
    assert {(member["npy"].shape, member["npy"].dtype) for member in read} == {(shape, np.dtype(kind))}
    assert [as_row(member) for member in read] == pa.concat_tables(
        read_rows(open_token_directory(source), 0, 5)
    ).to_pylist()


def test_tokens_that_were_changed_during_the_run_are_refused(tmp_path):
    source = make_directory(tmp_path / "tokens", [3])
    changed = Export(source, "ef" * 32, str(tmp_path / "out"), "webdataset")
    with pytest.raises(ShardError, match=r"expected the manifest efefefefefef that the run began with, found"):
        export_file(plan_files(open_token_directory(source), 2)[0], changed)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_second_view_says_its_number_and_no_caption_is_an_empty_text(tmp_path, export):
    source = make_directory(tmp_path / "tokens", [4])
    read = read_tars(export(source, tmp_path / "out", "webdataset"))
    assert [member["__key__"][32:] for member in read] == ["", "-1", "", "-1"]
    assert [member["txt"] for member in read] == ["", "eins ☃", "eins ☃", ""]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("rows_per_tar", [1, 4, 5, 100])
def test_tars_of_equal_size_hold_the_same_rows(tmp_path, export, rows_per_tar):
    source = make_directory(tmp_path / "tokens", [5, 0, 4, 1])
    output = export(source, tmp_path / "out", "webdataset", rows_per_tar=rows_per_tar)
    sizes = [shard.rows for shard in read_manifest(output).shards if shard.rows]
    assert max(sizes) <= rows_per_tar
    assert max(sizes) - min(sizes) <= 1
    expected = pa.concat_tables(read_rows(open_token_directory(source), 0, 10)).to_pylist()
    assert [as_row(member) for member in read_tars(output)] == expected


def test_without_a_size_a_file_is_a_token_shard(tokens):
    directory = open_token_directory(tokens)
    plans = plan_files(directory, 0)
    assert [plan.last - plan.first for plan in plans] == [shard.rows for shard in directory.shards]
    assert [(plan.number, plan.total) for plan in plans] == [(number, 3) for number in range(3)]


def test_members_have_no_time_and_no_owner(directories):
    with tarfile.open(f"{directories['webdataset']}/tokens-00000-of-00003.tar") as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert [member.name.partition(".")[2] for member in members[:3]] == ["npy", "txt", "json"]


def test_numpy_reads_the_arrays_without_unpickling(directories):
    with tarfile.open(f"{directories['webdataset']}/tokens-00000-of-00003.tar") as tar:
        content = tar.extractfile(tar.getmembers()[0]).read()  # type: ignore[union-attr]
    array = np.load(io.BytesIO(content), allow_pickle=False)
    again = io.BytesIO()
    np.save(again, array)
    assert again.getvalue() == content


@pytest.fixture
def load_dataset(monkeypatch, tmp_path) -> Callable:
    """Hugging Face's `load_dataset`, with a cache that goes."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()
    return lambda path, **options: datasets.load_dataset(path, cache_dir=str(tmp_path / "cache"), **options)


def test_hugging_face_opens_the_directory_as_it_is(directories, rows, load_dataset):
    dataset = load_dataset(directories["huggingface"])
    assert dict(dataset.num_rows) == {"train": len(rows)}
    assert dataset["train"].to_list() == rows
    assert dataset["train"].info.dataset_size == dataset["train"].info.splits["train"].num_bytes > 0


def test_hugging_face_streams_the_directory_and_knows_its_types_beforehand(directories, rows, load_dataset):
    stream = load_dataset(directories["huggingface"], split="train", streaming=True)
    assert list(stream) == rows
    tokens = stream.features["image_tokens"]
    assert (tokens.feature.dtype, tokens.length) == ("uint16", 16)
    assert stream.features["text_ids"].feature.feature.dtype == "uint16"


def test_the_card_states_the_types_that_the_files_have(directories, load_dataset):
    import datasets

    stated = load_dataset(directories["huggingface"], split="train", streaming=True).features
    file = f"{directories['huggingface']}/data/train-00000-of-00003.parquet"
    assert stated == datasets.Features.from_arrow_schema(pa.parquet.read_schema(file))


def test_files_for_hugging_face_are_the_token_shards_themselves(directories, tokens):
    shards = open_token_directory(tokens).shards
    for number, shard in enumerate(shards):
        path = f"{directories['huggingface']}/data/train-{number:05d}-of-00003.parquet"
        assert Path(path).read_bytes() == Path(tokens, shard.name).read_bytes()
        assert read_metadata(path)[0] == open_token_directory(tokens).metadata


@pytest.mark.parametrize("kind", ["webdataset", "huggingface"])
def test_nothing_of_what_made_the_tokens_is_lost_but_this_machines_paths(kind, directories, tokens):
    content = json.loads(Path(directories[kind], "metadata.json").read_text())
    directory = open_token_directory(tokens)
    assert ShardMetadata.model_validate(content["metadata"]) == directory.metadata
    assert content["manifest_sha256"] == directory.digest
    made = directory.manifest.model_dump(mode="json")
    del made["details"]["places"]
    assert content["manifest"] == made
    text = "".join(path.read_text() for path in Path(directories[kind]).glob("*.json") if path.name != "metrics.json")
    assert tokens not in text


def test_places_that_imported_tokens_came_from_are_left_out(tmp_path):
    path = Path(make_directory(tmp_path / "tokens", [3]), "manifest.json")
    made = json.loads(path.read_text())
    made["config"] = {"source": {"kind": "rar", "path": "/home/me/a.jsonl", "class_names": "/home/me/names"}}
    made["details"]["examples"] = {"unreadable": "/home/me/a.jsonl 00000001: a line that is no JSON"}
    path.write_text(json.dumps(made))
    content = metadata_json(open_token_directory(str(tmp_path / "tokens")), "webdataset")
    assert b"/home/me" not in content
    assert json.loads(content)["manifest"]["config"] == {"source": {"kind": "rar"}}


def test_where_the_config_of_a_published_tokenizer_lay_is_left_out(tmp_path):
    path = Path(make_directory(tmp_path / "tokens", [3]), "manifest.json")
    made = json.loads(path.read_text())
    made["details"]["tokenizer"] = {"config": "/home/me/model.yaml", "kind": "taming"}
    path.write_text(json.dumps(made))
    content = metadata_json(open_token_directory(str(tmp_path / "tokens")), "webdataset")
    assert b"/home/me" not in content
    assert json.loads(content)["manifest"]["details"]["tokenizer"] == {"kind": "taming"}


def test_the_card_names_the_tokenizer_and_the_person_who_publishes(tmp_path, tokens, export):
    output = export(tokens, tmp_path / "out", "huggingface", card={"title": 'My "tokens"', "license": "cc-by-4.0"})
    card = Path(output, "README.md").read_text()
    assert 'pretty_name: "My \\"tokens\\""\nlicense: "cc-by-4.0"\n' in card
    assert open_token_directory(tokens).metadata.image_tokenizer in card


def test_a_data_set_of_hugging_face_has_the_same_bytes_whoever_made_it(directories, tokens, tmp_path, export, contents):
    for workers in (2, 4):
        output = export(tokens, tmp_path / f"out-{workers}", "huggingface", f"--direct_num_workers={workers}")
        assert contents(output) == contents(directories["huggingface"])


@pytest.mark.parametrize("kind", ["webdataset", "huggingface"])
def test_a_finished_directory_holds_what_its_manifest_lists_and_no_more(kind, directories, tokens, contents):
    manifest = read_manifest(directories[kind])
    names = {shard.name for shard in manifest.shards}
    assert contents(directories[kind]).keys() == names | {"manifest.json", "begun.json"}
    assert manifest.counts == {"files": 3, "rows": open_token_directory(tokens).num_rows}
    assert verify(directories[kind]) == [f"{directories[kind]}: {len(names)} files of export as the manifest says"]


def test_a_file_that_is_removed_or_half_written_is_made_again(directories, tokens, tmp_path, export, contents):
    output = Path(export(tokens, tmp_path / "out", "huggingface"))
    for name in ("manifest.json", "data/train-00001-of-00003.parquet", "README.md"):
        (output / name).unlink()
    (output / f"data/train-00001-of-00003.parquet.tmp-{'0' * 32}").write_bytes(b"half")
    export(tokens, output, "huggingface")
    assert contents(output) == contents(directories["huggingface"])


def test_another_format_is_refused(directories, tokens, export):
    with pytest.raises(ShardError, match="format: begun with 'webdataset', now 'huggingface'"):
        export(tokens, directories["webdataset"], "huggingface")


def test_what_does_not_go_with_the_format_is_refused():
    for option, kind, other in (
        ("rows_per_tar=5", "huggingface", "webdataset"),
        ("card.title=x", "webdataset", "huggingface"),
    ):
        name = option.partition("=")[0].partition(".")[0]
        message = f"^{name}: expected it with format {other} alone, found {kind}; leave it out"
        with pytest.raises(ConfigError, match=message):
            ExportConfig.load(None, ["source=a", "output=b", f"format={kind}", option])


def test_a_directory_without_rows_is_refused(tmp_path, export):
    source = make_directory(tmp_path / "tokens", [0])
    with pytest.raises(ShardError, match="tokens: expected rows to export, found none; run tokenize first"):
        export(source, tmp_path / "out", "webdataset")


def test_a_key_that_would_be_a_path_is_refused(tmp_path, export):
    source = make_directory(tmp_path / "tokens", [4], key="../../x")
    message = "expected keys of at most 64 letters and digits, which name members, found '../../x'; export it to hugg"
    with pytest.raises(ShardError, match=message):
        export(source, tmp_path / "out", "webdataset")
    export(source, tmp_path / "other", "huggingface")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_key_that_comes_again_is_numbered(tmp_path, export):
    read = read_tars(export(make_directory(tmp_path / "tokens", [5], key="aa"), tmp_path / "out", "webdataset"))
    assert [member["__key__"] for member in read] == ["aa", "aa-1", "aa_1", "aa-1_1", "aa_2"]
    assert {member["json"]["key"] for member in read} == {"aa"}


def test_a_shard_that_changed_is_not_exported(tmp_path, export):
    source = make_directory(tmp_path / "tokens", [40, 40])
    path = Path(source, "tokens-00001-of-00002.parquet")
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShardError, match="00001-of-00002.parquet: expected SHA-256 .* as the manifest states, found"):
        export(source, tmp_path / "a", "huggingface")
    with pytest.raises(ShardError, match="00001-of-00002.parquet: expected row group 0, found"):
        export(source, tmp_path / "b", "webdataset")
    assert not list(tmp_path.rglob("*00001-of-00002.tar*"))


def test_shards_that_are_not_as_the_manifest_states_are_refused(tmp_path, export):
    source, shard = make_directory(tmp_path / "tokens", [4, 4]), "tokens-00000-of-00002.parquet"
    make_directory(tmp_path / "other", [3, 3])
    (tmp_path / "tokens" / shard).write_bytes((tmp_path / "other" / shard).read_bytes())
    with pytest.raises(ShardError, match="expected row groups of 4 rows as the manifest states, found 3; run tok"):
        export(source, tmp_path / "out", "webdataset")
    make_directory(tmp_path / "third", [4, 4], metadata={"codebook_size": 300})
    (tmp_path / "tokens" / shard).write_bytes((tmp_path / "third" / shard).read_bytes())
    with pytest.raises(ShardError, match="expected codebook_size 256 as the manifest states, found 300; run tok"):
        export(source, tmp_path / "out", "webdataset")


def test_a_foreign_file_in_the_place_of_a_copy_is_refused(tmp_path, export):
    source = make_directory(tmp_path / "tokens", [4])
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match="expected a copy of .*tokens-00000-of-00001.parquet, found other bytes; remo"):
        export(source, tmp_path / "out", "huggingface")
