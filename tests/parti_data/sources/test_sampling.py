import gzip
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from parti_data.errors import SourceError
from parti_data.sources import (
    CocoSource,
    FolderSource,
    ParquetSource,
    SyntheticSource,
    TableSource,
    WebDatasetSource,
    sampling,
)
from parti_data.sources.pairs import SourceSplit
from parti_data.sources.sampling import count_pairs, sample_split, spread_splits

LIMIT = 1 << 20


def numbered(count: int) -> list[SourceSplit]:
    return [SourceSplit(number, f"{number}", 0, 0) for number in range(count)]


@pytest.mark.parametrize(
    ("total", "most", "first"),
    [(1, 20, [0]), (3, 20, [0, 1, 2]), (5, 3, [0, 2, 4]), (101, 5, [0, 25, 50, 75, 100])],
)
def test_some_splits_from_the_first_to_the_last_come_before_the_others(total, most, first):
    order = [split.number for split in spread_splits(numbered(total), most)]
    assert order[: len(first)] == first
    assert sorted(order) == list(range(total))


def members(number: int, size: int = 3000) -> list[tuple[str, bytes]]:
    return [(f"{number:04d}.png", bytes([number % 256]) * size), (f"{number:04d}.txt", f"caption {number}".encode())]


def tar_bytes(all_members: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in all_members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def sample_tar(path, count: int):
    source = WebDatasetSource(kind="webdataset", path=str(path))
    (split,) = source.splits()
    sample = sample_split(source, split, count, LIMIT)
    assert sample.pairs == list(source.read(split, LIMIT))[: len(sample.pairs)]
    return sample


PACKED = {".tar": bytes, ".tar.gz": gzip.compress, ".tar.zst": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("ending", PACKED)
def test_the_first_pairs_of_a_tar_are_those_that_reading_yields(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKED[ending](tar_bytes([member for n in range(40) for member in members(n)])))
    sample = sample_tar(path, 8)
    assert [pair.source_key for pair in sample.pairs] == [f"{n:04d}" for n in range(8)]
    assert 36 <= sample.num_pairs <= 42
    assert not sample.is_exact


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("count", [5, 6, 200])
def test_a_tar_that_is_sampled_to_its_end_is_counted(tmp_path, ending, count):
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKED[ending](tar_bytes([member for n in range(5) for member in members(n)])))
    sample = sample_tar(path, count)
    assert (len(sample.pairs), sample.num_pairs, sample.is_exact) == (5, 5, True)


def test_no_more_of_a_large_tar_is_read_than_the_first_pairs_lie_in(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([member for n in range(400) for member in members(n)]))
    furthest = 0
    open_file = sampling.open_file

    def watched(name: str):
        file = open_file(name)
        read = file.read

        def read_and_note(size: int = -1) -> bytes:
            nonlocal furthest
            content = read(size)
            furthest = max(furthest, file.tell())
            return content

        file.read = read_and_note
        return file

    monkeypatch.setattr(sampling, "open_file", watched)
    source = WebDatasetSource(kind="webdataset", path=str(path))
    assert len(sample_split(source, source.splits()[0], 4, LIMIT).pairs) == 4
    assert 4 * 4000 < furthest < 6 * 5000


def test_a_large_compressed_tar_is_unpacked_as_far_as_it_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "_LEAST_UNPACKED_BYTES", 10_000)
    lengths = []
    unpack_first = sampling.unpack_first
    monkeypatch.setattr(
        sampling, "unpack_first", lambda path, length: (lengths.append(length), unpack_first(path, length))[1]
    )
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tar_bytes([member for n in range(400) for member in members(n)])))
    assert len(sample_tar(path, 8).pairs) == 8
    assert lengths == [10_000, 40_000]


def test_a_tar_with_all_images_before_all_captions_is_read_as_a_whole(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([members(n)[0] for n in range(20)] + [members(n)[1] for n in range(20)]))
    sample = sample_tar(path, 4)
    assert [pair.captions for pair in sample.pairs] == [[f"caption {n}"] for n in range(4)]


