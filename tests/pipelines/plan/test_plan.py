import io
import os
import re
import tarfile
import time
from collections import Counter

import pytest

from parti_data import storage
from parti_data.errors import SourceError
from parti_data.ledger import PairDirectory
from parti_data.manifest import read_manifest
from parti_data.quality import QualityFloors
from parti_data.sources import SyntheticSource, WebDatasetSource
from parti_data.storage import file_size
from parti_data.views import Views
from pipelines.duplicates import Duplicates
from pipelines.encode_images import encode_rows
from pipelines.filter import FilterConfig
from pipelines.plan import plan_tokenize as plan_module
from pipelines.plan.choose_stage import choose_stage
from pipelines.plan.estimate import Estimate, Plan, Step
from pipelines.plan.pair_slices import read_slices
from pipelines.plan.plan_filter import estimate_memory, plan_filter, sample_source
from pipelines.plan.plan_shard import copy_slice, plan_shard
from pipelines.plan.plan_tokenize import plan_tokenize
from pipelines.plan.say import plan_lines, say_outcomes, say_pairs, say_time
from pipelines.plan.scratch import marginal, scratch_directory
from pipelines.plan.sizes import tar_pair_bytes, token_row_bytes

STEPS = {
    "filter": ["read", "caption", "decode", "hash", "write", "judge"],
    "shard": ["ledger", "write", "fetch", "digest"],
    "tokenize": ["ledger", "fetch", "decode", "resize", "text", "encode", "inspect", "write"],
}
UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6}


@pytest.fixture(autouse=True)
def nothing_is_written(monkeypatch):
    def refuse(path):
        raise AssertionError(f"wrote {path}")

    monkeypatch.setattr(storage, "_publish_local", refuse)


def size_in(text: str) -> float:
    number, unit = re.search(r"([\d.]+) (bytes|kB|MB)", text).groups()
    return float(number) * UNITS[unit]


@pytest.fixture(scope="module")
def plans(make_config):
    """The plan of each stage for the small data, each pair sampled, and again for two workers."""
    makers = {"filter": plan_filter, "shard": plan_shard, "tokenize": plan_tokenize}
    return {
        (stage, workers): make(make_config(stage, "none"), 96, workers)
        for stage, make in makers.items()
        for workers in (1, 2)
    }


@pytest.mark.parametrize("stage", STEPS)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_plan_tells_each_step_and_the_time_of_all(stage, workers, plans):
    plan = plans[stage, workers]
    assert [step.name for step in plan.steps] == STEPS[stage]
    assert all(step.seconds >= 0 for step in plan.steps)
    assert plan.workers == workers
    assert 1 <= plan.speedup <= workers
    assert re.search(r" from .* to ", dict(plan.outlook)["time"])


def test_what_becomes_of_all_pairs_is_as_the_stage_says(plans, filtered):
    counts = read_manifest(filtered).details["reasons"]
    stated = dict(plans["filter", 1].source)["outcome"]
    assert stated == (
        "75.0 % kept, 6.2 % merged exact_duplicate, 3.1 % dropped caption_boilerplate, "
        "3.1 % dropped caption_missing, 3.1 % dropped image_too_many_pixels, 3.1 % dropped image_too_small, "
        "3.1 % dropped image_undecodable, 3.1 % dropped image_unreadable"
    )
    assert (counts["kept"] / 96, counts["merged exact_duplicate"] / 96) == (0.75, 0.0625)


def test_the_bytes_foretold_are_about_those_that_are_written(plans, sharded, tokens):
    tars = sum(shard.bytes for shard in read_manifest(sharded).shards if shard.name.endswith(".tar"))
    assert size_in(dict(plans["shard", 1].outlook)["tars"]) == pytest.approx(tars, rel=0.2)
    assert size_in(dict(plans["filter", 1].outlook)["tars"]) == pytest.approx(tars, rel=0.3)
    token_bytes = size_in(dict(plans["tokenize", 1].outlook)["tokens"])
    written = sum(shard.bytes for shard in read_manifest(tokens).shards)
    assert token_bytes < written  # three small files, of which each has a footer


