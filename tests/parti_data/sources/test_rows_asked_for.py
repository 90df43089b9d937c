"""Every source yields, of a split, the rows asked for and reads no image of another."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parti_data.sources import CocoSource, FolderSource, ParquetSource, SyntheticSource, TableSource, WebDatasetSource
from parti_data.sources import webdataset as tars
from parti_data.storage import publish_bytes

NUM_ROWS = 9
IMAGES = [f"image {row}".encode() for row in range(NUM_ROWS)]


@pytest.fixture(params=["coco", "folder", "parquet", "synthetic", "table", "webdataset"])
def source(request, tmp_path, make_tar):
    """The same pairs in each kind of source."""
    path = f"{tmp_path}/data"
    for row, image in enumerate(IMAGES):
        publish_bytes(f"{path}/{row}.png", image)
        publish_bytes(f"{path}/{row}.txt", b"%d" % row)
    named = [{"id": row, "file_name": f"{row}.png", "text": str(row)} for row in range(NUM_ROWS)]
    said = [{"image_id": row, "caption": str(row)} for row in range(NUM_ROWS)]
    publish_bytes(f"{path}/a.json", json.dumps({"images": named, "annotations": said}).encode())
    publish_bytes(f"{path}/a.jsonl", "\n".join(map(json.dumps, named)).encode())
    texts = [str(row) for row in range(NUM_ROWS)]
    pq.write_table(pa.table({"image": IMAGES, "text": texts}), f"{path}/a.parquet", row_group_size=4)
    members = [(f"{row}.{kind}", b"%d" % row if kind == "txt" else IMAGES[row]) for row in range(NUM_ROWS)
               for kind in ("txt", "png")]  # fmt: skip
    make_tar("data/a.tar", members)
    return {
        "coco": lambda: CocoSource(kind="coco", path=f"{path}/a.json", root=path),
        "folder": lambda: FolderSource(kind="folder", path=path),
        "parquet": lambda: ParquetSource(kind="parquet", path=f"{path}/a.parquet"),
        "synthetic": lambda: SyntheticSource(num_pairs=NUM_ROWS, side_px=16),
        "table": lambda: TableSource(kind="table", path=f"{path}/a.jsonl"),
        "webdataset": lambda: WebDatasetSource(kind="webdataset", path=f"{path}/a.tar"),
    }[request.param]()


@pytest.mark.parametrize("rows", [set(), {0}, {3, 4}, {1, 5, NUM_ROWS - 1}, {NUM_ROWS}, set(range(NUM_ROWS))])
def test_the_rows_asked_for_are_those_of_these_numbers(source, rows):
    split = source.splits()[0]
    everything = list(source.read(split, 100))
    assert len(everything) == NUM_ROWS
    assert list(source.read(split, 100, rows)) == [everything[row] for row in sorted(rows) if row < NUM_ROWS]


@pytest.mark.parametrize("source", ["webdataset"], indirect=True)
def test_of_a_tar_only_members_of_the_rows_asked_for_are_read(source, monkeypatch):
    read_range, found = tars._read_range, []
    monkeypatch.setattr(tars, "_read_range", lambda *place: found.append(read_range(*place)) or found[-1])
    list(source.read(source.splits()[0], 100, {2, 7}))
    assert [content for content in found if content.strip(b"\0")] == [b"image 2", b"2", b"image 7", b"7"]
