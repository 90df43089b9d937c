"""Filter from end to end with near-duplicates and benchmarks."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from parti_data.benchmarks import Benchmark
from parti_data.errors import ShardError, SourceError
from parti_data.images import image_key, to_png
from parti_data.ledger import LedgerRow, PairDirectory
from parti_data.manifest import read_manifest
from parti_data.rules import Rules
from parti_data.sources import WebDatasetSource
from pipelines.duplicates import Duplicates
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.verify import verify

NEAR = Duplicates(near=True)


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((120, 100), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    return to_png(np.asarray(image))


@pytest.fixture
def tars(make_tar, tmp_path) -> str:
    """Picture 1 as it is, smaller, the smaller one again, and mirrored; picture 2 twice over; picture 3 alone."""
    small = jpeg(picture(1).resize((60, 50)))
    images = {
        "0": [("small", small), ("three", png(picture(3))), ("two", jpeg(picture(2)))],
        "1": [("large", png(picture(1))), ("small again", small)],
        "2": [("mirrored", png(picture(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT))), ("two too", png(picture(2)))],
    }
    for tar, members in images.items():
        files = [(f"{name}.png", content) for name, content in members]
        make_tar(f"tars/{tar}.tar", files + [(f"{name}.txt", f"of {name}".encode()) for name, _ in members])
    return str(tmp_path / "tars")


@pytest.fixture
def make(tars, tmp_path):
    def make(output: str, **settings) -> FilterConfig:
        source = WebDatasetSource(kind="webdataset", path=tars)
        return FilterConfig(output=f"{tmp_path}/{output}", source=source, max_dropped_fraction=1, **settings)

    return make


def rows_of(config: FilterConfig) -> dict[str, LedgerRow]:
    return {row.source_key: row for row in PairDirectory(config.output).ledger()}


def outcomes(config: FilterConfig) -> dict[str, str]:
    return {name: f"{row.outcome} {row.reason}".strip() for name, row in rows_of(config).items()}


def test_images_that_look_alike_are_merged_into_the_largest(make, beam_options):
    config = make("out", duplicates=NEAR)
    manifest = filter_pairs(config, beam_options())
    rows = rows_of(config)
    two, other = sorted(("two", "two too"), key=lambda name: rows[name].key)
    assert outcomes(config) == {
        "small": "merged near_duplicate", "small again": "merged exact_duplicate", "large": "kept",
        "three": "kept", "mirrored": "kept", two: "kept", other: "merged near_duplicate",
    }  # fmt: skip
    assert rows["large"].captions == ["of large", "of small", "of small again"]
    assert rows["small"].merged_into == rows["large"].key
    assert rows["small again"].merged_into == rows["small"].key == rows["small again"].key
    assert rows[two].captions == [f"of {two}", f"of {other}"]
    assert manifest.counts == {"read": 7, "kept": 4, "merged": 3, "dropped": 0}
    assert verify(config.output)


def test_a_mirrored_image_looks_alike_where_it_is_asked_for(make, beam_options):
    config = make("out", duplicates=Duplicates(near=True, mirrored=True))
    filter_pairs(config, beam_options())
    rows = rows_of(config)
    assert rows["small"].outcome == "merged"
    survivors = {rows[name].key for name in ("large", "mirrored") if rows[name].outcome == "kept"}
    assert survivors == {min(rows["large"].key, rows["mirrored"].key)}


def test_the_bytes_are_the_same_for_any_workers_and_after_judging_again(make, beam_options, contents, monkeypatch):
    near, off = make("near", duplicates=NEAR), make("off")
    filter_pairs(near, beam_options())
    filter_pairs(off, beam_options())
    for number, arguments in enumerate((["--direct_num_workers=2"], ["--direct_runner_bundle_repeat=1"])):
        again = make(f"again {number}", duplicates=NEAR)
        filter_pairs(again, beam_options(*arguments))
        assert contents(again.output) == contents(near.output)
    judged = make("again 0")
    with monkeypatch.context() as patch:
        patch.delattr(WebDatasetSource, "read")
        filter_pairs(judged, beam_options(), rejudge=True)
        assert contents(judged.output) == contents(off.output)
        filter_pairs(make("again 0", duplicates=NEAR), beam_options(), rejudge=True)
    assert contents(judged.output) == contents(near.output)


def with_spot(image: Image.Image) -> Image.Image:
    """A variant that the hash does not tell: a spot of another colour."""
    image = image.copy()
    image.paste((250, 60, 60), (30, 30, 42, 42))
    return image


def test_variants_stay_unless_they_are_asked_to_go(make_tar, tmp_path, beam_options, contents):
    images = {
        "plain": png(picture(1)), "spotted": png(with_spot(picture(1))), "small": jpeg(picture(1).resize((60, 50))),
        "small spotted": jpeg(with_spot(picture(1)).resize((90, 75))), "alone": png(picture(3)),
        "spotted again": png(with_spot(picture(1))),
    }  # fmt: skip
    for number, names in enumerate((["small", "spotted", "alone"], ["plain", "small spotted", "spotted again"])):
        members = [(f"{name}.png", images[name]) for name in names] + [(f"{n}.txt", n.encode()) for n in names]
        make_tar(f"variants/{number}.tar", members)

    def filtered(output: str, duplicates: Duplicates, *arguments: str) -> FilterConfig:
        source = WebDatasetSource(kind="webdataset", path=f"{tmp_path}/variants")
        config = FilterConfig(
            output=f"{tmp_path}/{output}", source=source, duplicates=duplicates, max_dropped_fraction=1
        )
        filter_pairs(config, beam_options(*arguments), rejudge="rejudged" in output)
        return config

    kept = filtered("kept", NEAR)
    assert outcomes(kept) == {
        "plain": "kept", "small": "merged near_duplicate", "spotted": "kept", "alone": "kept",
        "small spotted": "merged near_duplicate", "spotted again": "merged exact_duplicate",
    }  # fmt: skip
    rows = rows_of(kept)
    assert rows["spotted"].captions == ["spotted", "spotted again", "small spotted"]
    assert rows["plain"].captions == ["plain", "small"]
    assert rows["alone"].captions == ["alone"]
    assert contents(filtered("two workers", NEAR, "--direct_num_workers=2").output) == contents(kept.output)
    merged = filtered("merged", Duplicates(near=True, keep_variants=False))
    assert sum(outcome == "kept" for outcome in outcomes(merged).values()) == 2
    (tmp_path / "merged").rename(tmp_path / "rejudged")
    assert contents(filtered("rejudged", NEAR).output) == contents(kept.output)


@pytest.fixture
def benchmarks(tmp_path) -> list[Benchmark]:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/a.png").write_bytes(png(picture(9)))
    (tmp_path / "evaluation/b.jpg").write_bytes(jpeg(picture(1).resize((200, 170))))
    (tmp_path / "prompts.tsv").write_text("Prompt\tCategory\nnot there\tx\nOF  Three\ty\n")
    return [
        Benchmark(name="pictures", images=f"{tmp_path}/evaluation"),
        Benchmark(name="prompts", captions=f"{tmp_path}/prompts.tsv"),
    ]


def test_what_benchmarks_hold_is_removed_and_told_in_the_ledger_and_the_audit(make, beam_options, benchmarks):
    config = make("out", benchmarks=benchmarks)
    manifest = filter_pairs(config, beam_options())
    by_picture = ["small", "large", "small again"]
    assert {name for name, outcome in outcomes(config).items() if outcome == "dropped benchmark_image"} == set(
        by_picture
    )
    rows = rows_of(config)
    assert (rows["three"].reason, rows["three"].detail) == ("benchmark_caption", "prompts: prompt 2")
    assert rows["small"].detail.startswith("pictures: b.jpg, ")
    with open(f"{config.output}/benchmarks.jsonl") as file:
        audit = [json.loads(line) for line in file]
    removed = [row for row in PairDirectory(config.output).ledger() if row.outcome == "dropped"]
    names = ("reason", "detail", "key", "source", "source_key", "captions")
    assert audit == [{name: getattr(row, name) for name in names} for row in removed]
    assert len(audit) == 4
    assert audit[0]["key"] == image_key(jpeg(picture(1).resize((60, 50))))
    (shard,) = [shard for shard in manifest.shards if shard.name == "benchmarks.jsonl"]
    assert shard.rows == 4
    assert verify(config.output)


def test_judging_again_changes_benchmarks_and_ends_as_a_run_from_the_start(make, beam_options, benchmarks, contents):
    filter_pairs(make("off"), beam_options())
    filter_pairs(make("on", benchmarks=benchmarks), beam_options("--direct_num_workers=2"))
    config = make("out")
    filter_pairs(config, beam_options())
    for name, settings in (("on", {"benchmarks": benchmarks}), ("off", {})):
        filter_pairs(make("out", **settings), beam_options(), rejudge=True)
        assert contents(config.output) == contents(config.output.replace("out", name))


def test_a_benchmark_that_changed_is_noticed(make, beam_options, benchmarks, tmp_path):
    config = make("out", benchmarks=benchmarks)
    before = filter_pairs(config, beam_options())
    (tmp_path / "prompts.tsv").write_text("Prompt\nof large\n")
    with pytest.raises(ShardError, match="input benchmarks: begun with"):
        filter_pairs(config, beam_options())
    after = filter_pairs(config, beam_options(), rejudge=True)
    assert after.inputs["benchmarks"] != before.inputs["benchmarks"]
    assert rows_of(config)["three"].outcome == "kept"
    (tmp_path / "prompts.tsv").unlink()
    with pytest.raises(SourceError, match="prompts.tsv: expected a file of captions, found none"):
        filter_pairs(config, beam_options())


def test_a_prompt_is_also_found_in_what_the_rules_take_away_or_leave(make, beam_options, tmp_path):
    (tmp_path / "prompts.txt").write_text("three\nof two\n")
    config = make(
        "out", rules=Rules(strip=["of"]), benchmarks=[Benchmark(name="p", captions=f"{tmp_path}/prompts.txt")]
    )
    filter_pairs(config, beam_options())
    dropped = {name: row.detail for name, row in rows_of(config).items() if row.outcome == "dropped"}
    assert dropped == {"three": "p: prompt 1", "two": "p: prompt 2"}


def test_without_benchmarks_there_is_no_audit_and_no_input(filtered):
    manifest = read_manifest(filtered)
    assert list(manifest.inputs) == ["source"]
    assert not any(shard.name.endswith(".jsonl") for shard in manifest.shards)
