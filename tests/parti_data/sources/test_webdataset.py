import gc
import io
import json
import tarfile
from pathlib import Path

import pytest
import webdataset

from parti_data.errors import SourceError
from parti_data.sources import WebDatasetSource, unpacked_tar
from parti_data.sources import webdataset as sources
from parti_data.sources.pairs import Location, RawPair
from parti_data.storage import open_file, publish_bytes, read_range


def source(path: object) -> WebDatasetSource:
    return WebDatasetSource(kind="webdataset", path=str(path))


def read(path: object, max_image_bytes: int = 1 << 20) -> list[RawPair]:
    tars = source(path)
    return [pair for split in tars.splits() for pair in tars.read(split, max_image_bytes)]


def captions(path: object) -> dict[str, str | None]:
    return {pair.source_key: "|".join(pair.captions) or None for pair in read(path)}


PAIR = [("a.png", b"image a"), ("a.txt", b"text a"), ("b.jpg", b"image b"), ("b.txt", b"text b")]


def test_members_of_a_pair_may_come_in_any_order_and_apart(make_tar):
    in_order = read(make_tar("x.tar", PAIR))
    mixed = read(make_tar("y.tar", [PAIR[3], PAIR[0], PAIR[2], PAIR[1]]))
    assert [(pair.source_key, pair.image, pair.captions) for pair in in_order] == [
        ("a", b"image a", ["text a"]), ("b", b"image b", ["text b"])
    ]  # fmt: skip
    assert [(pair.source_key, pair.image, pair.captions) for pair in mixed] == [
        ("b", b"image b", ["text b"]), ("a", b"image a", ["text a"])
    ]  # fmt: skip


def test_a_location_gives_the_bytes_again(make_tar):
    path = make_tar("x.tar", PAIR)
    for pair in read(path):
        assert source(path).fetch(pair.location) == pair.image
        content = Path(path).read_bytes()
        assert content[pair.location.offset :][: pair.location.size] == pair.image


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its file to the garbage collector
def test_names_are_read_as_webdataset_reads_them(make_tar, plain_png):
    members = [("d/a.png", plain_png(1)), ("d/a.txt", b"one"), ("e.f/a.png", plain_png(2)),
               ("e.f/a.txt", b"two"), ("e.f/b.c.png", plain_png(3)), ("e.f/b.txt", b"three"),
               ("U.PNG", plain_png(4)), ("U.TXT", b"four")]  # fmt: skip
    path = make_tar("x.tar", members)
    ours = {pair.source_key: (pair.image, pair.captions) for pair in read(path)}
    theirs = {
        sample["__key__"]: (sample.get("png"), [sample["txt"].decode()])
        for sample in webdataset.WebDataset(path, shardshuffle=False)
    }
    gc.collect()
    assert ours == theirs
    assert ours["e.f/b"] == (None, ["three"])  # "c.png" is no image extension


def test_the_text_member_beats_the_json_and_the_json_stands_in(make_tar):
    stated = json.dumps({"caption": "from json"}).encode()
    members = [("a.png", b"."), ("a.json", stated), ("b.png", b"."), ("b.txt", b"from txt"), ("b.json", stated)]
    assert captions(make_tar("x.tar", members)) == {"a": "from json", "b": "from txt"}


@pytest.mark.parametrize(
    "content",
    [b"not json", b"[1]", b"null", b'{"caption": 3}', b'{"caption": null}', b"{}", b"\xff\xfe", b"[" * 100_000,
     json.dumps({"caption": "x" * (1 << 20)}).encode()],
)  # fmt: skip
def test_a_json_without_a_usable_caption_is_a_missing_caption(make_tar, content):
    assert captions(make_tar("x.tar", [("a.png", b"."), ("a.json", content)])) == {"a": None}


def test_a_json_may_state_several_captions(make_tar):
    stated = json.dumps({"captions": ["one", 2, "two"], "caption": "three"}).encode()
    assert captions(make_tar("x.tar", [("a.png", b"."), ("a.txt", b"four"), ("a.json", stated)])) == {"a": "one|two"}


def test_what_the_json_says_of_a_pair_goes_with_it(make_tar):
    stated = json.dumps({"similarity": 0.25, "url": "http://x"}).encode()
    (pair,) = read(make_tar("x.tar", [("a.png", b"."), ("a.txt", b"one"), ("a.json", stated)]))
    assert (pair.captions, pair.fields) == (["one"], {"similarity": 0.25, "url": "http://x"})


