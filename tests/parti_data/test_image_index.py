import numpy as np
import pytest

from parti_data.errors import SourceError
from parti_data.held_out import is_held_out
from parti_data.image_dataset import ImageDataset
from parti_data.image_index import ChosenImages, IndexedImages, index_images
from parti_data.images import ImageLimits
from parti_data.ledger import PairDirectory, read_ledger
from parti_data.sources import WebDatasetSource

LIMITS = ImageLimits()


@pytest.fixture
def indexed(tmp_path, synthetic) -> IndexedImages:
    path = str(tmp_path / "images.parquet")
    index_images(path, synthetic, LIMITS, 2)
    return IndexedImages(path, synthetic, LIMITS)


def test_every_image_is_kept_or_dropped_as_filter_would(indexed, filtered):
    mine = {row.source_key: (row.key, row.reason, row.detail, row.location) for row in read_ledger(indexed.path)}
    theirs = {row.source_key: row for row in PairDirectory(filtered).ledger()}
    assert mine.keys() == theirs.keys()
    for name, (key, reason, detail, location) in mine.items():
        row = theirs[name]
        assert (key, location) == (row.key, row.location)
        if reason or row.reason.startswith(("image_un", "image_too_many")):  # others are a rule's
            assert (reason, detail) == (row.reason, row.detail)
    assert indexed.dropped() == {"image_undecodable": 3, "image_unreadable": 3, "image_too_many_pixels": 3}


def test_the_index_is_the_same_bytes_for_any_number_of_threads(tmp_path, indexed, synthetic):
    index_images(str(tmp_path / "other.parquet"), synthetic, LIMITS, 5)
    with open(indexed.path, "rb") as mine, open(tmp_path / "other.parquet", "rb") as other:
        assert mine.read() == other.read()


def test_an_index_that_is_there_is_not_made_again(tmp_path):
    (tmp_path / "images.parquet").write_bytes(b"as it was")
    index_images(str(tmp_path / "images.parquet"), WebDatasetSource(kind="webdataset", path="nowhere"), LIMITS, 1)
    assert (tmp_path / "images.parquet").read_bytes() == b"as it was"


def test_pictures_by_an_index_are_those_by_a_ledger(indexed, filtered):
    by_key = {row.key: number for number, row in enumerate(PairDirectory(filtered).kept())}
    mine, theirs = ImageDataset(indexed, 32, 4), ImageDataset(filtered, 32, 4)
    for number, row in enumerate(indexed.kept()):
        if row.key in by_key:
            assert np.array_equal(mine.pictures([number]), theirs.pictures([by_key[row.key]]))


def test_a_share_is_held_out_and_copies_lie_on_one_side(indexed):
    chosen = [lambda key: is_held_out(key, 0.3), lambda key: not is_held_out(key, 0.3)]
    sides = [{row.key for row in ChosenImages(indexed, one).kept()} for one in chosen]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {row.key for row in indexed.kept()}
    assert 0.1 < len(sides[0]) / len(sides[0] | sides[1]) < 0.5


def test_the_held_out_share_is_that_of_all_keys():
    luck = np.random.default_rng(0)
    keys = [luck.bytes(16).hex() for _ in range(10_000)]
    assert sum(is_held_out(key, 0.1) for key in keys) == pytest.approx(1000, abs=100)
    assert {key for key in keys if is_held_out(key, 0.1)} < {key for key in keys if is_held_out(key, 0.2)}
    assert not any(is_held_out(key, 0.0) for key in keys)


def test_nothing_to_train_on_is_refused_by_name(indexed):
    with pytest.raises(SourceError, match=r"images\.parquet: expected kept pairs, found none"):
        ImageDataset(ChosenImages(indexed, lambda key: False), 32, 4)


def test_of_the_chosen_the_first_are_taken(indexed):
    keys = [row.key for row in indexed.kept()]
    assert [row.key for row in ChosenImages(indexed, lambda key: key != keys[0], 5).kept()] == keys[1:6]


def test_a_file_that_changes_while_it_is_indexed_is_refused(tmp_path, make_tar, plain_png, monkeypatch):
    tar = make_tar("a.tar", [("0.png", plain_png(1)), ("0.txt", b"x")])
    monkeypatch.setattr("parti_data.image_index.file_marker", lambda path: (1, 2))
    with pytest.raises(SourceError, match=r"a\.tar: expected the file as it was when the run began, found it changed"):
        index_images(str(tmp_path / "i.parquet"), WebDatasetSource(kind="webdataset", path=tar), LIMITS, 1)
    assert not (tmp_path / "i.parquet").exists()
