import shutil

import pytest

from parti_data.images import ImageLimits, decode
from parti_data.ledger import PairDirectory
from parti_data.sources import WebDatasetSource
from pipelines.duplicates import Duplicates
from pipelines.filter import FilterConfig, filter_pairs


@pytest.fixture(scope="module")
def emoji(shared, tmp_path_factory, beam_options) -> str:
    output = str(tmp_path_factory.mktemp("emoji") / "pairs")
    source = WebDatasetSource(kind="webdataset", path=str(shared / "data/noto-emoji"))
    filter_pairs(FilterConfig(output=output, source=source), beam_options())
    return output


def test_all_emoji_are_in_the_ledger(emoji):
    pairs = PairDirectory(emoji)
    assert pairs.manifest.counts == {"read": 3414, "kept": 3404, "merged": 10, "dropped": 0}
    assert sum(1 for _ in pairs.ledger()) == 3414
    assert len({row.source_key for row in pairs.ledger()}) == 3414


def test_few_variants_are_merged_where_what_looks_alike_is(emoji, tmp_path, beam_options):
    """Of 3,404 different emoji none is a copy of another; those that are merged differ in a face of two pixels."""
    output = str(shutil.copytree(emoji, tmp_path / "pairs"))
    source = PairDirectory(emoji).manifest.config["source"]
    config = FilterConfig(output=output, source=WebDatasetSource(**source), duplicates=Duplicates(near=True))
    manifest = filter_pairs(config, beam_options(), rejudge=True)
    assert manifest.counts["merged"] - 10 < 0.015 * 3404
    near = [row.captions[0] for row in PairDirectory(output).ledger() if row.reason == "near_duplicate"]
    assert not any("o’clock" in caption or "thirty" in caption or "flag" in caption for caption in near)


def test_the_transparent_ground_of_an_emoji_is_white(emoji):
    pairs = PairDirectory(emoji)
    for row in pairs.kept(0, 20):
        pixels = decode(pairs.fetch(row), ImageLimits())
        assert pixels.shape == (row.height, row.width, 3) == (128, 128, 3)
        assert pixels[0, 0].tolist() == [255, 255, 255]


def test_an_emoji_has_its_name(emoji):
    captions = {caption for row in PairDirectory(emoji).kept() for caption in row.captions}
    assert "woman in motorized wheelchair: medium-light skin tone" in captions
    assert len(captions) == 3414