def test_several_views_of_a_pair_are_told_and_take_as_much_more(plans, make_config):
    views = Views(kind="ten_crop")
    plan = plan_tokenize(make_config("tokenize", "none", views=views), 960, 1)
    one = plans["tokenize", 1]
    assert dict(plan.source)["a pair"].endswith(", 10 views of 16 tokens")
    assert "views" not in dict(one.source)["a pair"]
    assert size_in(dict(plan.outlook)["tokens"]) == pytest.approx(10 * size_in(dict(one.outlook)["tokens"]), rel=0.3)
    assert " in 29 shards, " in dict(plan.outlook)["tokens"]  # 72 kept pairs, 25 rows a shard
    assert dict(plan_tokenize(make_config("tokenize", "none", views=views), 40, 1).source)["sampled"].startswith(
        "4 pairs"
    )


def test_what_the_gate_takes_is_foretold_of_each_slice(make_config, monkeypatch):
    monkeypatch.setattr(plan_module, "reconstruct", lambda rows, *_: time.sleep(0.001 * len(rows)))
    quality = {"sample": 8, "min_psnr_db": 0.0}
    for rows_per_fragment, sampled in ((30, 24), (1000, 8)):  # of 72 pairs, and 8 are tried otherwise
        config = make_config("tokenize", "none", quality=QualityFloors(**quality), rows_per_fragment=rows_per_fragment)
        found = {step.name: step.seconds for step in plan_tokenize(config, 96, 1).steps}
        assert found["inspect"] * 72 == pytest.approx((sampled + 8) * 0.001 + 8 * found["encode"], rel=0.3)
    config = make_config("tokenize", "none", quality=QualityFloors(sample=0))
    assert "inspect" not in {step.name for step in plan_tokenize(config, 96, 1).steps}


def test_a_plan_decodes_in_processes_where_the_stage_does(make_config, monkeypatch):
    asked = []
    monkeypatch.setattr(plan_module, "encode_rows", lambda *given: asked.append(given[5]) or encode_rows(*given[:5]))
    plan_tokenize(make_config("tokenize", "none", decode_processes=3), 20, 1)
    assert set(asked) == {3}


