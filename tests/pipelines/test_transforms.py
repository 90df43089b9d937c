"""The steps of filter, each as a function and as a transform that names it."""

import io
import random

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image

from parti_data.images import ImageLimits, image_key
from parti_data.ledger import LedgerRow, read_ledger, write_ledger
from parti_data.rules import Rules
from parti_data.sources.pairs import Location, RawPair
from pipelines.measure_pairs import Candidate, MeasurePairs, fragment_path, measure_pair, measure_split
from pipelines.merge_duplicates import Merge, MergeDuplicates, merge_group
from pipelines.runner import make_pipeline
from pipelines.write_ledgers import WriteLedgers, apply_merges, write_split_ledger

KEY = "ab" * 16


def pair(image: bytes | None, caption: str | None = "a caption", size: int | None = None) -> RawPair:
    length = len(image or b"") if size is None else size
    return RawPair("row 1", Location("x.tar", 512, length), image, caption)


def measure(raw: RawPair, limits: ImageLimits | None = None) -> LedgerRow:
    return measure_pair(raw, "x.tar", Rules(), limits or ImageLimits())


def kept_row(source_key: str, caption: str) -> LedgerRow:
    return LedgerRow(KEY, "s", source_key, "kept", "", "", "", [caption], 32, 32, 5, "PNG", "s", 0, 5)


def test_a_kept_pair_is_measured_in_full(plain_png):
    image = plain_png(3)
    assert measure(pair(image, "  two\n words ")) == LedgerRow(
        key=image_key(image), source="x.tar", source_key="row 1", outcome="kept", reason="", detail="", merged_into="",
        captions=["two words"], width=32, height=32, num_bytes=len(image), format="PNG", path="x.tar", offset=512,
        size=len(image),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (pair(None), "image_missing"),
        (pair(b"not an image"), "image_unreadable"),
        (pair(b""), "image_unreadable"),
    ],
)
def test_a_pair_without_a_usable_image_is_dropped_first_for_that(raw, reason):
    row = measure(raw._replace(caption=None))
    assert (row.outcome, row.reason, row.captions, row.width) == ("dropped", reason, [], 0)


def test_a_dropped_pair_keeps_its_measures(plain_png):
    row = measure(pair(plain_png(3), "jpeg"))
    assert (row.outcome, row.reason, row.detail) == ("dropped", "caption_boilerplate", "jpeg")
    assert (row.width, row.height, row.format, row.key) == (32, 32, "PNG", image_key(plain_png(3)))


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


def test_a_split_yields_its_marker_and_what_its_fragment_keeps(synthetic, tmp_path):
    split = synthetic.splits()[1]
    found = list(measure_split(split, synthetic, Rules(), ImageLimits(), str(tmp_path)))
    rows = list(read_ledger(fragment_path(str(tmp_path), 1)))
    assert len(rows) == split.count
    assert found[0] == ("split 1", Candidate(1, -1, []))
    kept = [(row.key, Candidate(1, n, row.captions)) for n, row in enumerate(rows) if row.outcome == "kept"]
    assert found[1:] == kept


def test_a_fragment_that_is_there_is_not_made_again(synthetic, tmp_path):
    split = synthetic.splits()[0]
    arguments = (split, synthetic, Rules(), ImageLimits(), str(tmp_path))
    write_ledger(fragment_path(str(tmp_path), 0), [kept_row("mine", "caption")])
    assert list(measure_split(*arguments)) == [("split 0", Candidate(0, -1, [])), (KEY, Candidate(0, 0, ["caption"]))]


def test_measuring_as_a_transform_gives_what_the_function_gives(synthetic, tmp_path, beam_options):
    splits = synthetic.splits()
    expected = [c for s in splits for c in measure_split(s, synthetic, Rules(), ImageLimits(), f"{tmp_path}/one")]
    with make_pipeline(beam_options()) as pipeline:
        found = pipeline | beam.Create(splits) | MeasurePairs(synthetic, Rules(), ImageLimits(), f"{tmp_path}/two")
        assert_that(found, equal_to(expected))


def test_a_row_alone_is_left_alone():
    assert list(merge_group(KEY, [Candidate(3, 5, ["text"])])) == []


def test_a_marker_goes_to_its_split():
    assert list(merge_group("split 3", [Candidate(3, -1, [])])) == [(3, Merge(-1, [], ""))]


def test_the_first_row_survives_and_takes_all_captions_once():
    candidates = [Candidate(1, 0, ["b"]), Candidate(0, 9, ["c"]), Candidate(0, 2, ["a", "b"]), Candidate(1, 1, ["c"])]
    expected = [
        (0, Merge(2, ["a", "b", "c"], "")),
        (0, Merge(9, ["c"], KEY)),
        (1, Merge(0, ["b"], KEY)),
        (1, Merge(1, ["c"], KEY)),
    ]
    for seed in range(10):
        random.Random(seed).shuffle(candidates)
        assert list(merge_group(KEY, [tuple(candidate) for candidate in candidates])) == expected


def test_merging_as_a_transform_gives_what_the_function_gives(beam_options):
    candidates = [(KEY, Candidate(0, 1, ["b"])), ("other", Candidate(0, 2, ["c"])), (KEY, Candidate(0, 0, ["a"]))]
    with make_pipeline(beam_options()) as pipeline:
        found = pipeline | beam.Create(candidates) | MergeDuplicates()
        assert_that(found, equal_to([(0, Merge(0, ["a", "b"], "")), (0, Merge(1, ["b"], KEY))]))


def test_merges_change_the_rows_that_they_name_and_no_others():
    rows = [kept_row(str(number), f"text {number}") for number in range(3)]
    merges = {0: Merge(0, ["text 0", "text 2"], ""), 2: Merge(2, ["text 2"], KEY)}
    assert list(apply_merges(iter(rows), merges)) == [
        rows[0]._replace(captions=["text 0", "text 2"]),
        rows[1],
        rows[2]._replace(outcome="merged", reason="exact_duplicate", merged_into=KEY),
    ]
    assert list(apply_merges(iter(rows), {})) == rows


def test_writing_ledgers_as_a_transform_gives_what_the_function_gives(tmp_path, beam_options, contents):
    merges = [(0, Merge(-1, [], "")), (0, Merge(1, ["b"], KEY)), (1, Merge(-1, [], ""))]
    for place in ("one", "two"):
        for split in range(2):
            rows = [kept_row("a", "a"), kept_row("b", "b")]
            write_ledger(fragment_path(f"{tmp_path}/{place}", split), rows)
    expected = [
        write_split_ledger((split, [merge for number, merge in merges if number == split]), f"{tmp_path}/one", 2)
        for split in range(2)
    ]
    assert [file.counts for file in expected] == [{"kept": 1, "merged exact_duplicate": 1}, {"kept": 2}]
    with make_pipeline(beam_options()) as pipeline:
        assert_that(pipeline | beam.Create(merges) | WriteLedgers(f"{tmp_path}/two", 2), equal_to(expected))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
