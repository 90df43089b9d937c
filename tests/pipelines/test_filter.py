import shutil
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from parti_data.errors import ShardError, SourceError
from parti_data.held_out import HeldOut
from parti_data.images import ImageLimits
from parti_data.ledger import OUTCOMES, PairDirectory, read_ledger, write_ledger
from parti_data.manifest import MANIFEST, Manifest, read_manifest, reopen
from parti_data.rules import Rules, ScoreRange
from parti_data.sources import SyntheticSource, WebDatasetSource
from parti_data.sources.synthetic import SPOILS
from parti_data.storage import list_directory
from pipelines.duplicates import Duplicates
from pipelines.filter import FilterConfig, filter_pairs, finish

EXPECTED = {
    "truncated": ("dropped", "image_undecodable"),
    "not_an_image": ("dropped", "image_unreadable"),
    "one_pixel": ("dropped", "image_too_small"),
    "huge_header": ("dropped", "image_too_many_pixels"),
    "empty_caption": ("dropped", "caption_missing"),
    "boilerplate_caption": ("dropped", "caption_boilerplate"),
    "exact_duplicate": ("merged", "exact_duplicate"),
    "same_image_other_caption": ("merged", "exact_duplicate"),
}


def tar_config(path: str, output: object, **others) -> FilterConfig:
    return FilterConfig(output=str(output), source=WebDatasetSource(kind="webdataset", path=path), **others)


def outcomes(directory: str) -> dict[str, tuple[str, str]]:
    return {row.source_key: (row.outcome, row.reason) for row in PairDirectory(directory).ledger()}


def test_every_pair_is_kept_merged_or_dropped_once(filtered, synthetic):
    rows = list(PairDirectory(filtered).ledger())
    assert [row.source_key for row in rows] == [f"{number:08d}" for number in range(synthetic.num_pairs)]
    counts = Counter(row.outcome for row in rows)
    assert set(counts) == set(OUTCOMES)
    stated = read_manifest(filtered).counts
    assert stated == {"read": len(rows), **counts}
    assert stated["read"] == stated["kept"] + stated["merged"] + stated["dropped"]


def test_counts_are_the_recorded_ones(filtered):
    manifest = read_manifest(filtered)
    assert manifest.counts == {"read": 96, "kept": 72, "merged": 6, "dropped": 18}
    assert manifest.details == {
        "kept": [24, 24, 24],
        "totals": {"captions_kept": 75, "image_bytes": 38_271, "images_decoded": 87},
        "reasons": {
            "kept": 72, "merged exact_duplicate": 6, "dropped caption_boilerplate": 3, "dropped caption_missing": 3,
            "dropped image_too_many_pixels": 3, "dropped image_too_small": 3, "dropped image_undecodable": 3,
            "dropped image_unreadable": 3,
        },
    }  # fmt: skip


def test_a_share_is_held_out_by_one_key_and_kept_by_another(filtered, synthetic, tmp_path, beam_options):
    kept, merged = {}, 0
    for side in ("training", "held_out"):
        rules = Rules(held_out=HeldOut(share=0.2, keep=side))
        manifest = filter_pairs(
            FilterConfig(output=f"{tmp_path}/{side}", source=synthetic, rules=rules), beam_options()
        )
        kept[side] = {row.key for row in PairDirectory(f"{tmp_path}/{side}").kept()}
        merged += manifest.counts["merged"]
    assert not kept["training"] & kept["held_out"]
    assert kept["training"] | kept["held_out"] == {row.key for row in PairDirectory(filtered).kept()}
    assert merged == read_manifest(filtered).counts["merged"]
    assert len(kept["held_out"]) < len(kept["training"]) / 2  # more than half is dropped, and nothing is wrong


def test_every_split_has_a_ledger_with_an_outcome_for_each_of_its_rows(filtered, synthetic):
    splits = synthetic.splits()
    names = [name for name in list_directory(filtered) if name.startswith("ledger-")]
    assert len(names) == len(splits) == 3
    for name, split in zip(names, splits, strict=True):
        rows = list(read_ledger(f"{filtered}/{name}"))
        assert [row.offset for row in rows] == list(range(split.first, split.first + split.count))
        assert all(row.outcome in OUTCOMES and bool(row.reason) == (row.outcome != "kept") for row in rows)


