import json
import os
import shutil
from pathlib import Path

import pytest

from parti_data.errors import ShardError, SourceError
from parti_data.ledger import PairDirectory
from parti_data.sources import FolderSource, folder, image_folder
from parti_data.sources.folder import ImagesSource
from parti_data.sources.pairs import Location, RawPair
from parti_data.storage import publish_bytes, read_range
from pipelines.filter import FilterConfig, filter_pairs


def source(path: object, **options) -> FolderSource:
    return FolderSource(kind="folder", path=str(path), **options)


def read(path: object, **options) -> list[RawPair]:
    pairs = source(path, **options)
    return [pair for split in pairs.splits() for pair in pairs.read(split, 1 << 20)]


def write(root: object, files: dict[str, str]) -> None:
    for name, content in files.items():
        publish_bytes(f"{root}/{name}", content.encode())


FILES = {
    "00000/000000000.jpg": "image 0", "00000/000000000.txt": "zero", "00000/000000000.json": '{"similarity": 0.3}',
    "00000/000000001.png": "image 1", "00000/000000001.json": '{"caption": "one", "url": "http://x/1"}',
    "00001/000010000.JPG": "image 2", "00001/000010000.json": '{"captions": ["two", "2"], "caption": "no"}',
    "00001/deep/a.b.webp": "image 3", "00001/deep/a.b.TXT": "three",
    "00000_stats.json": "{}", "00000.parquet": "PAR1", "~top.gif": "image 4", "~top.txt": "four",
}  # fmt: skip
"""As img2dataset lays its `files` format out, and a few more."""


@pytest.mark.parametrize("protocol", ["", "memory://folder-"])
def test_every_image_is_a_row_with_what_lies_beside_it(tmp_path, protocol):
    root = f"{protocol}{tmp_path}" if protocol else str(tmp_path)
    write(root, FILES)
    pairs = read(root)
    assert [(pair.source_key, pair.image, pair.captions, pair.fields) for pair in pairs] == [
        ("~top.gif", b"image 4", ["four"], {}),
        ("00000/000000000.jpg", b"image 0", ["zero"], {"similarity": 0.3}),
        ("00000/000000001.png", b"image 1", ["one"], {"caption": "one", "url": "http://x/1"}),
        ("00001/000010000.JPG", b"image 2", ["two", "2"], {"caption": "no"}),
        ("00001/deep/a.b.webp", b"image 3", ["three"], {}),
    ]
    assert [source(root).fetch(pair.location) for pair in pairs] == [pair.image for pair in pairs]


def test_two_colons_in_a_name_lead_nowhere_else(tmp_path):
    write(tmp_path, {"A::B/2.jpg": "2", "A::B/2.txt": "two", "std::vector.jpg": "v", "std::vector.txt": "a list"})
    assert [(pair.source_key, pair.image, pair.captions) for pair in read(tmp_path)] == [
        ("std::vector.jpg", b"v", ["a list"]), ("A::B/2.jpg", b"2", ["two"])
    ]  # fmt: skip


def test_what_lies_there_without_an_image_or_a_caption_has_its_row(tmp_path):
    write(tmp_path, {"a.txt": "alone", "b.jpg": "image", "c.json": '{"caption": "no row"}', "d.png": "1", "d.jpg": "2"})
    write(tmp_path, {"d.txt": "both", ".hidden.jpg": "no", ".git/e.jpg": "no", "README.md": "no"})
    assert [(pair.source_key, pair.image, pair.captions) for pair in read(tmp_path)] == [
        ("a.txt", None, ["alone"]), ("b.jpg", b"image", []), ("d.jpg", b"2", ["both"]), ("d.png", b"1", ["both"]),
    ]  # fmt: skip


def test_large_folders_are_split_by_listing_alone(tmp_path, monkeypatch):
    write(tmp_path, {f"{part}/{row}.{kind}": f"{row}" for part in "ab" for row in range(5) for kind in ("jpg", "txt")})
    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "read_range", None)
        splits = source(tmp_path, pairs_per_split=2).splits()
    assert [(split.number, Path(split.path).name, split.first, split.count) for split in splits] == [
        (0, "a", 0, 2), (1, "a", 2, 2), (2, "a", 4, 1), (3, "b", 0, 2), (4, "b", 2, 2), (5, "b", 4, 1),
    ]  # fmt: skip
    assert [pair.source_key for pair in read(tmp_path, pairs_per_split=2)] == [
        f"{part}/{row}.jpg" for part in "ab" for row in range(5)
    ]


