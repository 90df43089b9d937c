import numpy as np
import pytest
from foreign_tokens import draw_tokens, npy_bytes, npy_claiming, write_llamagen_classes, write_llamagen_texts

from parti_data.errors import ConfigError, SourceError
from parti_data.token_sources import LlamaGenSource
from parti_data.token_sources.tokenized import Fault, TokenizedImage
from pipelines.import_tokens import ImportTokensConfig

TOKENS = draw_tokens(26)


def source(path: object, **options) -> LlamaGenSource:
    return LlamaGenSource(kind="llamagen", path=str(path), **options)


def read(found: LlamaGenSource, images_a_slice: int = 1000) -> list[TokenizedImage]:
    return [image for part in found.slices(images_a_slice).slices for image in found.read(part)]


@pytest.mark.parametrize("images_a_slice", [1, 5, 1000])
def test_slices_hold_every_file_once_in_the_order_of_their_numbers(tmp_path, images_a_slice):
    views = TOKENS.reshape(13, 2, -1)
    found = source(write_llamagen_classes(tmp_path, views, [0] * 13))
    images = read(found, images_a_slice)
    assert found.slices(images_a_slice).num_images == 13
    assert [image.source_key for image in images] == [str(number) for number in range(13)]
    np.testing.assert_array_equal(np.stack([image.tokens for image in images]), views[:, None])  # type: ignore[arg-type]
    assert {image.flipped for image in images} == {(False, True)}
    assert {image.captions for image in images} == {None}


@pytest.mark.parametrize(
    ("num_views", "flipped"), [(1, ()), (2, (False, True)), (5, ()), (10, (False,) * 5 + (True,) * 5)]
)
def test_mirrored_views_are_known_by_how_many_there_are(tmp_path, num_views, flipped):
    (image,) = read(source(write_llamagen_classes(tmp_path, TOKENS[None, :num_views], [0])))
    assert image.flipped == flipped


def test_labels_lie_beside_or_elsewhere_and_have_names(tmp_path):
    (tmp_path / "names.txt").write_text("tench\ngoldfish\n")
    path = write_llamagen_classes(tmp_path, TOKENS[:4, None], [1, 0, 1, 2])
    (tmp_path / "imagenet256_labels/2.npy").unlink()
    expected = [
        ["goldfish"], ["tench"], Fault("no_caption", f"no label in {tmp_path}/imagenet256_labels"),
        Fault("no_caption", "class 2 of 2 names"),
    ]  # fmt: skip
    names = f"{tmp_path}/names.txt"
    assert [image.captions for image in read(source(path, class_names=names))] == expected
    (tmp_path / "imagenet256_labels").rename(tmp_path / "elsewhere")
    elsewhere = source(path, class_names=names, labels=f"{tmp_path}/elsewhere")
    assert [image.captions for image in read(elsewhere)][:2] == expected[:2]


def test_labels_are_not_taken_for_tokens(tmp_path):
    write_llamagen_classes(tmp_path, TOKENS[:4, None], [1, 0, 1, 2])
    for path in (tmp_path, tmp_path / "imagenet256_*"):
        assert len(read(source(path))) == 4


@pytest.mark.parametrize("images_a_slice", [1, 4, 1000])
def test_captions_are_those_of_the_line_that_a_file_is_named_after(tmp_path, images_a_slice):
    texts = [[f"blip {number}", f"llava {number}"] for number in range(26)]
    for stem, part in (("00", slice(0, 12)), ("01", slice(12, 26))):
        path, captions = write_llamagen_texts(tmp_path, stem, TOKENS[part], texts[part])
    images = read(source(path, captions=captions), images_a_slice)
    assert [image.captions for image in images] == texts
    alone = read(source(f"{path}/01", captions=f"{captions}/01.jsonl"), images_a_slice)
    assert [image.captions for image in alone] == texts[12:]
    assert len(read(source(f"{path}/0*", captions=captions))) == 26


def test_lines_without_a_caption_are_faults(tmp_path):
    path, captions = write_llamagen_texts(tmp_path, "00", TOKENS[:5], [["zero"]])
    (tmp_path / "captions/00.jsonl").write_bytes(b'{"text": "zero"}\n\n[' + b'\n{"text": 3}\n\xff\n')
    (tmp_path / "codes/00/name.npy").write_bytes(npy_bytes(TOKENS[5]))
    missing = Fault("no_caption", "no line with a caption")
    assert [image.captions for image in read(source(path, captions=captions))] == [["zero"], *[missing] * 5]


def test_captions_that_are_not_there_are_refused(tmp_path):
    path, captions = write_llamagen_texts(tmp_path, "00", TOKENS[:5], [["zero"]])
    (tmp_path / "captions/00.jsonl").rename(tmp_path / "captions/01.jsonl")
    message = r"expected the captions of .*codes/00 as a .jsonl, or 00.jsonl in it, found none; check source.captions"
    for place in (captions, f"{captions}/02.jsonl", f"{tmp_path}/none"):
        with pytest.raises(SourceError, match=message):
            source(path, captions=place).slices(10)


def test_hostile_files_are_faults_and_their_neighbours_are_read(tmp_path):
    path = write_llamagen_classes(tmp_path, TOKENS[:4, None], [0] * 4)
    (tmp_path / "imagenet256_codes/1.npy").write_bytes(npy_claiming("(1, 1, 1000000000000)"))
    (tmp_path / "imagenet256_codes/2.npy").write_bytes(b"\x80\x04N.")
    (tmp_path / "imagenet256_codes/3.npy").write_bytes(npy_bytes(np.array([None])))
    (tmp_path / "imagenet256_codes/4.npy").mkdir()
    found = source(path)
    (part,) = found.slices(10).slices
    (tmp_path / "imagenet256_codes/0.npy").rename(tmp_path / "imagenet256_codes/5.npy")
    details = [image.tokens.detail for image in found.read(part)]  # type: ignore[union-attr]
    assert details[:2] == ["no such file", "an array of 8000000000000 bytes in 0"]
    assert all(detail.startswith("no array of numbers but") for detail in details[2:])
    assert len(details) == 4


def test_an_array_without_a_side_and_a_name_of_many_digits_are_met(tmp_path):
    path, captions = write_llamagen_texts(tmp_path, "00", TOKENS[:1], [["zero"]])
    (tmp_path / "codes/00/1.npy").write_bytes(npy_bytes(np.array(7)))
    (tmp_path / f"codes/00/{'9' * 40}.npy").write_bytes(npy_bytes(TOKENS[1]))
    _, alone, far = read(source(path, captions=captions))
    assert alone.tokens.shape == ()  # type: ignore[union-attr]
    assert far.captions == Fault("no_caption", "no line with a caption")


def test_no_folders_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none", tmp_path / "*"):
        with pytest.raises(SourceError, match="expected folders of .npy files, found none; check source.path"):
            source(path).slices(10)


def test_a_changed_folder_is_another_source(tmp_path):
    path = write_llamagen_classes(tmp_path, TOKENS[:4, None], [0] * 4)
    digest = source(path).slices(10).digest
    assert source(path).slices(2).digest == digest
    (tmp_path / "imagenet256_codes/3.npy").unlink()
    assert source(path).slices(10).digest != digest


def test_two_kinds_of_captions_are_refused():
    needed = ["output=x", "text_tokenizer=t", "source.kind=llamagen", "source.path=y", "image_tokenizer=z"]
    with pytest.raises(ConfigError, match="source: expected captions or class_names, found both; leave one out"):
        ImportTokensConfig.load(None, [*needed, "source.class_names=a", "source.captions=b"])
