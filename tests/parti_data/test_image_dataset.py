import tracemalloc

import numpy as np
import pytest

from parti_data import image_dataset
from parti_data.errors import ConfigError, SourceError
from parti_data.image_dataset import ImageDataset, ImagePlaces, Reading, load_pictures
from parti_data.images import Drop
from parti_data.ledger import PairDirectory
from parti_data.scenes import draw_scene, make_scene


def test_pictures_are_those_that_were_drawn(filtered):
    dataset = ImageDataset(filtered, 32, 8)
    rows = list(PairDirectory(filtered).kept())
    pictures = dataset.pictures(range(len(dataset)))
    assert (pictures.shape, pictures.dtype) == ((len(rows), 32, 32, 3), np.uint8)
    for row, picture in zip(rows, pictures, strict=True):
        np.testing.assert_array_equal(picture, draw_scene(make_scene(0, row.offset), 32))


@pytest.mark.parametrize("image_side", [16, 32])
def test_batches_are_equal_with_and_without_the_cache(filtered, image_side):
    cached = ImageDataset(filtered, image_side, 16, seed=1)
    uncached = ImageDataset(filtered, image_side, 16, seed=1, cache_bytes=0)
    for step in (0, 1, 5, 6, 0):
        np.testing.assert_array_equal(cached.batch(step), uncached.batch(step))


def test_a_place_is_held_in_forty_bytes(filtered):
    rows = list(PairDirectory(filtered).kept())
    many = [row._replace(offset=row.offset + turn * 2**40) for turn in range(500) for row in rows]
    tracemalloc.start()
    places = ImagePlaces(iter(many))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 48 * len(many)
    assert len(places) == len(many)
    for number in (0, 1, len(many) - 1):
        assert places[number].location == many[number].location
        assert places[number].key == many[number].key


def test_a_picture_is_decoded_once_where_the_cache_holds_all(filtered, monkeypatch):
    fetched = []
    fetch = PairDirectory.fetch
    monkeypatch.setattr(PairDirectory, "fetch", lambda self, row: fetched.append(row.key) or fetch(self, row))
    dataset = ImageDataset(filtered, 32, 16)
    for step in range(20):
        dataset.batch(step)
    assert len(fetched) == len(set(fetched)) == len(dataset)


def test_every_picture_comes_once_an_epoch(filtered):
    dataset = ImageDataset(filtered, 32, 7)
    numbers = dataset._order(0, 2 * len(dataset))
    for epoch in (numbers[: len(dataset)], numbers[len(dataset) :]):
        assert sorted(epoch) == list(range(len(dataset)))
    parts = [dataset._order(step * 7, 7) for step in range(2 * len(dataset) // 7)]
    np.testing.assert_array_equal(np.concatenate(parts), numbers[: len(parts) * 7])


def test_an_epoch_is_shuffled_once(filtered, monkeypatch):
    dataset, made = ImageDataset(filtered, 32, 7), []
    make = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: made.append(seed) or make(seed))
    for step in range(2 * len(dataset) // 7):
        dataset.batch(step)
    assert made == [[0, 0], [0, 1]]


def test_other_seeds_give_other_orders(filtered):
    a, b = (ImageDataset(filtered, 32, 16, seed=seed).batch(0) for seed in (0, 1))
    assert not np.array_equal(a, b)


def test_no_kept_pairs_are_refused(tmp_path, beam_options):
    from parti_data.rules import Rules
    from parti_data.sources import SyntheticSource
    from pipelines.filter import FilterConfig, filter_pairs

    source, rules = SyntheticSource(num_pairs=2, side_px=16), Rules(min_side_px=99)
    config = FilterConfig(output=f"{tmp_path}/none", source=source, rules=rules, max_dropped_fraction=1.0)
    filter_pairs(config, beam_options())
    with pytest.raises(SourceError, match="none: expected kept pairs, found none; see its ledger for the reasons"):
        ImageDataset(f"{tmp_path}/none", 32, 4)


def test_an_image_that_no_longer_decodes_is_refused(filtered, monkeypatch):
    pairs = PairDirectory(filtered)
    row = next(pairs.kept())
    monkeypatch.setattr(image_dataset, "decode", lambda *_: Drop("image_undecodable", "OSError: another Pillow"))
    with pytest.raises(
        SourceError, match=f"expected image {row.key} as filter read it, found OSError: another Pillow; use"
    ):
        next(load_pictures(pairs, [row], 32))


@pytest.mark.parametrize("cut", [None, lambda pixels, side, luck: luck.permuted(pixels[:side, :side])])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_together_have_the_batch_and_its_keys(filtered, cut, world_size):
    whole = ImageDataset(filtered, 32, 8, reading=Reading(cut=cut))
    ranks = [
        ImageDataset(filtered, 32, 8, reading=Reading(rank, world_size, cut, num_threads=2))
        for rank in range(world_size)
    ]
    for step in (0, 1, 20):
        parts = [dataset.batch(step) for dataset in ranks]
        np.testing.assert_array_equal(np.concatenate(parts), whole.batch(step))
        assert [key for dataset in ranks for key in dataset.keys(step)] == whole.keys(step)


def test_a_batch_that_ranks_cannot_share_is_refused(filtered):
    with pytest.raises(ConfigError, match="batch_size: expected a multiple of the 3 ranks, found 8"):
        ImageDataset(filtered, 32, 8, reading=Reading(0, 3))


def test_a_random_square_is_another_in_each_epoch(filtered):
    cut = lambda pixels, side, luck: np.full((side, side, 3), luck.integers(256), np.uint8)  # noqa: E731
    dataset = ImageDataset(filtered, 16, len(ImageDataset(filtered, 16, 1)), seed=3, reading=Reading(cut=cut))
    assert not np.array_equal(dataset.batch(0), dataset.batch(1))
    np.testing.assert_array_equal(dataset.batch(0), dataset.batch(0))
    assert [dataset.epoch(step) for step in (0, 1, 2)] == [0, 1, 2]
