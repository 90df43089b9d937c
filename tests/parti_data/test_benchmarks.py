import json
import random

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from parti_data import benchmarks as module
from parti_data.benchmarks import Benchmark, BenchmarkHashes, ImageHashes, read_benchmarks, read_captions
from parti_data.errors import SourceError
from parti_data.images import Drop, ImageLimits, to_png
from parti_data.ledger import LedgerRow
from parti_data.perceptual_hash import HASH_BITS, HASH_HEX, mirrored_hash, perceptual_hash
from parti_data.rules import caption_hash

ROW = LedgerRow("k", "s", "0", "kept", "", "", "", [], 32, 32, 5, "PNG", "", {}, {}, "s", 0, 5)


def noise(seed: int) -> np.ndarray:
    return np.kron(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8), np.ones((10, 10, 1), np.uint8))


def read(tmp_path, **settings) -> BenchmarkHashes:
    return read_benchmarks([Benchmark(name="bench", **settings)], ImageLimits())


CONTENTS = {
    "prompts.tsv": 'Prompt\tCategory\nA "Fine" day\tx\ntwo\ty\n',
    "prompts.csv": 'id,caption\n1,"A ""Fine"" day"\n2,two\n',
    "captions.json": json.dumps({"annotations": [{"id": 1, "caption": 'A "Fine" day'}, {"caption": "two"}]}),
    "lines.jsonl": '{"text": "A \\"Fine\\" day"}\n\n{"caption": "two"}\n',
    "lines.txt": 'A "Fine" day\ntwo',
}


@pytest.mark.parametrize("name", CONTENTS)
def test_prompts_are_read_from_every_kind_of_file(tmp_path, name):
    (tmp_path / name).write_text(CONTENTS[name], encoding="utf-8-sig")
    assert read_captions(str(tmp_path / name)) == ['A "Fine" day', "two"]