def test_every_kind_of_spoiled_row_ends_with_its_reason(filtered, synthetic):
    found = outcomes(filtered)
    for row, source_key in enumerate(found):
        spoil = SPOILS[row // 4 % len(SPOILS)] if row % 4 == 3 else None
        assert found[source_key] == (EXPECTED[spoil] if spoil else ("kept", "")), (row, spoil)
    assert set(EXPECTED) == set(SPOILS)


def test_a_merged_row_points_to_its_image_whose_row_has_all_captions(filtered):
    rows = list(PairDirectory(filtered).ledger())
    kept = {row.key: row for row in rows if row.outcome == "kept"}
    assert len(kept) == sum(row.outcome == "kept" for row in rows)
    merged = [row for row in rows if row.outcome == "merged"]
    assert len(merged) == 6
    for row in merged:
        survivor = kept[row.merged_into]
        assert row.key == row.merged_into
        assert int(survivor.source_key) == int(row.source_key) - 1
        assert set(row.captions) <= set(survivor.captions)
        assert len(set(survivor.captions)) == len(survivor.captions)
    assert Counter(len(row.captions) for row in kept.values()) == {1: 69, 2: 3}


def test_a_dropped_row_says_in_what_particular(filtered):
    details = {row.reason: row.detail for row in PairDirectory(filtered).ledger() if row.outcome == "dropped"}
    assert details["image_too_small"] == "1x1, at least 16 px a side"
    assert details["image_too_many_pixels"] == "65000x65000, at most 64000000 pixels"
    assert details["caption_boilerplate"].startswith("image ")
    assert details["caption_missing"] == ""
    assert details["image_unreadable"]


def test_too_many_dropped_rows_are_refused_with_the_reasons_and_a_higher_limit_goes_on(
    filtered, tmp_path, synthetic, beam_options, contents
):
    config = FilterConfig(output=f"{tmp_path}/out", source=synthetic, max_dropped_fraction=0.1)
    with pytest.raises(
        SourceError,
        match=r"out: expected at most 10% of rows dropped, found 18 of 96 "
        r"\(caption_boilerplate 3, caption_missing 3, image_too_many_pixels 3\); "
        r"look into the ledger, then mend the rules and add --rejudge, or raise max_dropped_fraction",
    ):
        filter_pairs(config, beam_options())
    before = contents(config.output)
    assert MANIFEST not in before
    filter_pairs(config.model_copy(update={"max_dropped_fraction": 0.5}), beam_options())
    after = contents(config.output)
    assert after == contents(filtered)
    assert {name: before[name] for name in before if name in after} == {
        name: after[name] for name in before if name in after
    }


def test_a_rule_that_drops_everything_is_named(tmp_path, beam_options):
    config = FilterConfig(
        output=f"{tmp_path}/out", source=SyntheticSource(num_pairs=5, side_px=32), rules=Rules(min_side_px=33)
    )
    with pytest.raises(SourceError, match=r"found 5 of 5 \(image_too_small 5\)"):
        filter_pairs(config, beam_options())


@pytest.fixture
def good_tar(make_tar, plain_png) -> str:
    """Three pairs, the third a copy of the first with another caption, members out of order."""
    members = [
        ("b.txt", b"two"), ("a.png", plain_png(1)), ("a.txt", b"  one\n one "), ("b.png", plain_png(2)),
        ("c.png", plain_png(1)), ("c.txt", b"three"),
    ]  # fmt: skip
    return make_tar("good/0.tar", members)


def test_pairs_of_a_tar_are_found_and_merged(good_tar, tmp_path, beam_options, plain_png):
    manifest = filter_pairs(tar_config(good_tar, tmp_path / "out"), beam_options())
    assert manifest.counts == {"read": 3, "kept": 2, "merged": 1, "dropped": 0}
    pairs = PairDirectory(f"{tmp_path}/out")
    rows = list(pairs.kept())
    assert [(row.source_key, row.captions) for row in rows] == [("b", ["two"]), ("a", ["one one", "three"])]
    assert [pairs.fetch(row) for row in rows] == [plain_png(2), plain_png(1)]


def test_duplicates_are_merged_over_tars(make_tar, tmp_path, beam_options, plain_png):
    for number in (1, 0):
        make_tar(f"tars/{number}.tar", [("a.png", plain_png(5)), ("a.txt", f"text {number}".encode())])
    filter_pairs(tar_config(str(tmp_path / "tars"), tmp_path / "out"), beam_options("--direct_num_workers=2"))
    rows = list(PairDirectory(f"{tmp_path}/out").ledger())
    assert [(row.outcome, row.captions) for row in rows] == [("kept", ["text 0", "text 1"]), ("merged", ["text 1"])]


def test_rows_of_the_web_are_never_an_exception(make_tar, tmp_path, beam_options, plain_png):
    members = [
        ("ok.png", plain_png(1)), ("ok.txt", b"fine"),
        ("no_image.txt", b"alone"),
        ("no_caption.png", plain_png(2)),
        ("surrogate.png", plain_png(3)), ("surrogate.json", b'{"caption": "half \\ud800 a pair"}'),
        ("caf\udce9.png", plain_png(4)), ("caf\udce9.txt", b"caf\xe9 in latin 1"),
        ("empty.png", b""), ("empty.txt", b"empty image"),
        ("nul.png", plain_png(5)), ("nul.txt", b"nul \x00 inside"),
        ("big.png", plain_png(6) + bytes(2000)), ("big.txt", b"too many bytes"),
    ]  # fmt: skip
    config = tar_config(make_tar("x.tar", members), tmp_path / "out", limits=ImageLimits(max_bytes=2000))
    filter_pairs(config, beam_options())
    assert outcomes(config.output) == {
        "ok": ("kept", ""),
        "no_image": ("dropped", "image_missing"),
        "no_caption": ("dropped", "caption_missing"),
        "surrogate": ("kept", ""),
        "caf\\udce9": ("kept", ""),
        "empty": ("dropped", "image_unreadable"),
        "nul": ("kept", ""),
        "big": ("dropped", "image_too_many_bytes"),
    }
    big = next(row for row in PairDirectory(config.output).ledger() if row.source_key == "big")
    assert (big.key, big.num_bytes) == ("", len(plain_png(6)) + 2000)


BROKEN = {
    "inside a member": (
        lambda tar: tar[: 1536 + 20],
        r"expected \d+ bytes at least, found 1556 \(cut short in member 'a.png'",
    ),
    "inside padding": (
        lambda tar: tar[: 512 + 300],
        "expected a whole tar, found unexpected end of data after 1 pairs",
    ),
    "inside a header": (lambda tar: tar[: 1024 + 100], "found no header and no end mark at byte 1024, after 1 pairs"),
    "empty": (lambda tar: b"", "expected a tar, found an empty file; download it again"),
    "no tar": (lambda tar: b"x" * 2000, "expected a whole tar, found .* after 0 pairs"),
}
WAYS = {"in memory": ["--direct_num_workers=1"], "behind grpc": ["--direct_running_mode=multi_threading"]}


@pytest.mark.parametrize(
    ("way", "broken"), [*(("in memory", name) for name in BROKEN), ("behind grpc", "inside a header")]
)
def test_a_broken_tar_is_refused_by_name_and_nothing_is_finished(good_tar, tmp_path, beam_options, way, broken):
    cut, message = BROKEN[broken]
    with open(good_tar, "rb") as file:
        content = file.read()
    (tmp_path / "good/1.tar").write_bytes(cut(content))
    config = tar_config(str(tmp_path / "good"), tmp_path / "out")
    with pytest.raises(SourceError, match=rf"^{tmp_path}/good/1.tar: .*{message}") as error:
        filter_pairs(config, beam_options(*WAYS[way]))
    assert "\n" not in str(error.value)
    assert "while running" not in str(error.value)
    assert MANIFEST not in list_directory(config.output)


def test_after_the_broken_tar_is_mended_the_run_goes_on(good_tar, tmp_path, beam_options, make_tar, plain_png):
    path = make_tar("good/1.tar", [("d.png", plain_png(9)), ("d.txt", b"four")])
    with open(path, "r+b") as file:
        content = file.read()
        file.seek(257)
        file.write(b"XXXXX")  # the header's magic; the file's size stays
    config = tar_config(str(tmp_path / "good"), tmp_path / "out")
    with pytest.raises(SourceError, match=r"good/1.tar: expected a whole tar"):
        filter_pairs(config, beam_options())
    with open(path, "wb") as file:
        file.write(content)
    assert filter_pairs(config, beam_options()).counts == {"read": 4, "kept": 3, "merged": 1, "dropped": 0}


def test_a_path_without_tars_is_refused(tmp_path, beam_options):
    for pattern in ("none", "none.tar", "*.tar"):
        with pytest.raises(SourceError, match="expected tar files, found none; check source.path"):
            filter_pairs(tar_config(f"{tmp_path}/{pattern}", tmp_path / "out"), beam_options())
    assert list_directory(f"{tmp_path}/out") == []


def test_a_tar_without_members_is_finished_with_no_rows(make_tar, tmp_path, beam_options):
    manifest = filter_pairs(tar_config(make_tar("x.tar", []), tmp_path / "out"), beam_options())
    assert manifest.counts == {"read": 0, "kept": 0, "merged": 0, "dropped": 0}
    assert list(PairDirectory(f"{tmp_path}/out").ledger()) == []


def test_rejudging_ends_as_a_run_with_those_rules_from_the_start_and_reads_no_image(
    synthetic, tmp_path, beam_options, contents, monkeypatch
):
    stricter = {"rules": Rules(min_caption_words=10), "duplicates": Duplicates(max_captions=1)}
    first = FilterConfig(output=f"{tmp_path}/out", source=synthetic)
    other = FilterConfig(output=f"{tmp_path}/out", source=synthetic, **stricter)
    fresh = filter_pairs(FilterConfig(output=f"{tmp_path}/fresh", source=synthetic, **stricter), beam_options())
    before = filter_pairs(first, beam_options())
    with monkeypatch.context() as patch:
        patch.delattr(SyntheticSource, "read")
        assert filter_pairs(other, beam_options(), rejudge=True) == fresh
        assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
        assert filter_pairs(first, beam_options(), rejudge=True) == before
    assert fresh.counts["kept"] < before.counts["kept"]


LEDGER = "ledger-00001-of-00003.parquet"


@pytest.fixture
def judged_twice(synthetic, tmp_path, beam_options) -> tuple[FilterConfig, Path]:
    """A config with stricter rules, whose output was begun with others, and the ledger of those that comes late."""
    first = FilterConfig(output=f"{tmp_path}/out", source=synthetic, max_dropped_fraction=1)
    filter_pairs(first, beam_options())
    late = (tmp_path / "out" / LEDGER).rename(tmp_path / LEDGER)
    return first.model_copy(update={"rules": Rules(min_side_px=1000)}), late


def test_a_ledger_by_earlier_rules_that_a_job_left_behind_is_not_taken(
    judged_twice, tmp_path, beam_options, contents, monkeypatch
):
    config, late = judged_twice
    filter_pairs(config.model_copy(update={"output": f"{tmp_path}/fresh"}), beam_options())

    def reopen_too_early(*arguments, **others) -> None:
        reopen(*arguments, **others)
        shutil.copy(late, tmp_path / "out" / LEDGER)

    monkeypatch.setattr("pipelines.filter.reopen", reopen_too_early)
    filter_pairs(config, beam_options(), rejudge=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_ledger_that_a_job_by_earlier_rules_puts_over_a_new_one_is_told_before_the_end(
    judged_twice, tmp_path, beam_options, monkeypatch
):
    config, late = judged_twice

    def finish_too_late(*arguments) -> Manifest:
        shutil.copy(late, tmp_path / "out" / LEDGER)
        return finish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.filter.finish", finish_too_late)
        with pytest.raises(
            ShardError, match=f"/{LEDGER}: expected the ledger that this run wrote, found one by the rules of an earl"
        ):
            filter_pairs(config, beam_options(), rejudge=True)
    assert filter_pairs(config, beam_options()).counts["kept"] == 0


def test_a_directory_whose_ledgers_do_not_say_their_beginning_is_read_and_judged_again(
    filtered, tmp_path, synthetic, beam_options
):
    path = shutil.copytree(filtered, tmp_path / "out")
    rows = list(PairDirectory(filtered).ledger())
    for ledger in path.glob("ledger-*"):
        write_ledger(str(ledger), list(read_ledger(str(ledger))))
    assert list(PairDirectory(str(path)).ledger()) == rows
    config = FilterConfig(output=str(path), source=synthetic)
    assert filter_pairs(config, beam_options()) == read_manifest(filtered)
    (path / MANIFEST).unlink()
    assert filter_pairs(config, beam_options()) == read_manifest(filtered)


def test_rejudging_refuses_what_would_need_the_images_again(synthetic, tmp_path, beam_options, contents):
    config = FilterConfig(output=f"{tmp_path}/out", source=synthetic)
    with pytest.raises(ShardError, match=r"/out: expected a directory that filter began, found none; run it first"):
        filter_pairs(config, beam_options(), rejudge=True)
    filter_pairs(config, beam_options())
    before = contents(tmp_path / "out")
    limited = config.model_copy(update={"limits": ImageLimits(max_pixels=100)})
    with pytest.raises(ShardError, match=r"limits.max_pixels: begun with 64000000, now 100"):
        filter_pairs(limited, beam_options(), rejudge=True)
    assert contents(tmp_path / "out") == before


def test_a_caption_beside_too_many_images_is_dropped_over_all_splits(make_tar, tmp_path, beam_options, plain_png):
    for tar, shades in (("a", (1, 2)), ("b", (3, 4))):
        members = [(f"{shade}.png", plain_png(shade)) for shade in shades]
        captions = ["My Photo" if shade < 4 else "a grey square" for shade in shades]
        members += [(f"{shade}.txt", text.encode()) for shade, text in zip(shades, captions, strict=True)]
        make_tar(f"{tar}.tar", members)
    for most, kept in ((3, 4), (2, 1)):
        config = FilterConfig(
            output=f"{tmp_path}/out", source=WebDatasetSource(kind="webdataset", path=str(tmp_path)),
            rules=Rules(max_rows_per_caption=most), max_dropped_fraction=1,
        )  # fmt: skip
        manifest = filter_pairs(config, beam_options(), rejudge=most < 3)
        assert manifest.details["reasons"] == {"kept": kept} | ({"dropped caption_repeated": 3} if most < 3 else {})


def test_captions_are_judged_by_language_and_words_in_any_number_of_threads_and_without_the_images(
    make_tar, tmp_path, beam_options, plain_png, contents, monkeypatch
):
    captions = [
        "a dog plays in the garden", "ein Hund spielt im Garten", "犬が庭で遊ぶ", "Tom Hanks",
        "free porn in the garden", "un chien joue dans le jardin",
    ]  # fmt: skip
    for number, caption in enumerate(captions):
        make_tar(f"source/{number}.tar", [("1.png", plain_png(number)), ("1.txt", caption.encode())])

    def make(output: str, **others) -> FilterConfig:
        return tar_config(str(tmp_path / "source"), tmp_path / output, max_dropped_fraction=1, **others)

    rules = Rules(languages=["en"], drop_adult_text=True)
    manifest = filter_pairs(make("one", rules=rules), beam_options())
    filter_pairs(make("two", rules=rules), beam_options("--direct_num_workers=2"))
    filter_pairs(make("again"), beam_options())
    with monkeypatch.context() as patch:
        patch.delattr(WebDatasetSource, "read")
        filter_pairs(make("again", rules=rules), beam_options(), rejudge=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "again")
    assert manifest.details["reasons"] == {
        "kept": 2, "dropped caption_with_adult_text": 1, "dropped caption_wrong_language": 3
    }  # fmt: skip


def test_scores_of_the_source_are_judged_and_the_directory_is_finished(make_tar, tmp_path, beam_options, plain_png):
    members = [(f"{number}.png", plain_png(number)) for number in range(4)]
    members += [(f"{number}.txt", b"a grey square") for number in range(4)]
    stated = [b'{"similarity": 0.3}', b'{"similarity": "0.31"}', b'{"similarity": 0.1}', b"{}"]
    members += [(f"{number}.json", content) for number, content in enumerate(stated)]
    config = tar_config(
        make_tar("x.tar", members), tmp_path / "out", rules=Rules(scores={"similarity": ScoreRange(min=0.28)})
    )
    manifest = filter_pairs(config, beam_options())
    assert manifest.details["reasons"] == {"kept": 3, "dropped score_out_of_range": 1}
    assert filter_pairs(config, beam_options()) == manifest


def test_a_rule_about_a_field_that_the_ledger_does_not_keep_is_refused():
    with pytest.raises(ValidationError, match=r"rules should look at fields that the ledger keeps, found \['noai'\]"):
        FilterConfig(output="out", rules=Rules(opt_out=["noai"]))