def test_the_pairs_of_a_source_are_counted_or_told_by_their_bytes(plans, tmp_path, plain_png):
    assert dict(plans["filter", 1].source)["source"] == "synthetic, 3 splits, 96 pairs"
    for number in range(3):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for row in range(60):
                for name, content in ((f"{row:03d}.png", plain_png(row)), (f"{row:03d}.txt", b"a caption")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    source = WebDatasetSource(kind="webdataset", path=str(tmp_path))
    told = dict(plan_filter(FilterConfig(output="none", source=source), 30, 1).source)
    found = re.fullmatch(r"webdataset, 3 splits, about (\d+) pairs \(± .* %, from their sizes\)", told["source"])
    assert 170 <= int(found[1]) <= 200
    assert told["sampled"] == "30 pairs of 3 splits"
    whole = dict(plan_filter(FilterConfig(output="none", source=source), 600, 1).source)
    assert whole["source"] == "webdataset, 3 splits, 180 pairs"


@pytest.mark.parametrize("num_pairs", [1, 3, 50])
def test_a_source_of_few_pairs_is_measured_as_a_whole(num_pairs):
    source = SyntheticSource(num_pairs=num_pairs, side_px=32, pairs_per_split=2)
    plan = plan_filter(FilterConfig(output="none", source=source), 200, 2)
    assert dict(plan.source)["sampled"].startswith(f"{num_pairs} pairs of ")


def test_short_splits_are_made_up_for_by_others(make_config):
    from parti_data.images import ImageLimits
    from pipelines.measure_pairs import Measuring

    source = SyntheticSource(num_pairs=200, side_px=16, pairs_per_split=2)
    sampled = sample_source(Measuring(source, ImageLimits(), (), ""), source.splits(), 100)
    assert sum(len(part.rows) for part in sampled) == 100
    numbers = [part.split.number for part in sampled]
    assert (numbers[0], numbers[19], len(numbers)) == (0, 99, 50)


def test_a_source_of_which_all_is_dropped_is_planned_and_the_failure_foretold():
    source = SyntheticSource(num_pairs=40, side_px=32)
    config = FilterConfig.model_validate(
        {"output": "none", "source": source.model_dump(), "rules": {"min_side_px": 64}}
    )
    plan = plan_filter(config, 200, 1)
    assert dict(plan.source)["outcome"] == "100 % dropped image_too_small"
    assert dict(plan.outlook)["tars"].startswith("0 bytes ")
    assert "the stage would fail: more is dropped than max_dropped_fraction = 0.5" in plan.notes


def test_rows_without_images_are_planned(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"file_name": "gone.png", "text": "a"}\n' * 3)
    config = FilterConfig.model_validate({"output": "none", "source": {"kind": "table", "path": str(tmp_path)}})
    plan = plan_filter(config, 200, 1)
    assert dict(plan.source)["outcome"] == "100 % dropped image_missing"
    assert dict(plan.outlook)["tokens"].startswith("0 bytes ")


def test_a_source_without_rows_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    config = FilterConfig.model_validate({"output": "none", "source": {"kind": "table", "path": str(tmp_path)}})
    with pytest.raises(SourceError, match=r"a.jsonl: expected pairs to measure, found none; check source.path"):
        plan_filter(config, 200, 1)


@pytest.mark.parametrize("stage", ["shard", "tokenize"])
def test_a_directory_that_keeps_nothing_is_refused(stage, make_config, monkeypatch):
    monkeypatch.setattr(PairDirectory, "__len__", lambda _: 0)
    plan = {"shard": plan_shard, "tokenize": plan_tokenize}[stage]
    with pytest.raises(SourceError, match=r"pairs: expected kept pairs, found none; see its ledger for the reasons"):
        plan(make_config(stage, "none"), 10, 1)


def test_what_the_search_leaves_out_is_said():
    config = FilterConfig.model_validate(
        {"output": "none", "source": {"num_pairs": 4, "side_px": 16}, "duplicates": {"near": True},
         "rules": {"max_rows_per_caption": 3}}
    )  # fmt: skip
    assert plan_filter(config, 4, 1).notes == [
        "duplicates are only found among all pairs, so fewer may be kept",
        "captions that many rows share are only found among all pairs too",
        "the search for near-duplicates is not in the time",
    ]


def test_memory_grows_with_rows_workers_and_the_largest_picture(filtered):
    rows = list(PairDirectory(filtered).kept())
    exact = Duplicates()
    least = estimate_memory(0, rows, 1, exact)
    assert estimate_memory(1000, rows, 1, exact) - least == 1000 * 400
    assert estimate_memory(0, rows, 3, exact) - least == 2 * 32 * 32 * 12
    assert estimate_memory(0, [], 3, exact) < least


@pytest.mark.parametrize(
    ("duplicates", "measured"),
    [
        (Duplicates(), 425),
        (Duplicates(near=True, max_distance=3), 2100),
        (Duplicates(near=True), 2900),
        (Duplicates(near=True, mirrored=True), 5600),
    ],
)
def test_a_row_takes_the_memory_that_was_measured(duplicates, measured):
    a_row = (estimate_memory(1000, [], 1, duplicates) - estimate_memory(0, [], 1, duplicates)) / 1000
    assert abs(a_row / measured - 1) < 0.1


def test_slices_lie_evenly_over_the_kept_pairs(filtered):
    pairs = PairDirectory(filtered)
    kept = [row.source_key for row in pairs.kept()]
    slices = read_slices(pairs, 30, 10)
    found = [[row.source_key for row in rows] for rows in slices.rows]
    assert found == [kept[:10], kept[31:41], kept[62:72]]
    assert [len(rows) for rows in read_slices(pairs, 5, 10).rows] == [5]
    assert [len(rows) for rows in read_slices(pairs, 1000, 100).rows] == [72]


def test_a_copied_slice_is_as_large_as_in_a_tar(filtered, sharded):
    pairs = PairDirectory(filtered)
    rows = list(pairs.kept(0, 18))
    block, size = copy_slice(pairs, rows)
    whole = file_size(f"{sharded}/pairs-00000-of-00004.tar")
    assert block.num_pairs == 18
    assert whole - tarfile.RECORDSIZE < size <= whole
    assert tar_pair_bytes(rows) * 18 == size


def test_a_token_row_is_as_large_as_its_codes_and_little_more(filtered):
    rows = list(PairDirectory(filtered).kept()) * 10
    assert 256 * 13 / 8 < token_row_bytes(rows) < 256 * 13 / 8 + 250
    assert token_row_bytes([]) == 0


def test_what_a_file_costs_anyway_is_no_part_of_a_row():
    assert marginal(lambda _, rows: 1000 + 7 * rows, 11)[1] == 7
    assert marginal(lambda _, rows: 1000 + 7 * rows, 1)[1] == 1007


def test_a_scratch_directory_leaves_nothing():
    with scratch_directory() as directory:
        storage.publish_bytes(f"{directory}/a/b", b"x")
        assert storage.is_file(f"{directory}/a/b")
    assert not storage.is_file(f"{directory}/a/b")


def test_a_plan_is_a_table_with_its_bottleneck(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 9.0, 9.0))
    steps = [Step("read", 0.001), Step("decode", 0.003), Step("caption", 0.0)]
    plan = Plan("filter", [("source", "x")], steps, 2, 1.5, [("time", "1 s")], ["careful"])
    assert list(plan_lines(plan)) == [
        "filter",
        "  source     x",
        "",
        "  step         images/s   share",
        "  read            1,000    25 %",
        "  decode            333    75 %  the bottleneck",
        "  caption             -     0 %",
        "  together          250   100 %  on one thread",
        "                                 2 threads are 1.5 times as fast",
        "",
        "  time       1 s",
        "note: careful",
    ]


