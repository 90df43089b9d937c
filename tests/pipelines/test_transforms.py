"""The steps of filter, each as a function and as a transform that names it."""

import io

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image

from parti_data.images import ImageLimits, image_key
from parti_data.ledger import LedgerRow, read_ledger, write_ledger
from parti_data.rules import Rules, caption_hash
from parti_data.sources import SyntheticSource
from parti_data.sources.pairs import Location, RawPair
from parti_data.thumbnails import make_thumbnail
from pipelines.candidates import Packing, pack
from pipelines.fragments import fragment_path
from pipelines.judge_pairs import JudgePairs, Judging, judge_split
from pipelines.measure_pairs import MeasurePairs, Measuring, measure_pair, measure_split
from pipelines.merge_duplicates import Merge
from pipelines.runner import make_pipeline
from pipelines.write_ledgers import WriteLedgers, apply_merges, write_split_ledger

KEY = "ab" * 16


def pair(image: bytes | None, caption: str = "a caption", size: int | None = None, **fields) -> RawPair:
    length = len(image or b"") if size is None else size
    return RawPair("row 1", Location("x.tar", 512, length), image, [caption], fields)


def measuring(source: SyntheticSource, output: object) -> Measuring:
    return Measuring(source, ImageLimits(), (), str(output))


def measure(raw: RawPair, limits: ImageLimits | None = None) -> LedgerRow:
    fields = ("similarity", "url", "noai")
    return measure_pair(raw, "x.tar", Measuring(SyntheticSource(), limits or ImageLimits(), fields, ""))


def kept_row(source_key: str, caption: str) -> LedgerRow:
    return LedgerRow(KEY, "s", source_key, "kept", "", "", "", [caption], 32, 32, 5, "PNG", "", {}, {}, "s", 0, 5)


def test_a_kept_pair_is_measured_in_full(plain_png):
    image = plain_png(3)
    assert measure(pair(image, "  two\n words ")) == LedgerRow(
        key=image_key(image), source="x.tar", source_key="row 1", outcome="kept", reason="", detail="", merged_into="",
        captions=["two words"], width=32, height=32, num_bytes=len(image), format="PNG",
        perceptual_hash="0" + 63 * "c", scores={}, attributes={}, path="x.tar", offset=512, size=len(image),
        thumbnail=make_thumbnail(Image.new("RGB", (32, 32), (3, 3, 3))),
    )  # fmt: skip


def test_a_picture_that_was_read_in_part_is_dropped_though_it_can_be_decoded(plain_png):
    image = plain_png(3)
    row = measure(pair(image, size=len(image) + 7))
    assert (row.outcome, row.reason, row.key) == ("dropped", "image_unreadable", "")
    assert row.detail == f"{len(image)} of {len(image) + 7} bytes"


def test_the_fields_that_are_named_become_scores_and_attributes(plain_png):
    row = measure(pair(plain_png(3), similarity=0.25, url="x" * 9999, noai=True, other=3, status="done"))
    assert (row.scores, row.attributes) == ({"similarity": 0.25, "noai": 1.0}, {"url": "x" * 2048})
    row = measure(pair(plain_png(3), similarity=None, url="half \ud800 a pair", noai=[1]))
    assert (row.scores, row.attributes) == ({}, {"url": "half ? a pair"})


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (pair(None), "image_missing"),
        (pair(b"not an image"), "image_unreadable"),
        (pair(b""), "image_unreadable"),
    ],
)
def test_a_pair_without_a_usable_image_is_dropped_first_for_that(raw, reason):
    row = measure(raw._replace(captions=[" "]))
    assert (row.outcome, row.reason, row.captions, row.width) == ("dropped", reason, [], 0)
    assert (row.perceptual_hash, row.thumbnail) == ("", b"")


def test_an_image_that_was_cut_off_has_no_key(plain_png):
    limits = ImageLimits(max_bytes=10)
    row = measure(pair(plain_png(3)[:11], size=100), limits)
    assert (row.reason, row.key, row.num_bytes) == ("image_too_many_bytes", "", 100)


