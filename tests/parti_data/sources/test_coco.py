import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from parti_data.errors import SourceError
from parti_data.ledger import PairDirectory
from parti_data.sources import CocoSource
from parti_data.sources.pairs import Location, RawPair
from parti_data.storage import publish_bytes
from pipelines.filter import FilterConfig, filter_pairs

CONTENT = {
    "info": {"year": 2017},
    "licenses": [{"id": 4, "name": "Attribution License", "url": "http://x"}],
    "images": [
        {"id": 9, "file_name": "b.png", "license": 4, "height": 5, "coco_url": "http://y"},
        {"id": 2, "file_name": "a.png", "license": 5},
        {"id": 3, "file_name": "none.png"},
    ],
    "annotations": [
        {"image_id": 2, "id": 1, "caption": "a one"},
        {"image_id": 9, "id": 2, "caption": "b one"},
        {"image_id": 2, "id": 3, "caption": "a two"},
        {"image_id": 77, "id": 4, "caption": "of no image"},
    ],
}


def source(root: object, name: str = "captions.json") -> CocoSource:
    return CocoSource(kind="coco", path=f"{root}/{name}", root=f"{root}/images")


def read(root: object, name: str = "captions.json", max_image_bytes: int = 1 << 20) -> list[RawPair]:
    pairs = source(root, name)
    return [pair for split in pairs.splits() for pair in pairs.read(split, max_image_bytes)]


@pytest.fixture
def write(tmp_path) -> Callable[[Any], str]:
    """Write the JSON beside the images a.png and b.png; return the folder."""
    for name in ("a.png", "b.png"):
        publish_bytes(f"{tmp_path}/images/{name}", f"image {name}".encode())

    def write(content: Any) -> str:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / "captions.json").write_bytes(text)
        return str(tmp_path)

    return write


def test_images_come_with_all_their_captions(write):
    root = write(CONTENT)
    assert read(root) == [
        RawPair("9", Location(f"{root}/images/b.png", 0, 11), b"image b.png", ["b one"],
                {"id": 9, "file_name": "b.png", "license": "Attribution License", "height": 5, "coco_url": "http://y"}),
        RawPair("2", Location(f"{root}/images/a.png", 0, 11), b"image a.png", ["a one", "a two"],
                {"id": 2, "file_name": "a.png", "license": 5}),
        RawPair("3", Location(f"{root}/captions.json", 0, 0), None, [], {"id": 3, "file_name": "none.png"}),
    ]  # fmt: skip
    assert [source(root).fetch(pair.location) for pair in read(root)[:2]] == [b"image b.png", b"image a.png"]


def test_the_lists_may_come_in_any_order_and_behind_a_byte_order_mark(write):
    before = read(write(CONTENT))
    turned = dict(reversed(list(CONTENT.items())))
    assert read(write(b"\xef\xbb\xbf" + json.dumps(turned, indent=1).encode())) == before


def test_names_are_no_paths_to_trust(write, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "images/link.png").symlink_to("../secret")
    names = ["../secret", "/etc/passwd", "http://x/y.png", "link.png", "a\0.png", "", None, 3, ["a.png"], {"a": 1}]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    pairs = read(write(CONTENT | {"images": images}))
    assert [pair.image for pair in pairs] == [None] * len(names)


def test_entries_of_any_shape_are_rows_or_nothing_and_never_an_exception(write):
    content = {
        "licenses": [None, {"id": [1]}, {"name": "x"}],
        "images": [None, 3, [], {}, {"id": [], "file_name": "a.png", "license": {}}, {"id": "k", "file_name": "b.png"},
                   {"id": 1.5}],
        "annotations": [None, 7, {}, {"image_id": {}, "caption": "x"}, {"image_id": "k", "caption": ["y"]},
                        {"image_id": "k", "caption": 3}, {"image_id": "k", "caption": "half \ud800"}],
    }  # fmt: skip
    pairs = read(write(content))
    assert [pair.source_key for pair in pairs] == ["row 0", "row 1", "row 2", "row 3", "row 4", "k", "row 6"]
    assert [pair.image for pair in pairs][4:6] == [b"image a.png", b"image b.png"]
    of_a_list, caption = pairs[5].captions
    assert of_a_list == "y"
    assert caption.startswith("half ")
    assert caption.encode()


