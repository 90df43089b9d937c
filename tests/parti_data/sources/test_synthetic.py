from collections import Counter

import numpy as np
import pytest

from parti_data.errors import SourceError
from parti_data.images import Drop, ImageLimits, decode
from parti_data.scenes import draw_scene, is_held_out_prompt, make_scene, parse_caption
from parti_data.sources import SyntheticSource
from parti_data.sources.synthetic import SPOILS
from parti_data.storage import digest_json


def read(source: SyntheticSource) -> list:
    return [pair for split in source.splits() for pair in source.read(split, 1 << 30)]


def test_the_first_rows_never_change():
    first, second, _ = read(SyntheticSource(num_pairs=3, side_px=32))
    assert first.source_key == "00000000"
    assert first.captions == ["a large blue triangle on a white background"]
    np.testing.assert_array_equal(decode(first.image, ImageLimits()), draw_scene(make_scene(0, 0), 32))
    np.testing.assert_array_equal(decode(second.image, ImageLimits()), draw_scene(make_scene(0, 1), 32))


def test_splits_hold_every_row_once_for_any_size_of_split():
    whole = read(SyntheticSource(num_pairs=11, side_px=16))
    assert [pair.source_key for pair in whole] == [f"{row:08d}" for row in range(11)]
    for size in (1, 3, 11, 12):
        assert read(SyntheticSource(num_pairs=11, side_px=16, pairs_per_split=size)) == whole


def test_a_row_depends_on_the_seed_and_its_number_alone():
    assert read(SyntheticSource(num_pairs=5, side_px=16)) == read(SyntheticSource(num_pairs=9, side_px=16))[:5]
    assert read(SyntheticSource(num_pairs=5, side_px=16, seed=1)) != read(SyntheticSource(num_pairs=5, side_px=16))


def test_fetching_a_location_gives_the_bytes_again(synthetic):
    for pair in read(synthetic):
        assert synthetic.fetch(pair.location) == pair.image
        assert pair.location.size == len(pair.image)


def test_every_spoiled_row_is_spoiled_in_its_way(synthetic):
    pairs = read(synthetic)
    clean = read(synthetic.model_copy(update={"spoil_every": 0}))
    spoiled = {row: SPOILS[row // 4 % 8] for row in range(len(pairs)) if row % 4 == 3}
    assert Counter(spoiled.values()) == dict.fromkeys(SPOILS, 3)
    reasons = {
        "truncated": "image_unreadable",
        "not_an_image": "image_unreadable",
        "huge_header": "image_too_many_pixels",
    }
    for row, (pair, whole) in enumerate(zip(pairs, clean, strict=True)):
        kind = spoiled.get(row)
        pixels = decode(pair.image, ImageLimits())
        if kind is None:
            assert pair == whole
        elif kind in reasons:
            assert isinstance(pixels, Drop)
            assert pair.captions == whole.captions
            if kind != "truncated":
                assert pixels.reason == reasons[kind]
        elif kind == "one_pixel":
            assert pixels.shape == (1, 1, 3)
        elif kind == "empty_caption":
            assert (pair.image, pair.captions) == (whole.image, [" "])
        elif kind == "boilerplate_caption":
            assert (pair.image, pair.captions) == (whole.image, [f"image {row + 1} of 90"])
        else:
            assert pair.image == pairs[row - 1].image
            assert (pair.captions == pairs[row - 1].captions) == (kind == "exact_duplicate")


def test_a_split_and_a_number_of_objects_are_kept_to():
    for pair in read(SyntheticSource(num_pairs=8, side_px=16, split="new_prompts", num_objects=1)):
        assert is_held_out_prompt(pair.captions[0])
        assert len(parse_caption(pair.captions[0]).objects) == 1


def test_the_digest_is_that_of_the_config():
    source = SyntheticSource(seed=3)
    assert source.digest() == digest_json(source.model_dump(mode="json")) != SyntheticSource(seed=4).digest()


@pytest.mark.parametrize("wrong", [{"num_pairs": 0}, {"side_px": 7}])
def test_no_rows_and_no_room_are_refused(wrong):
    with pytest.raises(SourceError, match="synthetic: expected num_pairs from 1 and side_px from 8 on, found"):
        SyntheticSource(**wrong).splits()