def test_an_image_that_does_not_decode_is_dropped_after_its_header():
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    image = buffer.getvalue()
    row = measure(pair(image[: len(image) * 3 // 4]))
    assert (row.outcome, row.reason, row.width) == ("dropped", "image_undecodable", 64)


def test_a_split_yields_the_hashes_of_its_captions_where_they_are_counted(synthetic, tmp_path):
    split = synthetic.splits()[1]
    assert list(measure_split(split, measuring(synthetic, tmp_path), False)) == []
    rows = list(read_ledger(fragment_path(str(tmp_path), 1)))
    assert len(rows) == split.count
    found = list(measure_split(split, measuring(synthetic, tmp_path), True))
    assert found == [caption_hash(text) for row in rows if row.outcome == "kept" for text in row.captions]


def test_a_caption_that_a_row_has_twice_counts_once(synthetic, tmp_path):
    write_ledger(fragment_path(str(tmp_path), 0), [kept_row("a", "x")._replace(captions=["Red", "red"])])
    split = synthetic.splits()[0]
    assert list(measure_split(split, measuring(synthetic, tmp_path), True)) == [caption_hash("red")]


def test_a_fragment_that_is_there_is_not_made_again(synthetic, tmp_path):
    mine = [kept_row("mine", "caption")]
    write_ledger(fragment_path(str(tmp_path), 0), mine)
    assert list(measure_split(synthetic.splits()[0], measuring(synthetic, tmp_path), False)) == []
    assert list(read_ledger(fragment_path(str(tmp_path), 0))) == mine


def test_measuring_as_a_transform_gives_what_the_function_gives(synthetic, tmp_path, beam_options, contents):
    splits, one, two = (
        synthetic.splits(),
        measuring(synthetic, tmp_path / "one"),
        measuring(synthetic, tmp_path / "two"),
    )
    expected = [found for split in splits for found in measure_split(split, one, True)]
    with make_pipeline(beam_options()) as pipeline:
        assert_that(pipeline | beam.Create(splits) | MeasurePairs(two, True), equal_to(expected))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_judged_split_yields_what_the_rules_keep_packed_by_bucket(tmp_path):
    rows = [kept_row("a", "a barn"), kept_row("b", "x"), kept_row("c", "a mill")._replace(outcome="dropped")]
    write_ledger(fragment_path(str(tmp_path), 4), rows)
    packing = Packing(num_buckets=3)
    found = list(judge_split(4, Judging(Rules(), str(tmp_path)), packing))
    (record,) = pack([(0, rows[0])], packing)
    assert (record["key"], record["row"], len(record.tobytes())) == (bytes.fromhex(KEY), 0, 20)
    assert found == [(0, (4, record.tobytes())), (1, (4, b""))]  # a key of abab… lies in bucket 0, split 4 at home in 1


def test_judging_as_a_transform_gives_what_the_function_gives(tmp_path, beam_options):
    judging, packing = Judging(Rules(), str(tmp_path)), Packing(num_buckets=2)
    for split in range(2):
        write_ledger(fragment_path(str(tmp_path), split), [kept_row("a", "a barn"), kept_row("b", "a mill")])
    expected = [found for split in range(2) for found in judge_split(split, judging, packing)]
    with make_pipeline(beam_options()) as pipeline:
        assert_that(pipeline | beam.Create(range(2)) | JudgePairs(judging, packing), equal_to(expected))


def test_merges_change_the_rows_that_they_name_and_no_others():
    rows = [kept_row(str(number), f"text {number}") for number in range(3)]
    merges = {0: Merge(0, ["text 0", "text 2"], ""), 2: Merge(2, ["text 2"], KEY)}
    assert list(apply_merges(iter(rows), merges)) == [
        rows[0]._replace(captions=["text 0", "text 2"]),
        rows[1],
        rows[2]._replace(outcome="merged", reason="exact_duplicate", merged_into=KEY),
    ]
    assert list(apply_merges(iter(rows), {})) == rows
    placeholder = {1: Merge(1, ["text 1"], "", "image_placeholder")}
    assert next(iter(list(apply_merges(iter(rows), placeholder))[1:])) == rows[1]._replace(
        outcome="dropped", reason="image_placeholder"
    )


def test_writing_ledgers_as_a_transform_gives_what_the_function_gives(tmp_path, beam_options, contents):
    def judging(place: str) -> Judging:
        return Judging(Rules(min_caption_chars=1), f"{tmp_path}/{place}")

    merges = [(0, Merge(-1, [], "")), (0, Merge(1, ["b"], KEY)), (1, Merge(-1, [], ""))]
    for place in ("one", "two"):
        for split in range(2):
            rows = [kept_row("a", "a"), kept_row("b", "b")]
            write_ledger(fragment_path(f"{tmp_path}/{place}", split), rows)
    expected = [
        write_split_ledger((split, [merge for number, merge in merges if number == split]), judging("one"), 2)
        for split in range(2)
    ]
    assert [file.counts for file in expected] == [{"kept": 1, "merged exact_duplicate": 1}, {"kept": 2}]
    with make_pipeline(beam_options()) as pipeline:
        assert_that(pipeline | beam.Create(merges) | WriteLedgers(judging("two"), 2), equal_to(expected))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_captions_of_a_row_are_bounded_together(plain_png):
    long = [f"{number} ".ljust(8000, "x") for number in range(20)]
    raw = pair(plain_png(3))._replace(captions=["", *long])
    assert measure(raw).captions == long[:8]
    assert measure(raw._replace(captions=[f"caption {number}" for number in range(300)])).captions[-1] == "caption 255"