def test_what_is_no_number_to_write_does_not_go_with_it(make_tar):
    stated = b'{"a": ' + b"9" * 4000 + b', "b": NaN, "c": null, "d": [1], "caption": "one"}'
    (pair,) = read(make_tar("x.tar", [("a.png", b"."), ("a.json", stated)]))
    assert (pair.captions, pair.fields) == (["one"], {"caption": "one"})


def test_a_caption_is_always_text_that_can_be_written(make_tar):
    members = [
        ("a.png", b"."),
        ("a.txt", b"caf\xe9"),
        ("b.png", b"."),
        ("b.json", b'{"caption": "half \\ud800 a pair"}'),
    ]
    found = captions(make_tar("x.tar", members))
    assert found == {"a": "caf�", "b": "half ? a pair"}
    assert all(caption.encode() for caption in found.values())


def test_a_very_long_text_is_cut(make_tar):
    found = captions(make_tar("x.tar", [("a.png", b"."), ("a.txt", b"x" * (2 << 20))]))
    assert found == {"a": "x" * (1 << 20)}


def test_a_name_that_is_not_utf8_is_still_a_key(make_tar):
    found = captions(make_tar("x.tar", [("caf\udce9.png", b"."), ("caf\udce9.txt", b"one")]))
    assert found == {"caf\\udce9": "one"}


def test_a_caption_without_an_image_is_a_row_without_one(make_tar):
    path = make_tar("x.tar", [("c.txt", b"alone"), *PAIR])
    assert read(path)[0] == RawPair("c", Location(path, 0, 0), None, ["alone"], {})


def test_an_image_over_the_limit_is_cut_one_byte_behind_it(make_tar):
    pair = read(make_tar("x.tar", PAIR), max_image_bytes=3)[0]
    assert (pair.image, pair.location.size) == (b"imag", 7)


@pytest.mark.parametrize("name", ["/etc/passwd.png", "../../outside.png", "a/../../b.png"])
def test_a_member_name_is_never_opened_as_a_path(make_tar, monkeypatch, name):
    text = name.replace(".png", ".txt")
    path = make_tar("x.tar", [(name, b"inside"), (text, b"text")])
    opened = []
    monkeypatch.setattr(unpacked_tar, "open_file", lambda place: opened.append(place) or open_file(place))
    monkeypatch.setattr(sources, "read_range", lambda place, *part: opened.append(place) or read_range(place, *part))
    (pair,) = read(path)
    assert (pair.image, pair.captions, pair.source_key) == (b"inside", ["text"], name.removesuffix(".png"))
    assert source(path).fetch(pair.location) == b"inside"
    assert opened == [path, path]


