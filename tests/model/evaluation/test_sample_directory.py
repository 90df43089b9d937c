import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_directories import make_samples, rank_samples

from model.evaluation.sample_directory import Sample, SampleDirectory
from parti_data.errors import ShardError
from parti_data.images import to_png

PROMPTS = [("a cat", "Animals", "Basic"), ("a dog", "Animals", "Quantity")]


def test_samples_come_with_their_prompts_and_pictures(tmp_path):
    directory = SampleDirectory(make_samples(tmp_path, PROMPTS, copies=2))
    assert directory.samples[1] == Sample("a cat", "Animals", "Basic", 1, "sample-00000-001.png")
    assert [sample.prompt for sample in directory.samples] == ["a cat", "a cat", "a dog", "a dog"]
    assert np.array_equal(directory.pixels(directory.samples[2]), np.full((8, 8, 3), 42))
    assert directory.side_px == 8


def test_a_table_of_before_there_were_challenges_is_read(tmp_path):
    path = make_samples(tmp_path, PROMPTS)
    table = pq.read_table(tmp_path / "samples.parquet").drop_columns(["challenge"])
    pq.write_table(table, tmp_path / "samples.parquet")
    assert [sample.challenge for sample in SampleDirectory(path).samples] == ["", ""]


def test_samples_that_were_not_kept_are_counted_and_have_no_place(tmp_path):
    path = make_samples(tmp_path, PROMPTS, copies=3)
    rank_samples(path, [0.5, 0.25, 0.125] * 2, kept=2)
    directory = SampleDirectory(path)
    assert directory.num_drawn == 6
    assert [(sample.number, sample.rank) for sample in directory.samples] == [(0, 1), (1, 2)] * 2


def test_a_picture_that_the_manifest_does_not_list_is_never_opened(tmp_path):
    (tmp_path / "secret.png").write_bytes(to_png(np.zeros((8, 8, 3), np.uint8)))
    directory = SampleDirectory(make_samples(tmp_path / "samples", PROMPTS))
    for name in ("../secret.png", str(tmp_path / "secret.png"), "<img>"):
        with pytest.raises(ShardError, match="expected pictures that its manifest lists, found '.*'; run sample"):
            directory.pixels(directory.samples[0]._replace(picture=name))


def test_a_picture_that_is_missing_or_changed_is_refused(tmp_path):
    directory = SampleDirectory(make_samples(tmp_path, PROMPTS))
    path = tmp_path / directory.samples[1].picture
    path.write_bytes(to_png(np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(
        ShardError, match="sample-00001-000.png: expected the picture that sample wrote, found other by"
    ):
        directory.pixels(directory.samples[1])
    path.unlink()
    with pytest.raises(
        ShardError, match=r"001-000.png: expected a picture, found none \(No such file or directory\); run"
    ):
        directory.checked_content(directory.samples[1])


@pytest.mark.parametrize("content", [b"no picture", b"", to_png(np.zeros((8, 8, 3), np.uint8))[:40]])
def test_a_picture_that_is_none_is_refused(tmp_path, content):
    directory = SampleDirectory(make_samples(tmp_path, PROMPTS, pictures=[np.zeros((8, 8, 3), np.uint8), content]))
    with pytest.raises(ShardError, match=r"sample-00001-000.png: expected a square picture, found \w+Error: .+; run"):
        directory.pixels(directory.samples[1])


def test_a_picture_that_is_no_square_is_refused(tmp_path):
    path = make_samples(tmp_path, PROMPTS[:1], pictures=[np.zeros((4, 6, 3), np.uint8)])
    with pytest.raises(ShardError, match="expected a square picture, found 6x4 pixels"):
        SampleDirectory(path)


def test_a_picture_of_another_side_is_refused(tmp_path):
    pictures = [np.zeros((side, side, 3), np.uint8) for side in (8, 6)]
    directory = SampleDirectory(make_samples(tmp_path, PROMPTS, pictures=pictures))
    with pytest.raises(ShardError, match=r"sample-00001-000.png: expected 8 px like the first picture, found 6; run"):
        directory.pixels(directory.samples[1])


def test_a_directory_without_samples_or_with_another_table_is_refused(tmp_path):
    with pytest.raises(ShardError, match="expected samples, found none; run sample into a new directory"):
        SampleDirectory(make_samples(tmp_path / "none", []))
    path = make_samples(tmp_path / "other", PROMPTS)
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "other" / "samples.parquet")
    with pytest.raises(ShardError, match="expected a table with prompt, category, sample, picture, found"):
        SampleDirectory(path)
    (tmp_path / "other" / "samples.parquet").unlink()
    with pytest.raises(ShardError, match="expected a table with prompt, category, sample, picture, found"):
        SampleDirectory(path)