def test_only_the_rows_asked_for_are_opened(tmp_path, monkeypatch):
    write(tmp_path, {f"{row}.{kind}": f"{row}" for row in range(4) for kind in ("jpg", "txt")})
    opened = []
    monkeypatch.setattr(
        image_folder, "read_range", lambda path, *part: opened.append(Path(path).name) or read_range(path, *part)
    )
    pairs = source(tmp_path)
    found = list(pairs.read(pairs.splits()[0], 100, {1, 3}))
    assert [pair.source_key for pair in found] == ["1.jpg", "3.jpg"]
    assert opened == ["1.jpg", "1.txt", "3.jpg", "3.txt"]


def test_links_lead_to_no_file_outside_and_into_no_folder(tmp_path):
    write(tmp_path, {"secret.txt": "secret", "secret.jpg": "secret", "images/a.jpg": "image", "images/a.txt": "text"})
    images = tmp_path / "images"
    (images / "b.jpg").symlink_to("../secret.jpg")
    (images / "b.txt").symlink_to("../secret.txt")
    (images / "c.jpg").symlink_to("a.jpg")
    (images / "c.txt").symlink_to("a.txt")
    (images / "up").symlink_to("..")
    (images / "loop").symlink_to(".")
    (images / "dangling.jpg").symlink_to("nothing")
    os.mkfifo(images / "pipe.jpg")
    assert [(pair.source_key, pair.image, pair.captions) for pair in read(images)] == [
        ("a.jpg", b"image", ["text"]), ("b.jpg", None, []), ("c.jpg", b"image", ["text"]), ("dangling.jpg", None, []),
        ("pipe.jpg", None, []),
    ]  # fmt: skip
    with pytest.raises(SourceError, match="expected the image that filter read, found none in"):
        source(images).fetch(Location(f"{images}/b.jpg", 0, 6))
    with pytest.raises(SourceError, match="expected the image that filter read, found none in"):
        source(images).fetch(Location(f"{tmp_path}/secret.jpg", 0, 6))


def test_odd_names_are_rows_and_harm_nothing(tmp_path):
    names = ["a\\..\\b.jpg", "C:x.jpg", "a::b.jpg", "line\nbreak.jpg", "*?[.jpg", "é.jpg", "e\u0301.jpg", " .jpg"]
    for name in names:
        (tmp_path / name).write_bytes(b"image")
    write(tmp_path, {"a.txt": "text"})
    with open(os.fsencode(f"{tmp_path}/") + b"caf\xe9.jpg", "wb") as file:
        file.write(b"image")
    found = {pair.source_key: pair.image for pair in read(tmp_path)}
    missing = {"a\\..\\b.jpg", "caf\\udce9.jpg", "a.txt"}
    assert found == {name: None if name in missing else b"image" for name in [*names, *missing]}
    os.mkdir(os.fsencode(f"{tmp_path}/") + b"caf\xe9")
    with pytest.raises(SourceError, match=r"caf\\udce9: expected a folder named in UTF-8, found none; rename it"):
        read(tmp_path)


@pytest.mark.parametrize("content", ["[]", "no json", "[" * 100_000, '{"caption": 3}', '{"captions": [null, 1]}', ""])
def test_a_json_that_says_nothing_is_no_caption(tmp_path, content):
    write(tmp_path, {"a.jpg": "image", "a.json": content, "b.jpg": "image", "b.txt": "b"})
    assert [pair.captions for pair in read(tmp_path)] == [[], ["b"]]


def test_a_caption_is_cut_off_where_it_is_too_long_and_a_json_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MAX_TEXT_BYTES", 8)
    monkeypatch.setattr("parti_data.sources.columns.MAX_TEXT_BYTES", 8)
    write(tmp_path, {"a.jpg": "image", "a.txt": "0123456789", "b.jpg": "image", "b.json": '{"caption": "text"}'})
    assert [pair.captions for pair in read(tmp_path)] == [["01234567"], []]


