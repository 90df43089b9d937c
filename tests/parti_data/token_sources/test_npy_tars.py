import gzip
import io
import tarfile

import numpy as np
import pytest
from foreign_tokens import draw_tokens, npy_bytes, write_npy_tar, write_tar

from parti_data.errors import SourceError
from parti_data.token_sources import NpyTarsSource
from parti_data.token_sources.tokenized import Fault, TokenizedImage

TOKENS = draw_tokens(50).astype(np.uint16)
CAPTIONS = [f"number {number}" for number in range(50)]


def source(path: object, **options) -> NpyTarsSource:
    return NpyTarsSource(kind="npy_tars", path=str(path), **options)


def read(found: NpyTarsSource, images_a_slice: int = 1000) -> list[TokenizedImage]:
    return [image for part in found.slices(images_a_slice).slices for image in found.read(part)]


@pytest.mark.parametrize("images_a_slice", [1, 7, 1000])
def test_slices_hold_every_sample_once_however_wrong_the_guess(tmp_path, images_a_slice):
    write_npy_tar(tmp_path / "a.tar", TOKENS[:10], CAPTIONS[:10])
    write_npy_tar(tmp_path / "b.tar", TOKENS[10:15], [caption * 1000 for caption in CAPTIONS[10:15]])  # few, large
    write_npy_tar(tmp_path / "c.tar", TOKENS[15:], CAPTIONS[15:])
    images = read(source(tmp_path), images_a_slice)
    assert [image.source_key for image in images[:12]] == [*(f"{n:06d}" for n in range(10)), "000000", "000001"]
    np.testing.assert_array_equal(np.stack([image.tokens for image in images]), TOKENS)  # type: ignore[arg-type]
    assert [image.captions for image in images[15:]] == [[caption] for caption in CAPTIONS[15:]]


def test_an_empty_tar_does_not_make_one_slice_of_the_others(tmp_path):
    write_tar(tmp_path / "a.tar", [])
    write_npy_tar(tmp_path / "b.tar", TOKENS, CAPTIONS)
    listing = source(tmp_path).slices(10)
    assert len(listing.slices) > 3
    assert listing.num_images > 20
    assert len(read(source(tmp_path), 10)) == 50


def test_members_come_in_any_order_and_captions_in_json(tmp_path):
    write_tar(
        tmp_path / "a.tar",
        [
            ("x/1.json", b'{"caption": "one"}'), ("x/2.txt", b"two"), ("x/2.NPY", npy_bytes(TOKENS[1])),
            ("x/1.npy", npy_bytes(TOKENS[0])), ("x/3.npy", npy_bytes(TOKENS[2])),
            ("x/3.json", b'{"captions": ["three", "drei"]}'), ("x/3.pyd", b"\x80\x04N."),
        ],
    )  # fmt: skip
    images = read(source(tmp_path))
    assert [image.source_key for image in images] == ["x/1", "x/2", "x/3"]
    assert [image.captions for image in images] == [["one"], ["two"], ["three", "drei"]]


def test_tokens_may_have_a_longer_name(tmp_path):
    members = [("1.codes.npy", npy_bytes(TOKENS[0])), ("1.txt", b"one"), ("2.npy", npy_bytes(TOKENS[1]))]
    write_tar(tmp_path / "a.tar", members)
    first, second = read(source(tmp_path, tokens_member="codes.npy"))
    np.testing.assert_array_equal(first.tokens, TOKENS[0])  # type: ignore[arg-type]
    assert second.tokens == Fault("no_tokens", "no member .codes.npy")
    assert second.captions == Fault("no_caption", "no member .txt or .json with a caption")


def test_compressed_tars_are_read(tmp_path):
    path = write_npy_tar(tmp_path / "a.tar", TOKENS, CAPTIONS)
    with open(path, "rb") as plain:
        (tmp_path / "z/b.tar.gz").parent.mkdir()
        (tmp_path / "z/b.tar.gz").write_bytes(gzip.compress(plain.read()))
    assert len(read(source(tmp_path / "z"), 7)) == 50


def test_hostile_members_are_faults_and_their_neighbours_are_read(tmp_path):
    bomb = npy_bytes(np.array([1, None], object))
    members = [("1.npy", npy_bytes(TOKENS[0])), ("1.txt", b"one"), ("2.npy", bomb), ("2.txt", b"\xff\xfe two")]
    members += [("3.npy", npy_bytes(np.zeros(17 << 20, np.uint8))), ("3.txt", b"three"), ("4.npy", b"")]
    write_tar(tmp_path / "a.tar", members)
    good, objects, large, empty = read(source(tmp_path))
    assert isinstance(good.tokens, np.ndarray)
    assert isinstance(objects.tokens, Fault)
    assert objects.tokens.detail.startswith("no array of numbers but")
    assert objects.captions == ["\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} two"]
    assert large.tokens == Fault("unreadable", "more than 16777216 bytes")
    assert empty.tokens == Fault("unreadable", "no array of numbers but ''")


def test_a_member_that_claims_a_huge_length_is_refused(tmp_path):
    member = tarfile.TarInfo("1.npy")
    member.size = 1 << 40
    file = io.BytesIO(member.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048)
    (tmp_path / "a.tar").write_bytes(file.getvalue())
    with pytest.raises(SourceError, match=r"a.tar: expected \d+ bytes at least, found 2560 \(cut short in member"):
        source(tmp_path).slices(10)


def test_no_tars_are_refused(tmp_path):
    with pytest.raises(SourceError, match="expected tar files, found none; check source.path"):
        source(tmp_path).slices(10)
