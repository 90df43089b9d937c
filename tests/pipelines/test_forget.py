"""Rows forgotten in the whole chain: gone from every file, and nothing else changed."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from parti_data.contact_sheet import cut_pairs
from parti_data.errors import ShardError
from parti_data.ledger import FORGOTTEN, LedgerRow, PairDirectory
from parti_data.manifest import BEGUN, MANIFEST, manifest_digest, read_manifest
from pipelines.command_line import main
from pipelines.filter import filter_pairs
from pipelines.forget import Options, forget, read_names
from pipelines.forget.names import Names
from pipelines.verify import verify

STAGES = {"pairs": "filtered", "shards": "sharded", "tokens": "tokens"}


def by_key(*keys: str) -> Names:
    return read_names(keys, [], [], [])


def silent(_: str) -> None:
    """What is said is of no matter."""


@pytest.fixture
def runs(tmp_path, request) -> Path:
    """A directory of all three stages."""
    for name, fixture in STAGES.items():
        shutil.copytree(request.getfixturevalue(fixture), tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def kept(filtered) -> list[LedgerRow]:
    """The kept rows of `filtered`."""
    return list(PairDirectory(filtered).kept())


def table_of(path: Path) -> pa.Table:
    return pq.read_table(path, partitioning=None)


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def said_by(directory: Path) -> str:
    """All text in a directory: of Parquet its values, of all else its bytes, pictures apart."""
    parts = []
    for path in sorted(directory.rglob("*")):
        if path.suffix == ".parquet":
            parts.append(repr(table_of(path).to_pylist()) + repr(table_of(path).schema.metadata))
        elif path.is_file() and path.suffix != ".png":
            parts.append(path.read_bytes().decode("utf-8", "replace"))
    return "".join(parts)


def verify_all(runs: Path) -> list[str]:
    return [line for path in sorted(runs.iterdir()) if path.is_dir() for line in verify(str(path))]


def test_an_image_goes_from_every_file_and_nothing_else_changes(runs, kept, filtered, sharded, tokens, contents):
    gone = [kept[0], kept[30], kept[31]]
    keys = {row.key for row in gone}
    before = contents(runs)
    lines: list[str] = []
    forget(str(runs), by_key(*keys), lines.append)
    after = contents(runs)
    assert not [row for row in gone if row.key in said_by(runs) or row.key in "".join(lines)]
    assert before.keys() == after.keys()
    for path in Path(filtered).glob("**/*.parquet"):
        old, new = table_of(path), table_of(runs / "pairs" / path.relative_to(filtered))
        is_gone = np.isin(old["key"].to_pylist(), list(keys))
        assert old.filter(~is_gone).equals(new.filter(~is_gone))
        for row in new.filter(is_gone).to_pylist():
            assert {name for name, value in row.items() if value} == {"source", "outcome", "reason"}
            assert (row["outcome"], row["reason"]) == ("dropped", FORGOTTEN)
    for path in Path(tokens).glob("*.parquet"):
        old, new = table_of(path), table_of(runs / "tokens" / path.name)
        assert old.filter(~np.isin(old["key"].to_pylist(), list(keys))).equals(new)
    for path in Path(sharded).glob("*.tar"):
        stems = {stem for stem, content in members_of(path).items() if stem.endswith(".json")
                 and json.loads(content)["key"] in keys}  # fmt: skip
        stems = {stem.removesuffix(".json") for stem in stems}
        left = {name: one for name, one in members_of(path).items() if name.partition(".")[0] not in stems}
        assert list(left.items()) == list(members_of(runs / "shards" / path.name).items())
    pairs = PairDirectory(str(runs / "shards"))
    assert [row.key for row, _ in pairs.fetch_each(pairs.kept())] == [r.key for r in kept if r.key not in keys]
    rewritten = [name for name in before if before[name] != after[name]]
    assert [name for name in rewritten if "00002" in name and not name.startswith("tokens")] == []
    assert "rows encoded again, all ids equal" in verify_all(runs)[-1]


def test_manifests_follow_each_other_and_say_how_much_went(runs, kept):
    before = {name: manifest_digest(str(runs / name)) for name in STAGES}
    forget(str(runs), by_key(kept[0].key, kept[40].key), silent)
    pairs, shards, tokens = (read_manifest(str(runs / name)) for name in STAGES)
    assert shards.inputs["source"] == tokens.inputs["source"] == manifest_digest(str(runs / "pairs"))
    assert pairs.counts == {"read": 96, "kept": 70, "merged": 6, "dropped": 20}
    assert pairs.details["reasons"]["dropped forgotten"] == 2
    assert sum(pairs.details["kept"]) == shards.counts["kept"] == tokens.counts["pairs"] == 70
    assert tokens.counts["rows"] == sum(shard.rows for shard in tokens.shards) == 70
    assert sum(one["rows"] for one in tokens.details["quality"]["shards"].values()) == 70
    for name, manifest in zip(STAGES, (pairs, shards, tokens), strict=True):
        (entry,) = manifest.details["forgotten"]
        assert (entry["manifest"], entry["rows"], entry["captions"]) == (before[name], 2, 0)
        assert set(entry["rewritten"]) < {shard.name for shard in manifest.shards} | {"quality.png"}
    forget(str(runs), by_key(kept[1].key), silent)
    entries = read_manifest(str(runs / "pairs")).details["forgotten"]
    assert [entry["rows"] for entry in entries] == [2, 1]
    assert verify_all(runs)


def test_a_rerun_of_a_stage_finds_it_finished_and_judging_again_brings_nothing_back(
    runs, kept, make_config, run_stage, beam_options, contents
):
    forget(str(runs), by_key(kept[0].key, kept[50].key), silent)
    after = contents(runs)
    pairs = str(runs / "pairs")
    for stage, name in (("filter", "pairs"), ("shard", "shards"), ("tokenize", "tokens")):
        changes = {} if stage == "filter" else {"source": pairs}
        assert run_stage(make_config(stage, runs / name, **changes)) == read_manifest(str(runs / name))
    assert contents(runs) == after
    config = make_config("filter", runs / "pairs")
    stricter = config.model_copy(update={"rules": config.rules.model_copy(update={"min_caption_words": 2})})
    filter_pairs(stricter, beam_options(), rejudge=True)
    filter_pairs(config, beam_options(), rejudge=True)
    found = contents(runs)
    assert [name for name in after if found[name] != after[name]] == ["pairs/manifest.json"]
    assert kept[0].key not in said_by(runs)


def test_tokenizing_what_is_left_gives_the_rows_that_are_left(runs, kept, make_tokenize_config, run_stage):
    forget(str(runs), by_key(*(row.key for row in kept[3:60:7])), silent)
    run_stage(make_tokenize_config(runs / "again", source=str(runs / "pairs")))
    paths = sorted((runs / "again").glob("*.parquet"))
    assert len(paths) == 3
    for path in paths:
        assert table_of(path).equals(table_of(runs / "tokens" / path.name))


@pytest.mark.parametrize("options", [Options(), Options(dry_run=True), Options(allow_missing=True)])
def test_what_is_not_there_is_named_and_changes_no_byte(runs, contents, options):
    before, lines = contents(runs), []
    names = read_names(["0" * 32], ["https://a.org/b"], ["example.com"], [])
    if options.allow_missing:
        forget(str(runs), names, lines.append, options)
        assert lines[-1] == "forget: nothing to forget, nothing was changed"
        assert lines[0] == f"not found: key {'0' * 32}"
    else:
        with pytest.raises(
            ShardError, match=r"found none of 3 of 3: key 0{32}, url https://a.org/b, host example.com;"
        ):
            forget(str(runs), names, lines.append, options)
    assert contents(runs) == before


def test_others_are_forgotten_where_some_may_be_missing(runs, kept):
    with pytest.raises(ShardError, match=f"found none of 1 of 2: key {'0' * 32}; nothing was changed"):
        forget(str(runs), by_key("0" * 32, kept[0].key), silent)
    forget(str(runs), by_key("0" * 32, kept[0].key), silent, Options(allow_missing=True))
    assert read_manifest(str(runs / "tokens")).counts["pairs"] == 71


def test_a_dry_run_says_what_would_be_done_and_changes_no_byte(runs, kept, contents):
    before, lines, done = contents(runs), [], []
    forget(str(runs), by_key(kept[0].key), lines.append, Options(dry_run=True))
    assert contents(runs) == before
    assert lines[-1] == "forget: nothing was changed, as --dry-run asks"
    forget(str(runs), by_key(kept[0].key), done.append)
    assert lines[:-1] == done[: len(lines) - 1]
    assert done[1] == (
        "pairs: 1 row; 2 files of 7 written anew: ledger-00000-of-00003.parquet, measured/split-00000.parquet"
    )


def test_a_stage_alone_is_rewritten_and_what_it_came_from_is_told(runs, kept, contents, filtered):
    before, lines = contents(runs), []
    forget(str(runs / "tokens"), by_key(kept[0].key), lines.append)
    after = contents(runs)
    assert {name.partition("/")[0] for name in after if after[name] != before[name]} == {"tokens"}
    assert f"left as it is: {filtered}, of which tokens was made and which may still hold the rows" in lines
    assert verify(str(runs / "tokens"))


def test_a_file_that_is_not_what_its_manifest_says_is_found_before_anything_changes(runs, kept, contents):
    path = runs / "shards" / "pairs-00003-of-00004.tar"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\1")
    before = contents(runs)
    with pytest.raises(ShardError, match=rf"{path}: expected \d+ bytes with SHA-256 \w{{12}} as its manifest says, fo"):
        forget(str(runs), by_key(kept[0].key), silent)
    path.unlink()
    with pytest.raises(ShardError, match="as its manifest says, found none; put it back as it was"):
        forget(str(runs), by_key(kept[0].key), silent)
    path.write_bytes(before["shards/pairs-00003-of-00004.tar"])
    assert contents(runs) == before


def test_a_stage_that_others_were_made_of_is_told_of_them(runs, kept):
    lines: list[str] = []
    forget(str(runs / "pairs"), by_key(kept[0].key), lines.append)
    told = "left as it is: what was made of pairs, if anything was; give the directory above all of it"
    assert told in lines
    assert verify(str(runs / "pairs"))


def test_what_benchmarks_removed_is_forgotten_too(tmp_path, run_stage, kept):
    from parti_data.benchmarks import Benchmark
    from parti_data.sources import SyntheticSource
    from pipelines.filter import FilterConfig

    source = SyntheticSource(num_pairs=6, side_px=32)
    run_stage(FilterConfig(output=f"{tmp_path}/plain", source=source))
    rows = list(PairDirectory(f"{tmp_path}/plain").kept())
    (tmp_path / "prompts.txt").write_text(f"{rows[1].captions[0]}\n{rows[4].captions[0]}\n")
    benchmark = Benchmark(name="prompts", captions=f"{tmp_path}/prompts.txt")
    run_stage(FilterConfig(output=f"{tmp_path}/runs/pairs", source=source, benchmarks=[benchmark]))
    audit = tmp_path / "runs" / "pairs" / "benchmarks.jsonl"
    lines = audit.read_text().splitlines(keepends=True)
    assert rows[1].key in lines[0]
    assert len(lines) >= 2
    forget(str(tmp_path / "runs"), by_key(rows[1].key), silent)
    assert audit.read_text() == "".join(lines[1:])
    (record,) = [shard for shard in read_manifest(str(audit.parent)).shards if shard.name == audit.name]
    assert record.rows == len(lines) - 1
    assert rows[1].key not in said_by(tmp_path / "runs")
    assert verify(str(audit.parent))


def test_a_contact_sheet_loses_the_picture(runs, tokens):
    sample = [one["key"] for one in read_manifest(tokens).details["quality"]["sample"]]
    assert len(sample) == 2
    old = cut_pairs(np.asarray(Image.open(Path(tokens) / "quality.png")), 2)
    forget(str(runs), by_key(sample[0]), silent)
    left = read_manifest(str(runs / "tokens")).details["quality"]
    assert [one["key"] for one in left["sample"]] == sample[1:]
    new = np.asarray(Image.open(runs / "tokens" / "quality.png"))
    assert np.array_equal(cut_pairs(new, 1)[0], old[1])
    assert verify(str(runs / "tokens"))
    forget(str(runs), by_key(sample[1]), silent)
    assert read_manifest(str(runs / "tokens")).details["quality"]["sample"] == []


def test_a_shard_may_lose_all_its_rows(runs, kept, tokens):
    keys = table_of(Path(tokens) / "tokens-00001-of-00003.parquet")["key"].to_pylist()
    forget(str(runs), by_key(*keys, *(row.key for row in kept[:18])), silent)
    empty = pq.ParquetFile(runs / "tokens" / "tokens-00001-of-00003.parquet")
    assert (empty.metadata.num_rows, empty.metadata.num_row_groups) == (0, 1)
    assert members_of(runs / "shards" / "pairs-00000-of-00004.tar") == {}
    assert verify_all(runs)


def test_row_groups_are_filled_again(runs, tokens, monkeypatch, kept):
    manifest = read_manifest(str(runs / "tokens"))
    manifest.details["row_group_rows"] = 10
    (runs / "tokens" / MANIFEST).write_text(manifest.model_dump_json())
    forget(str(runs), by_key(kept[0].key, kept[1].key, kept[2].key), silent)
    for shard in read_manifest(str(runs / "tokens")).details["forgotten"][0]["rewritten"]:
        footer = pq.ParquetFile(runs / "tokens" / shard).metadata
        groups = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        assert set(groups[:-1]) == {10}
        assert groups[-1] <= 10


def test_measures_of_imported_shards_are_taken_anew(runs, kept, tokens):
    path = runs / "tokens"
    manifest = read_manifest(tokens)
    manifest.stage, manifest.details["shards"] = "import_tokens", manifest.details.pop("quality")["shards"]
    manifest.counts = {"read": 72, "rows": 72}
    (path / MANIFEST).write_text(manifest.model_dump_json())
    forget(str(path), by_key(kept[0].key, kept[1].key), silent)
    found = read_manifest(str(path))
    assert found.counts == {"read": 72, "rows": 70}
    assert {name: one["rows"] for name, one in found.details["shards"].items()} == {
        shard.name: shard.rows for shard in found.shards
    }


def test_an_unfinished_stage_that_may_hold_rows_is_refused(runs, kept):
    (runs / "shards" / MANIFEST).unlink()
    with pytest.raises(ShardError, match="shards: expected a finished directory, found one that shard has only begun"):
        forget(str(runs), by_key(kept[0].key), silent)


def test_a_directory_without_stages_is_refused(tmp_path):
    with pytest.raises(ShardError, match="expected a directory of finished stages, or one of them, found none; give"):
        forget(str(tmp_path), by_key("0" * 32), silent)


def test_models_are_told_and_left_as_they_are(runs, kept, contents):
    from parti_data.manifest import Beginning, StageDirectory

    digest = manifest_digest(str(runs / "tokens"))
    StageDirectory(
        str(runs / "prior"), Beginning(stage="train_prior", config={}, inputs={"source": digest})
    ).finish([], {})  # fmt: skip
    for name in ("text_encoder", "contrastive"):
        StageDirectory(
            str(runs / name), Beginning(stage=f"train_{name}", config={}, inputs={"source": digest})
        ).finish([], {})  # fmt: skip
    prior = manifest_digest(str(runs / "prior"))
    StageDirectory(
        str(runs / "samples"), Beginning(stage="sample", config={}, inputs={"prior": prior})
    ).finish([], {})  # fmt: skip
    StageDirectory(
        str(runs / "old_text"), Beginning(stage="train_text", config={}, inputs={"source": "before"})
    ).finish([], {})  # fmt: skip
    (runs / "text").mkdir()
    (runs / "text" / BEGUN).write_text('{"stage": "train_text", "config": {}, "inputs": {}}')
    for row in kept[:2]:  # after the first time the prior knows the tokens by the digest of before
        lines: list[str] = []
        forget(str(runs), by_key(row.key), lines.append)
        unlearned = {line.split()[2] for line in lines if line.startswith("not unlearned: ")}
        assert unlearned == {"text_encoder", "contrastive", "prior"}
        assert [line.partition(":")[0] for line in lines if line.startswith("not sure")] == ["not sure of old_text"]
        told = [line for line in lines if "prior" in line or "samples" in line or "left as it is: text" in line]
        assert told == [
            "not unlearned: prior was trained on rows that are forgotten; train it anew in a new output",
            "left as it is: samples, sample of what was made with the rows; remove it or make it anew",
            "left as it is: text, which is not finished and may have seen the rows; remove it or begin it anew",
        ]
    assert manifest_digest(str(runs / "prior")) == prior


def test_imports_of_an_export_are_told(runs, kept):
    from parti_data.manifest import Beginning, StageDirectory

    digest = manifest_digest(str(runs / "tokens"))
    for name, stage, inputs, source in (
        ("tars", "export", {"source": digest}, ""),
        ("again", "import_tokens", {}, f"{runs}/tars/*.tar"),
        ("others", "import_tokens", {}, f"{runs}/tars_of_others"),
    ):
        beginning = Beginning(stage=stage, config={}, inputs=inputs)
        StageDirectory(str(runs / name), beginning).finish([], {}, {"places": {"source": source}})
    lines: list[str] = []
    forget(str(runs), by_key(kept[0].key), lines.append, Options(dry_run=True))
    told = [line for line in lines if line.startswith("left as it is")]
    assert told == [
        "left as it is: again, import_tokens of tars, in which images have keys of their own; forget them by those, or "
        "remove it",
        "left as it is: tars, export of what was made with the rows; remove it or make it anew",
    ]


def test_the_command_writes_the_page_anew(runs, kept, capsys):
    page = runs / "report.html"
    page.write_text("old")
    with pytest.raises(SystemExit) as end:
        main(["forget", str(runs), "--key", kept[0].key])
    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(page)
    assert kept[0].key[:8] not in page.read_text()
    assert "forgotten" in page.read_text()


def test_a_stage_that_reads_the_tars_is_refused(runs, kept, make_config, run_stage):
    from parti_data.sources import WebDatasetSource
    from pipelines.filter import FilterConfig

    source = WebDatasetSource(kind="webdataset", path=str(runs / "shards"))
    run_stage(FilterConfig(output=str(runs / "more"), source=source))
    with pytest.raises(ShardError, match="more: expected a source that is not rewritten, found .*/shards, which holds"):
        forget(str(runs), by_key(kept[0].key), silent)