def test_links_in_a_tar_are_not_followed(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        text = tarfile.TarInfo("a.txt")
        text.size = 4
        tar.addfile(text, io.BytesIO(b"text"))
    assert [(pair.image, pair.captions) for pair in read(path)] == [(None, ["text"])]


@pytest.mark.parametrize("pattern", ["tars", "tars/", "tars/*.tar", "tars/0000[01].tar"])
def test_a_directory_and_a_glob_name_their_tars_in_order(make_tar, tmp_path, pattern):
    for number in (1, 0):
        make_tar(f"tars/0000{number}.tar", [(f"{number}.png", b"."), (f"{number}.txt", b"x")])
    (tmp_path / "tars/00000.parquet").write_bytes(b"")
    splits = source(tmp_path / pattern).splits()
    assert [(split.number, Path(split.path).name) for split in splits] == [(0, "00000.tar"), (1, "00001.tar")]
    assert [pair.source_key for pair in read(tmp_path / pattern)] == ["0", "1"]


def test_a_glob_may_name_directories_at_any_depth(make_tar, tmp_path):
    for place in ("b", "a/1", "a/0", "."):
        make_tar(f"tars/{place}/x.tar", [("a.png", b"."), ("a.txt", place.encode())])
    assert [pair.captions for pair in read(tmp_path / "tars/**/*.tar")] == [["a/0"], ["a/1"], ["b"], ["."]]
    assert [pair.captions for pair in read(tmp_path / "tars/*/*.tar")] == [["b"]]


def test_tars_behind_a_url_are_read(make_tar):
    publish_bytes("memory://tars/x.tar", Path(make_tar("x.tar", PAIR)).read_bytes())
    pairs = read("memory://tars")
    assert [pair.captions for pair in pairs] == [["text a"], ["text b"]]
    assert source("memory://tars").fetch(pairs[0].location) == b"image a"


def test_the_digest_tells_which_tars_and_how_large(make_tar, tmp_path):
    make_tar("tars/0.tar", PAIR)
    before = source(tmp_path / "tars").digest()
    assert before == source(tmp_path / "tars").digest()
    make_tar("tars/1.tar", PAIR)
    assert before != source(tmp_path / "tars").digest()


@pytest.mark.parametrize("pattern", ["none.tar", "none", "*.tar"])
def test_a_path_without_tars_is_refused(tmp_path, pattern):
    with pytest.raises(SourceError, match="expected tar files, found none; check source.path"):
        source(tmp_path / pattern).splits()


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(SourceError, match=r"x.tar: expected a tar, found an empty file; download it again"):
        read(tmp_path / "x.tar")


@pytest.mark.parametrize("content", [b"<!doctype html>" * 100, b"\x1f\x8b" + bytes(2000), b"short"])
def test_a_file_that_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(SourceError, match=r"x.tar: expected a whole tar, found .* after 0 pairs; download it again"):
        read(tmp_path / "x.tar")


def test_a_tar_without_members_has_no_rows(make_tar):
    assert read(make_tar("x.tar", [])) == []


def test_a_tar_without_captions_is_refused(make_tar):
    path = make_tar("x.tar", [("a.png", b"."), ("b.png", b".")])
    with pytest.raises(
        SourceError, match=r"expected captions \(.txt or .json members\), found 2 pairs without one; write"
    ):
        read(path)


def test_a_member_that_comes_twice_is_refused(make_tar):
    with pytest.raises(
        SourceError, match="expected each member once, found 'a.png' twice; give every pair its own name"
    ):
        read(make_tar("x.tar", [*PAIR, ("a.png", b"other")]))


def test_a_tar_that_has_gone_is_refused(make_tar):
    path = make_tar("x.tar", PAIR)
    location = read(path)[0].location
    Path(path).unlink()
    with pytest.raises(SourceError, match="x.tar: expected the tar that filter read, found none; put it back or run"):
        source(path).fetch(location)


def test_a_tar_cut_short_anywhere_is_refused(make_tar, tmp_path):
    members = [(f"{number}.{kind}", bytes([65 + number]) * 700) for number in range(3) for kind in ("png", "txt")]
    content = Path(make_tar("whole.tar", members)).read_bytes()
    data_end = len(members) * (512 + 1024)
    cut = tmp_path / "cut.tar"
    messages = set()
    for size in [*range(1, data_end, 97), *range(512, data_end + 1, 512), *range(1536, data_end + 1, 1536)]:
        cut.write_bytes(content[:size])
        with pytest.raises(SourceError, match=r"cut.tar: expected .*; download it again$") as error:
            read(cut)
        messages.add(next(part for part in ("cut short in member", "end mark", "after") if part in str(error.value)))
    assert messages == {"cut short in member", "end mark", "after"}
    cut.write_bytes(content[: data_end + 512])
    assert len(read(cut)) == 3


def test_a_header_that_is_spoiled_does_not_hide_what_follows(make_tar):
    members = [(f"{number}.{kind}", b"x" * 10) for number in range(3) for kind in ("png", "txt")]
    path = Path(make_tar("x.tar", members))
    whole = path.read_bytes()
    for header in range(0, len(members) * 1024, 1024):
        spoiled = bytearray(whole)
        spoiled[header + 1] ^= 0x55
        path.write_bytes(spoiled)
        with pytest.raises(SourceError, match="expected a whole tar"):
            read(path)


def test_a_tar_of_more_names_than_fit_in_memory_is_refused(make_tar, monkeypatch):
    monkeypatch.setattr(sources, "MAX_INDEX_BYTES", 1000)
    assert len(read(make_tar("few.tar", PAIR[:3]))) == 2
    with pytest.raises(SourceError, match="expected at most 1000 bytes of names.*split it into several tars"):
        read(make_tar("many.tar", PAIR))