BROKEN = {
    "a.tsv": ("Category\nx\n", "found a row without a text in any of Prompt, prompt, caption, text"),
    "a.json": ("[1]", "found no list of annotations"),
    "b.json": ("{", "found Expecting property name"),
    "a.jsonl": ('["x"]\n', "found a row without a text"),
    "a.txt": (" \n\n", "found none"),
    "a.pkl": ("x", "found a file that is no .tsv, .csv, .json, .jsonl or .txt but .pkl"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_without_prompts_is_refused(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=rf"^{tmp_path}/{name}: expected captions, {message}"):
        read_captions(str(tmp_path / name))


def test_text_that_is_not_utf8_a_missing_and_a_large_file_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(SourceError, match="a.txt: expected captions, found 'utf-8' codec"):
        read_captions(f"{tmp_path}/a.txt")
    with pytest.raises(SourceError, match="none.txt: expected a file of captions, found none; check the path"):
        read_captions(f"{tmp_path}/none.txt")
    monkeypatch.setattr(module, "MAX_CAPTIONS_BYTES", 3)
    with pytest.raises(SourceError, match="a.txt: expected at most 3 bytes, found 4; split or remove it"):
        read_captions(f"{tmp_path}/a.txt")


def test_a_prompt_is_found_whatever_its_case_and_white_space(tmp_path):
    (tmp_path / "prompts.txt").write_text("A Barn\n\nthe  STRASSE\n")
    found = read(tmp_path, captions=f"{tmp_path}/prompts.txt")
    rows = [ROW._replace(captions=captions) for captions in (["x", "a barn"], ["a barns"], [], ["The straße"])]
    drops = {0: Drop("benchmark_caption", "bench: prompt 1"), 3: Drop("benchmark_caption", "bench: prompt 3")}
    assert found.find(rows) == drops


def test_a_prompt_is_found_as_captions_are_made_plain(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cafe\u0301 in paris\nsoft\u00adhyphen cat\n", "utf-8")
    found = read(tmp_path, captions=f"{tmp_path}/prompts.txt")
    rows = [ROW._replace(captions=[text]) for text in ("a caf\u00e9 in paris", "softhyphen cat", "a cafe in paris")]
    assert sorted(found.find(rows)) == [0, 1]


def test_every_picture_of_a_tar_counts_whatever_its_name(tmp_path, make_tar, plain_png):
    names = ["1.png", "COCO.val.2.png", "3.png", "3.jpg", "d/4.PNG", "5.txt"]
    tar = make_tar("x.tar", [(name, plain_png(10 * number)) for number, name in enumerate(names)])
    assert read(tmp_path, images=tar).images[0].items == names[:-1]


def test_pictures_are_read_from_folders_globs_and_tars(tmp_path, make_tar):
    (tmp_path / "pictures").mkdir()
    for number in (2, 1):
        (tmp_path / f"pictures/{number}.PNG").write_bytes(to_png(noise(number)))
    (tmp_path / "pictures/notes.txt").write_text("no picture")
    make_tar("x.tar", [("a.png", to_png(noise(1))), ("a.txt", b"one"), ("b.png", to_png(noise(2)))])
    hashes = [perceptual_hash(Image.fromarray(noise(number))) for number in (1, 2)]
    for place, items in (
        ("pictures", ["1.PNG", "2.PNG"]),
        ("pic*/*", ["1.PNG", "2.PNG"]),
        ("x.tar", ["a.png", "b.png"]),
    ):
        (images,) = read(tmp_path, images=f"{tmp_path}/{place}").images
        assert (images.items, images.hashes) == (items, hashes)
    (images,) = read(tmp_path, images=f"{tmp_path}/pictures", mirrored=True).images
    assert images.hashes == [text for own in hashes for text in (own, mirrored_hash(own))]


def test_pictures_that_are_missing_broken_or_large_are_refused(tmp_path):
    with pytest.raises(SourceError, match="none: expected pictures, found none; check images of bench"):
        read(tmp_path, images=f"{tmp_path}/none")
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(SourceError, match=r"expected pictures that decode, found a.png \(image_unreadable .*; mend"):
        read(tmp_path, images=f"{tmp_path}/a.png")
    with pytest.raises(SourceError, match="a.png: expected at most 5 bytes, found 6"):
        read_benchmarks([Benchmark(name="b", images=f"{tmp_path}/a.png")], ImageLimits(max_bytes=5))


def test_the_nearest_picture_is_named_as_comparing_every_pair_names_it():
    draw = random.Random(0)
    wanted = [draw.getrandbits(HASH_BITS) for _ in range(40)]
    flips = [sum(1 << bit for bit in draw.sample(range(HASH_BITS), draw.randrange(20))) for _ in range(60)]
    looked_at = [draw.choice(wanted) ^ flip for flip in flips]
    images = ImageHashes("b", 10, [f"item {n}" for n in range(40)], [f"{one:0{HASH_HEX}x}" for one in wanted])
    expected = {}
    for row, one in enumerate(looked_at):
        distance, item = min(((one ^ other).bit_count(), item) for item, other in enumerate(wanted))
        if distance <= 10:
            expected[row] = f"b: item {item}, {distance} bits of 256 differ"
    assert images.find([f"{one:0{HASH_HEX}x}" for one in looked_at]) == expected
    assert 10 < len(expected) < 50


def test_a_picture_counts_before_a_prompt_and_the_first_benchmark_before_others():
    text = perceptual_hash(Image.fromarray(noise(1)))
    images = [ImageHashes(name, 0, ["item"], [text]) for name in ("first", "second")]
    hashes = BenchmarkHashes(images, {caption_hash("x"): "third: prompt 1"})
    rows = [ROW._replace(captions=["x"], perceptual_hash=text), ROW._replace(captions=["x"])]
    assert hashes.find(rows) == {
        0: Drop("benchmark_image", "first: item, 0 bits of 256 differ"), 1: Drop("benchmark_caption", "third: prompt 1")
    }  # fmt: skip
    assert hashes.find([]) == BenchmarkHashes().find(rows) == {}


def test_the_digest_tells_of_every_change(tmp_path):
    (tmp_path / "a.png").write_bytes(to_png(noise(1)))
    (tmp_path / "a.txt").write_text("one")
    settings = {"images": f"{tmp_path}/a.png", "captions": f"{tmp_path}/a.txt"}
    digests = [read(tmp_path, **settings).digest()]
    assert read(tmp_path, **settings).digest() == digests[0]
    (tmp_path / "a.png").write_bytes(to_png(noise(2)))
    digests.append(read(tmp_path, **settings).digest())
    (tmp_path / "a.txt").write_text("two")
    digests.append(read(tmp_path, **settings).digest())
    assert len(set(digests)) == 3


def test_a_benchmark_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="benchmark 'b' should have images or captions, found neither"):
        Benchmark(name="b")


def test_parti_prompts_are_read_whole(shared):
    prompts = read_captions(str(shared / "data/parti-prompts/PartiPrompts.tsv"))
    assert len(prompts) == 1632
    assert prompts[0] == "bond"
    assert "Dogs playing poker" in prompts
    assert any('"Fly an airplane"' in prompt for prompt in prompts)