def test_a_plan_on_a_busy_machine_says_so(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (6.84, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    plan = Plan("filter", [], [Step("read", 0.001)], 1, 1.0, [], [])
    assert list(plan_lines(plan))[-1] == (
        "note: other programs are at work (load 6.8 on 2 cores), and the times are those beside them"
    )


def test_numbers_are_said_with_what_is_known_of_them(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.1, 0.0, 0.0))
    assert say_time(Estimate(3600, 0.0)) == "1 h 0 min, from 30 min 0 s to 2 h 0 min"
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 9.0, 9.0))
    assert say_time(Estimate(3600, 0.0)) == "1 h 0 min, from 48 min 0 s to 1 h 15 min"
    assert say_pairs(Estimate(1234)) == "1,234 pairs"
    assert say_pairs(Estimate(1234.4, 0.05)) == "about 1,234 pairs (± 10.0 %, from their sizes)"
    reasons = Counter({f"dropped {n}": 1 for n in range(9)})
    assert say_outcomes(reasons, 9).endswith("11.1 % dropped 7 and others")


@pytest.mark.parametrize(
    ("arguments", "stage"),
    [
        (["filter", "a=1"], ("filter", ["a=1"])),
        (["tokenize"], ("tokenize", [])),
        (["source.num_pairs=3"], ("filter", ["source.num_pairs=3"])),
        ([], ("filter", [])),
        (["source=runs/pairs"], ("shard", ["source=runs/pairs"])),
        (["source=runs/pairs", "image_tokenizer=x"], ("tokenize", ["source=runs/pairs", "image_tokenizer=x"])),
        (["configs/emoji/filter.toml"], ("filter", ["configs/emoji/filter.toml"])),
        (["configs/emoji/tokenize.toml"], ("tokenize", ["configs/emoji/tokenize.toml"])),
        (["configs/shard/webdataset.toml"], ("shard", ["configs/shard/webdataset.toml"])),
    ],
)
def test_the_stage_is_named_or_told_by_the_config(arguments, stage):
    assert choose_stage(arguments) == stage


def test_emoji_take_about_what_was_foretold(shared):
    """Pairs and outcome only: how long it takes depends on who else is at work."""
    source = WebDatasetSource(kind="webdataset", path=str(shared / "data/noto-emoji"))
    plan = plan_filter(FilterConfig(output="none", source=source), 200, 1)
    stated = int(re.search(r"about ([\d,]+) pairs", dict(plan.source)["source"])[1].replace(",", ""))
    assert stated == pytest.approx(3414, rel=0.25)