def test_an_image_over_the_limit_is_cut_one_byte_behind_it(write):
    pair = read(write(CONTENT), max_image_bytes=3)[0]
    assert (pair.image, pair.location.size) == (b"imag", 11)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a whole JSON file, found .*; download it again"),
        (b'{"annotations": [', "expected a whole JSON file, found .*; download it again"),
        (json.dumps(CONTENT).encode()[:-40], "expected a whole JSON file, found .*; download it again"),
        (b"\xff" * 50, "expected a whole JSON file, found"),
        (b'{"annotations": [{"image_id": ' + b"1" * 5000 + b"}]}", "expected a whole JSON file, found"),
        (b"[" * 100_000, "expected a whole JSON file, found lists in lists, more than 64 deep"),
        (b'{"annotations": [' + b"[" * 80 + b"]" * 80 + b"]}", "expected .*, found lists in lists, more than 64 deep"),
        ({}, "expected annotations with captions, found 0 annotated images without one; use the file of captions"),
        ([], "expected annotations with captions, found 0 annotated images"),
        ({"annotations": [{"image_id": 1, "bbox": [1, 2]}]}, "expected .*, found 1 annotated images without one"),
        (CONTENT | {"images": []}, "expected images, found none; use the file of captions"),
    ],
)
def test_what_is_no_file_of_captions_is_refused(write, content, message):
    with pytest.raises(SourceError, match=f"captions.json: {message}"):
        read(write(content))


def test_each_file_is_a_split(write, tmp_path):
    root = write(CONTENT)
    publish_bytes(f"{root}/val/captions_val.json", json.dumps(CONTENT).encode())
    assert len(source(root, "*.json").splits()) == len(source(root, "val").splits()) == 1
    assert len(source(root, "**/*.json").splits()) == 2
    with pytest.raises(SourceError, match="none.json: expected JSON files of COCO captions, found none; check"):
        source(root, "none.json").splits()
    before = source(root).digest()
    write(CONTENT | {"more": 1})
    assert source(root).digest() != before


@pytest.mark.parametrize("place", ["{tmp_path}", "memory://coco-without-images"])
def test_a_root_that_is_no_folder_is_refused(tmp_path, place):
    place = place.format(tmp_path=tmp_path)
    publish_bytes(f"{place}/captions.json", json.dumps(CONTENT).encode())
    with pytest.raises(SourceError, match=f"^{place}/images: expected the folder of the images, found none; check sou"):
        source(place).splits()


def test_files_behind_a_url_are_read():
    publish_bytes("memory://coco/captions.json", json.dumps(CONTENT).encode())
    publish_bytes("memory://coco/images/a.png", b"abc")
    pairs = read("memory://coco")
    assert [pair.image for pair in pairs] == [None, b"abc", None]
    assert source("memory://coco").fetch(pairs[1].location) == b"abc"


def test_the_json_is_never_held_whole(write, tmp_path):
    images = [{"id": number, "file_name": "a.png", "flickr_url": "x" * 40_000} for number in range(300)]
    annotations = [{"id": number, "image_id": number % 300, "caption": "short"} for number in range(900)]
    root = write({"images": images, "annotations": annotations})
    assert (tmp_path / "captions.json").stat().st_size > 12_000_000
    del images, annotations
    tracemalloc.start()
    count = sum(len(pair.captions) for split in source(root).splits() for pair in source(root).read(split, 10))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 900
    assert peak < 3_000_000


def test_pairs_are_filtered_and_fetched(write, tmp_path, beam_options, plain_png):
    for name, value in (("a.png", 1), ("b.png", 2)):
        publish_bytes(f"{tmp_path}/images/{name}", plain_png(value))
    config = FilterConfig(output=f"{tmp_path}/out", source=source(write(CONTENT)))
    manifest = filter_pairs(config, beam_options())
    assert manifest.details["reasons"] == {"dropped image_missing": 1, "kept": 2}
    pairs = PairDirectory(config.output)
    rows = list(pairs.kept())
    assert [(row.source_key, row.captions) for row in rows] == [("9", ["b one"]), ("2", ["a one", "a two"])]
    assert rows[0].attributes == {"license": "Attribution License"}
    assert [pairs.fetch(row) for row in rows] == [plain_png(2), plain_png(1)]
