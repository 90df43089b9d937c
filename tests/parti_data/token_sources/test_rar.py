import json
import tracemalloc

import numpy as np
import pytest
from foreign_tokens import draw_tokens, write_rar

from parti_data.errors import SourceError
from parti_data.token_sources import RarSource
from parti_data.token_sources import rar as rar_module
from parti_data.token_sources.tokenized import Fault, TokenizedImage

TOKENS = draw_tokens(50)


def source(path: object, **options) -> RarSource:
    return RarSource(kind="rar", path=str(path), **options)


def read(found: RarSource, images_a_slice: int = 1000) -> list[TokenizedImage]:
    return [image for part in found.slices(images_a_slice).slices for image in found.read(part)]


@pytest.mark.parametrize("block_bytes", [1, 100, 4 << 20])
@pytest.mark.parametrize("images_a_slice", [1, 7, 50, 1000])
@pytest.mark.parametrize("ends_whole", [True, False])
def test_slices_hold_every_line_once(tmp_path, monkeypatch, images_a_slice, block_bytes, ends_whole):
    monkeypatch.setattr(rar_module, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "a.jsonl"
    write_rar(path, TOKENS, [n % 3 for n in range(50)])
    if not ends_whole:
        path.write_bytes(path.read_bytes()[:-1])
    found = source(path)
    listing, images = found.slices(images_a_slice), read(found, images_a_slice)
    assert [image.source_key for image in images] == [f"{n:08d}" for n in range(1, 51)]
    np.testing.assert_array_equal(np.stack([image.tokens for image in images]), TOKENS)  # type: ignore[arg-type]
    assert len(listing.slices) == -(-50 // images_a_slice)
    assert listing.num_images >= 49


def test_several_files_are_read_in_order(tmp_path):
    for name, half in (("a", slice(0, 20)), ("b", slice(20, 50))):
        write_rar(tmp_path / f"{name}.jsonl", TOKENS[half], [0] * len(TOKENS[half]))
    images = read(source(tmp_path), 7)
    np.testing.assert_array_equal(np.stack([image.tokens for image in images]), TOKENS)  # type: ignore[arg-type]
    assert {image.captions for image in images} == {None}


def test_captions_are_names_of_classes_or_stand_in_the_line(tmp_path):
    (tmp_path / "names.txt").write_text("tench\ngoldfish\n")
    write_rar(tmp_path / "a.jsonl", TOKENS[:3], [1, 0, 2])
    named = read(source(tmp_path / "a.jsonl", class_names=f"{tmp_path}/names.txt"))
    assert [image.captions for image in named] == [
        ["goldfish"], ["tench"], Fault("no_caption", "class 2 of 2 names"),
    ]  # fmt: skip
    lines = [{"codes": [1, 2], "text": "one"}, {"codes": [[1], [2]], "text": ["two", "zwei"]}, {"codes": [3]}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second, third = read(source(tmp_path / "b.jsonl", tokens_key="codes", caption_key="text"))
    assert (first.captions, second.captions) == (["one"], ["two", "zwei"])
    assert third.captions == Fault("no_caption", "no text under 'text'")


HOSTILE = {
    b'{"tokens": [1, 2.5]}': Fault("not_integers", "tokens of type float64"),
    b'{"tokens": [1, [2]]}': Fault("not_integers", "a list that is no array"),
    b'{"tokens": ["' + b"1" * 2_000_000 + b'"' + b', ""' * 500_000 + b"]}": Fault(
        "not_integers", "a list with text or booleans in it"
    ),
    b'{"tokens": [[1], ["2"]]}': Fault("not_integers", "a list with text or booleans in it"),
    b'{"tokens": [[1], [true]]}': Fault("not_integers", "a list with text or booleans in it"),
    b'{"tokens": ' + b"[" * 700 + b"]" * 700 + b"}": Fault("not_integers", "a list that is no array"),
    b'{"tokens": {"1": 2}}': Fault("no_tokens", "no list under 'tokens'"),
    b'{"class_id": 3}': Fault("no_tokens", "no list under 'tokens'"),
    b"[1, 2]": Fault("unreadable", "a line that is no JSON object"),
    b'{"tokens": [1, 2': Fault("unreadable", "a line that is no JSON"),
    b'{"tokens": [1' + b"0" * 5000 + b"]}": Fault("unreadable", "a line that is no JSON"),
    b"[" * 100_000: Fault("unreadable", "a line that is no JSON"),
    b'{"tokens": "\xff"}': Fault("unreadable", "a line that is no UTF-8"),
    b"\xff\xfe{\0": Fault("unreadable", "a line that is no UTF-8"),
    b'{"tokens": [' + b"1," * (3 << 20) + b"1]}": Fault("unreadable", "a line of more than 4194304 bytes"),
}


def test_hostile_lines_are_faults_and_their_neighbours_are_read(tmp_path):
    good = b'{"tokens": [5]}'
    (tmp_path / "a.jsonl").write_bytes(b"\n\n".join(line for bad in HOSTILE for line in (bad, good)))
    for images_a_slice in (3, 1000):
        images = read(source(tmp_path), images_a_slice)
        assert len(images) == 2 * len(HOSTILE)
        for number, fault in enumerate(HOSTILE.values()):
            tokens = images[2 * number].tokens
            if fault.reason == "not_integers" and isinstance(tokens, np.ndarray):
                tokens = Fault("not_integers", f"tokens of type {tokens.dtype}")
            assert tokens == fault
            assert images[2 * number + 1].tokens.tolist() == [5]  # type: ignore[union-attr]


def test_a_line_of_100_mb_takes_no_such_memory(tmp_path):
    with open(tmp_path / "a.jsonl", "wb") as file:
        for _ in range(100):
            file.write(b"1" * 1_000_000)
        file.write(b'\n{"tokens": [5]}\n')
    found = source(tmp_path)
    tracemalloc.start()
    long, good = read(found)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (long.tokens, good.tokens) == (Fault("unreadable", "a line of more than 4194304 bytes"), [5])
    assert peak < 32 << 20


def test_no_files_are_refused(tmp_path):
    with pytest.raises(SourceError, match="expected files of JSON lines, found none; check source.path"):
        source(tmp_path).slices(10)


def test_other_names_of_classes_are_another_source(tmp_path):
    path = write_rar(tmp_path / "a.jsonl", TOKENS, [0] * 50)
    (tmp_path / "names.txt").write_text("tench\n")
    named = source(path, class_names=f"{tmp_path}/names.txt")
    digests = {source(path).slices(9).digest, source(path).slices(10).digest, named.slices(9).digest}
    (tmp_path / "names.txt").write_text("trout\n")
    assert len(digests | {named.slices(9).digest}) == 3