@pytest.mark.parametrize(("content", "message"), [
    (tar_bytes([]), "expected pairs, found none at its beginning; check source.path"),
    (b"x" * 2000, "expected a whole tar, found .* after 0 pairs; download it again"),
])  # fmt: skip
def test_a_tar_without_pairs_is_refused(tmp_path, content, message):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError, match=rf"/a.tar: {message}"):
        sample_tar(tmp_path / "a.tar", 4)


def test_a_first_picture_that_is_larger_than_what_is_unpacked_first_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "_LEAST_UNPACKED_BYTES", 4096)
    (tmp_path / "a.tar.gz").write_bytes(
        gzip.compress(tar_bytes([member for n in range(3) for member in members(n, 9000)]))
    )
    assert len(sample_tar(tmp_path / "a.tar.gz", 2).pairs) == 2


def test_a_broken_compressed_tar_is_refused(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x" * 2000)
    with pytest.raises(SourceError, match=r"/a.tar.gz: expected a whole compressed tar, found .*; download it again"):
        sample_tar(tmp_path / "a.tar.gz", 4)


def test_the_rows_of_parquet_are_counted_by_their_footers(tmp_path):
    for number, rows in enumerate((30, 12)):
        table = pa.table({"image": [b"x"] * rows, "text": [f"caption {n}" for n in range(rows)]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    source = ParquetSource(kind="parquet", path=str(tmp_path))
    splits = source.splits()
    sample = sample_split(source, splits[0], 7, LIMIT)
    assert (len(sample.pairs), sample.num_pairs, sample.is_exact) == (7, 30, True)
    assert count_pairs(source, splits) == 42


def test_the_rows_of_a_table_are_counted_where_it_is_small(tmp_path):
    lines = [json.dumps({"file_name": f"{n}.png", "text": f"caption {n}"}) for n in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    source = TableSource(kind="table", path=str(tmp_path))
    sample = sample_split(source, source.splits()[0], 7, LIMIT)
    assert (len(sample.pairs), sample.num_pairs, sample.is_exact) == (7, 50, True)
    assert count_pairs(source, source.splits()) is None


def test_the_rows_of_a_large_table_are_told_by_its_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "_TABLE_BYTES", 400)
    lines = [json.dumps({"file_name": f"{n:04d}.png", "text": "a caption"}) for n in range(500)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    source = TableSource(kind="table", path=str(tmp_path))
    sample = sample_split(source, source.splits()[0], 7, LIMIT)
    assert 450 <= sample.num_pairs <= 550
    assert not sample.is_exact


def test_coco_says_how_many_images_it_has(tmp_path):
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(9)],
        "annotations": [{"image_id": n, "caption": f"caption {n}"} for n in range(9)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    source = CocoSource(kind="coco", path=str(tmp_path / "captions.json"), root=str(tmp_path))
    sample = sample_split(source, source.splits()[0], 4, LIMIT)
    assert [pair.captions for pair in sample.pairs] == [[f"caption {n}"] for n in range(4)]
    assert (sample.num_pairs, sample.is_exact) == (9, True)


def test_scenes_are_counted_and_only_some_are_drawn():
    source = SyntheticSource(num_pairs=50, side_px=16, pairs_per_split=20)
    sample = sample_split(source, source.splits()[-1], 7, LIMIT)
    assert [pair.location.offset for pair in sample.pairs] == list(range(40, 47))
    assert (sample.num_pairs, sample.is_exact) == (10, True)
    assert count_pairs(source, source.splits()) == 50


def test_a_sample_of_huge_images_is_cut_short(monkeypatch):
    monkeypatch.setattr(sampling, "MAX_SAMPLE_BYTES", 1000)
    source = SyntheticSource(num_pairs=50, side_px=64)
    sample = sample_split(source, source.splits()[0], 40, LIMIT)
    assert 1 <= len(sample.pairs) < 10


def test_a_folder_is_counted_by_listing_it(tmp_path, plain_png):
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(plain_png(number))
        (tmp_path / f"{number}.txt").write_text(f"caption {number}")
    source = FolderSource(kind="folder", path=str(tmp_path), pairs_per_split=5)
    splits = source.splits()
    sample = sample_split(source, splits[0], 3, LIMIT)
    assert [pair.captions for pair in sample.pairs] == [[f"caption {number}"] for number in range(3)]
    assert (sample.num_pairs, sample.is_exact) == (5, True)
    assert count_pairs(source, splits) == 9