def test_folders_without_images_or_captions_are_refused(tmp_path):
    write(tmp_path, {"none/a.md": "no", "bare/a.jpg": "image", "bare/metadata.jsonl": "{}"})
    for name in ("none", "nowhere"):
        with pytest.raises(SourceError, match=f"/{name}: expected a folder of images, found none; check source.path"):
            read(tmp_path / name)
    with pytest.raises(
        SourceError, match=r"/bare: expected captions beside the images \(.txt or .json\), found none; "
    ):
        read(tmp_path / "bare")


def test_a_folder_that_changes_under_the_run_is_noticed(tmp_path):
    write(tmp_path, {"a.jpg": "image", "a.txt": "text"})
    pairs = source(tmp_path)
    before, splits = pairs.digest(), pairs.splits()
    write(tmp_path, {"a.txt": "other text"})
    assert pairs.digest() != before
    with pytest.raises(ShardError, match="expected the files that were there when the run began, found others; put"):
        list(pairs.read(splits[0], 100))


def test_an_image_that_changes_between_two_splits_of_its_folder_is_noticed(tmp_path):
    write(tmp_path, {"a.jpg": "image", "a.txt": "text", "b.jpg": "image", "b.txt": "text"})
    pairs = FolderSource(kind="folder", path=str(tmp_path), pairs_per_split=1)
    one, other = pairs.splits()
    assert [pair.image for pair in pairs.read(one, 100)] == [b"image"]
    write(tmp_path, {"b.jpg": "another image"})
    with pytest.raises(ShardError, match="expected the files that were there when the run began, found others; put"):
        list(pairs.read(other, 100))


def test_images_that_arrive_later_are_retried(tmp_path, plain_png, beam_options, contents):
    """As those of a table are; the row of a .txt alone becomes that of its image."""
    root = tmp_path / "images"
    write(root, {f"{part}/{row}.txt": f"picture {part} {row}" for part in "ab" for row in range(3)})
    for name in ("a/0", "a/1", "b/0", "b/1", "b/2"):
        publish_bytes(f"{root}/{name}.png", plain_png(sum(name.encode())))
    configs = [FilterConfig(output=f"{tmp_path}/{name}", source=source(root)) for name in ("out", "fresh")]
    assert filter_pairs(configs[0], beam_options()).details["reasons"] == {
        "dropped image_missing": 1,
        "kept": 4,
        "merged exact_duplicate": 1,
    }
    publish_bytes(f"{root}/a/2.png", plain_png(7))
    filter_pairs(configs[0], beam_options(), False, ("image_missing",))
    filter_pairs(configs[1], beam_options())
    assert contents(configs[0].output) == contents(configs[1].output)
    pairs = PairDirectory(configs[0].output)
    assert [row.captions for row in pairs.kept()][2] == ["picture a 2"]
    assert pairs.fetch(list(pairs.kept())[2]) == plain_png(7)


def test_emoji_in_img2datasets_files_format_give_the_pairs_that_its_tars_give(shared, tmp_path, beam_options):
    import tarfile

    root = tmp_path / "files"
    for tar in sorted((shared / "data/noto-emoji").glob("*.tar"))[:1]:
        with tarfile.open(tar) as opened:
            opened.extractall(root / tar.stem, filter="data")
        for beside in (f"{tar.stem}.parquet", f"{tar.stem}_stats.json"):
            shutil.copy(tar.with_name(beside), root / beside)
        stated = json.loads(tar.with_name(f"{tar.stem}_stats.json").read_text())
    pairs = read(root)
    assert len(pairs) == stated["successes"]
    assert all(pair.image and pair.captions and "key" in pair.fields for pair in pairs)


def test_images_without_captions_are_enough_where_only_images_are_asked_for(tmp_path):
    write(tmp_path, {"a.png": "a", "deep/b.jpg": "b", "deep/notes.md": "c"})
    images = ImagesSource(kind="images", path=str(tmp_path))
    pairs = [pair for split in images.splits() for pair in images.read(split, 1 << 20)]
    assert [(pair.source_key, images.fetch(pair.location), pair.captions) for pair in pairs] == [
        ("a.png", b"a", []), ("deep/b.jpg", b"b", []),
    ]  # fmt: skip
    with pytest.raises(SourceError, match="expected a folder of images, found none"):
        ImagesSource(kind="images", path=str(tmp_path / "none")).splits()
