import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.tokenizers import Execution, ImageTokenizer, Reading, TokenizerSpec, load_tokenizer, save_tokenizer
from model.tokenizers.network import TokenizerNetwork
from model.tokenizers.vit_vqgan import TransformerSize, ViTVQGAN, ViTVQGANShape
from parti_data import image_dataset
from parti_data.contact_sheet import CELL_PX
from parti_data.errors import ShardError, TokenizerError
from parti_data.image_dataset import ImageDataset
from parti_data.images import ImageLimits, decode
from parti_data.ledger import PairDirectory
from parti_data.manifest import read_manifest
from parti_data.quality import RunQuality, SliceQuality
from parti_data.sources import WebDatasetSource
from parti_data.token_shard import order_hash, read_metadata
from pipelines import encode_images
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.slice_gate import read_quality
from pipelines.token_fragments import write_fragment
from pipelines.tokenize import tokenize_pairs

FLOOR_DB = 14.0
"""The trained tokenizer has 17 to 18 dB, the same with red and blue swapped 13."""
STEPS, CONTINUOUS_STEPS, LR = 200, 60, 6e-3
BFLOAT16 = Execution(precision="bfloat16")
UNIT, SYMMETRIC = (0.0, 1.0), (-1.0, 1.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, filtered) -> str:
    """A tokenizer of 32 px trained for three seconds: 64 tokens an image, 128 codes."""
    size = TransformerSize(num_layers=1, num_heads=2, width=64, hidden=128)
    shape = ViTVQGANShape(
        image_side=32, patch_side=4, encoder=size, decoder=size, codebook_size=128, code_width=8, positions="rotary",
        output="rgb",
    )  # fmt: skip
    pictures, threads = ImageDataset(filtered, 32, 16), torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ViTVQGAN(shape)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LR)
        for step in range(STEPS):
            images = torch.from_numpy(pictures.batch(step)).float() / 255
            if step == CONTINUOUS_STEPS:
                latents = network.latents(torch.from_numpy(pictures.pictures(range(72))).float() / 255)
                network.codebook.initialise(latents.flatten(0, 1), torch.Generator().manual_seed(0))
            output = network(images, quantize=step >= CONTINUOUS_STEPS)
            optimizer.zero_grad()
            ((output.images - images).square().mean() + output.quantized.loss).backward()
            optimizer.step()
            optimizer.param_groups[0]["lr"] = LR * (1 - step / STEPS)
    torch.set_num_threads(threads)
    path = f"{tmp_path_factory.mktemp('trained')}/tokenizer.safetensors"
    save_tokenizer(network, path)
    return path


class MixedUp(TokenizerNetwork):
    """A network whose weights want one range of pixels and that is opened with another, or sees red as blue."""

    def __init__(
        self, network: TokenizerNetwork, wanted: tuple[float, float], opened: tuple[float, float], sees_bgr: bool
    ):
        super().__init__()
        self.network, self.wanted, self.opened, self.sees_bgr = network, wanted, opened, sees_bgr

    @property
    def spec(self) -> TokenizerSpec:
        return self.network.spec._replace(pixel_range=self.opened)

    def deciding_shape(self) -> dict[str, Any]:
        return self.network.deciding_shape()

    def decides_token(self, tensor_name: str) -> bool:
        return self.network.decides_token(tensor_name.removeprefix("network."))

    def to_input(self, images: Tensor) -> Tensor:
        pixels = images.flip(-1) if self.sees_bgr else images
        return scale(pixels / 255, UNIT, self.opened)

    def latents(self, inputs: Tensor) -> Tensor:
        return self.network.latents(scale(inputs, self.wanted, UNIT))

    def quantize(self, latents: Tensor) -> Tensor:
        return self.network.quantize(latents)

    def decode(self, tokens: Tensor) -> Tensor:
        return scale(scale(self.network.decode(tokens), UNIT, self.wanted), self.opened, UNIT)


def scale(values: Tensor, before: tuple[float, float], after: tuple[float, float]) -> Tensor:
    return (values - before[0]) / (before[1] - before[0]) * (after[1] - after[0]) + after[0]


@pytest.fixture
def open_mixed_up(monkeypatch) -> Callable[..., None]:
    """Have every tokenizer opened mixed up."""

    def arrange(wanted: tuple[float, float] = UNIT, opened: tuple[float, float] = UNIT, sees_bgr: bool = False) -> None:
        def load(path: str, _: Reading) -> TokenizerNetwork:
            return MixedUp(load_tokenizer(path)._network, wanted, opened, sees_bgr)

        forget()
        monkeypatch.setattr(encode_images, "open_network", load)

    def forget() -> None:
        encode_images._open_network.cache_clear()
        encode_images._open_tokenizers.cache_clear()

    yield arrange
    forget()


@pytest.fixture
def decode_bgr(monkeypatch) -> Callable[[int], None]:
    """Have the decoder of the encoder's pictures swap red and blue after so many."""

    def arrange(after: int = 0) -> None:
        decoded = []

        def broken(image: bytes, limits: ImageLimits) -> np.ndarray:
            decoded.append(image)
            pixels = decode(image, limits)
            assert isinstance(pixels, np.ndarray)
            return pixels if len(decoded) <= after else pixels[..., ::-1].copy()

        monkeypatch.setattr(image_dataset, "decode", broken)

    return arrange


@pytest.fixture
def make(trained, make_tokenize_config) -> Callable:
    """The config that tokenizes `filtered` by the trained tokenizer; floors by name."""
    return lambda output, **floors: make_tokenize_config(
        output, image_tokenizer=trained, quality={"sample": 8, "min_psnr_db": FLOOR_DB} | floors
    )


def quality(directory: object) -> RunQuality:
    return RunQuality.model_validate(read_manifest(str(directory)).details["quality"])


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for kind in ("*.arrow", "*.p*") for path in directory.rglob(kind)}


def test_the_right_tokenizer_passes_with_room_and_what_was_measured_is_kept(make, tmp_path, beam_options):
    tokenize_pairs(make(tmp_path), beam_options())
    found = quality(tmp_path)
    assert [one.number for one in found.slices] == [0, 1, 2]
    assert sum(one.rows for one in found.slices) == sum(one.rows for one in found.shards.values()) == 72
    for one in found.slices:
        assert one.psnr_db is not None
        assert one.psnr_db > FLOOR_DB + 2
        assert (one.mixup, one.equal_rows) == ("", 0.0)
        assert 0.3 < one.code_usage < 1
    assert len(found.sample) == 8
    assert found.precision is None  # nothing to compare with itself
    assert names(tmp_path) == {f"tokens-0000{n}-of-00003.parquet" for n in range(3)} | {"quality.png"}


def test_other_ways_to_feed_it_are_tried_on_four_pictures_of_the_first_slice(make, tmp_path, beam_options, monkeypatch):
    tried, reconstruct = [], ImageTokenizer.reconstruct_in_range

    def watched(self, images, pixel_range):
        tried.append(len(images))
        return reconstruct(self, images, pixel_range)

    monkeypatch.setattr(ImageTokenizer, "reconstruct_in_range", watched)
    tokenize_pairs(make(tmp_path), beam_options())
    assert tried == [4]


def test_the_sample_s_psnr_is_that_of_its_pictures_tokens(make, tmp_path, beam_options, trained, filtered):
    tokenize_pairs(make(tmp_path), beam_options())
    pairs, tokenizer = PairDirectory(filtered), load_tokenizer(trained)
    rows = sorted(pairs.kept(0, 30), key=lambda row: order_hash(row.key, 0, 0))[
        :8
    ]  # all first rows of a slice are candidates
    pictures = np.stack([image_dataset.decode(pairs.fetch(row), ImageLimits()) for row in rows])  # 32 px already
    decoded = tokenizer.decode(tokenizer.encode(pictures)).numpy()
    error = np.square((decoded.astype(float) - pictures) / 255).mean()
    first = quality(tmp_path)
    assert {one.key for one in first.sample} == {row.key for row in rows}
    assert first.slices[0].psnr_db == pytest.approx(-10 * np.log10(error), abs=0.006)


@pytest.mark.parametrize(
    ("mixed_up", "said"),
    [
        ({"sees_bgr": True}, r"red and blue look swapped \([12]\d[.\d]* dB with them swapped back\)"),
        ({"wanted": SYMMETRIC}, r"the pixel range looks wrong \([12]\d[.\d]* dB with -1 to 1\)"),
        ({"opened": SYMMETRIC}, r"the pixel range looks wrong \([12]\d[.\d]* dB with 0 to 1\)"),
    ],
)
def test_a_tokenizer_that_is_fed_wrongly_stops_the_run_at_the_first_slice(
    make, tmp_path, beam_options, open_mixed_up, mixed_up, said
):
    open_mixed_up(**mixed_up)
    with pytest.raises(
        TokenizerError, match=rf"^slice \d: expected pictures to come back .* dB; {said}; look"
    ) as error:
        tokenize_pairs(make(tmp_path), beam_options())
    (sheet,) = names(tmp_path)  # no fragment, no shard, and one slice only
    assert f"look at {tmp_path}/{sheet}, then use another tokenizer or set another floor" in str(error.value)
    pixels = decode((tmp_path / sheet).read_bytes(), ImageLimits())
    assert isinstance(pixels, np.ndarray)
    assert pixels.shape[1] > 8 * CELL_PX


def test_a_decoder_that_swaps_red_and_blue_stops_the_run(make, tmp_path, beam_options, decode_bgr):
    decode_bgr()
    with pytest.raises(TokenizerError, match=r"found 1?\d[.\d]* dB; red and blue look swapped \([12]\d"):
        tokenize_pairs(make(tmp_path), beam_options())


def test_swapped_channels_are_refused_above_the_floor_too_unless_they_may_be(
    make, tmp_path, beam_options, open_mixed_up
):
    open_mixed_up(sees_bgr=True)
    with pytest.raises(TokenizerError, match=r"come back as they are \(quality.refuse_mixups\), found \d+[.\d]* dB; r"):
        tokenize_pairs(make(tmp_path, min_psnr_db=5.0), beam_options())
    tokenize_pairs(make(tmp_path, min_psnr_db=5.0, refuse_mixups=False), beam_options())
    assert quality(tmp_path).slices[0].mixup.startswith("red and blue look swapped")


def test_a_run_that_breaks_in_its_middle_keeps_what_was_finished_and_goes_on(
    make, tmp_path, beam_options, decode_bgr, contents, monkeypatch
):
    decode_bgr(30)  # the rows of one slice
    with monkeypatch.context() as patch, pytest.raises(TokenizerError, match="red and blue look swapped"):
        patch.setattr(encode_images, "PICTURES_LOADED", 1)
        tokenize_pairs(make(tmp_path / "out"), beam_options())
    left = names(tmp_path / "out")
    (fragment,) = [name for name in left if name.endswith(".arrow")]
    assert len(left) == 3  # and two sheets
    modified = (tmp_path / "out" / fragment).stat().st_mtime_ns
    with pytest.raises(TokenizerError, match="red and blue look swapped"):  # nothing has been mended
        tokenize_pairs(make(tmp_path / "out"), beam_options())
    assert (tmp_path / "out" / fragment).stat().st_mtime_ns == modified
    monkeypatch.undo()
    tokenize_pairs(make(tmp_path / "out"), beam_options())
    tokenize_pairs(make(tmp_path / "whole"), beam_options())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_lower_floor_lets_a_stopped_run_go_on(make, tmp_path, beam_options, contents):
    with pytest.raises(
        TokenizerError, match=r"come back at 40 dB \(quality.min_psnr_db\), found [12]\d[.\d]* dB; look"
    ):
        tokenize_pairs(make(tmp_path / "out", min_psnr_db=40.0), beam_options())
    tokenize_pairs(make(tmp_path / "out"), beam_options("--direct_num_workers=2"))
    tokenize_pairs(make(tmp_path / "whole"), beam_options())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.fixture
def dead_tokenizer(tmp_path, make_image_file) -> str:
    """A tokenizer that gives every picture the same tokens."""
    path = make_image_file(tmp_path / "dead.safetensors", 0)
    network = load_tokenizer(path)._network
    torch.nn.init.zeros_(network.to_code.weight)
    save_tokenizer(network, path)  # pyright: ignore[reportArgumentType]
    return path


def test_rows_that_are_all_alike_stop_the_run_and_are_not_encoded_again(
    dead_tokenizer, tmp_path, make_tokenize_config, beam_options, monkeypatch
):
    def config(**floors):
        quality = {"sample": 4, "min_psnr_db": 0.0} | floors
        return make_tokenize_config(tmp_path / "out", image_tokenizer=dead_tokenizer, quality=quality)

    said = r"^slice (\d): expected at most 50.00% of the rows with another image's tokens .*, found 100.00%; look at "
    with pytest.raises(TokenizerError, match=said):
        tokenize_pairs(config(), beam_options())
    with monkeypatch.context() as patch:  # what was encoded is judged, not encoded again
        patch.setattr(encode_images, "encode_rows", None)
        with pytest.raises(TokenizerError, match=said):
            encode_images.encode_slice(encode_images.EncodePlan(finished(tmp_path), 0, 30), encoding_of(config()))
    with pytest.raises(TokenizerError, match=r"expected 50.00% of the codes in use .*, found 1.56%"):
        tokenize_pairs(config(max_equal_rows=1.0, min_code_usage=0.5), beam_options())
    tokenize_pairs(config(max_equal_rows=1.0), beam_options())
    found = quality(tmp_path / "out")
    assert {one.equal_rows for one in [*found.slices, *found.shards.values()]} == {1.0}
    assert {one.code_usage for one in found.slices} == {round(1 / 64, 4)}


def finished(directory: Path) -> int:
    (fragment,) = (directory / "out/encoded").glob("*.arrow")
    return int(fragment.stem.rpartition("-")[2])


def encoding_of(config) -> encode_images.Encoding:
    metadata: Any = None
    return encode_images.Encoding(
        config.source, config.image_tokenizer, config.text_tokenizer, metadata, 3, 0, config.output,
        quality=config.quality,
    )  # fmt: skip


def test_what_another_precision_changes_is_kept(make, tmp_path, beam_options):
    tokenize_pairs(make(tmp_path).model_copy(update={"execution": BFLOAT16}), beam_options())
    precision = quality(tmp_path).precision
    assert precision is not None
    assert 0 < precision.differing_tokens < precision.differing_rows < 1
    tokenize_pairs(make(tmp_path / "blind", sample=0).model_copy(update={"execution": BFLOAT16}), beam_options())
    assert quality(tmp_path / "blind").precision == precision


def test_pictures_that_are_not_plain_are_not_compared(tmp_path, make_tar, make_tokenize_config, beam_options):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) * 40).save(buffer, "PNG")
    path = make_tar("deep.tar", [("a.png", buffer.getvalue()), ("a.txt", b"a deep grey ramp")])
    source = WebDatasetSource(kind="webdataset", path=path)
    filter_pairs(FilterConfig(output=f"{tmp_path}/pairs", source=source), beam_options())
    config = make_tokenize_config(tmp_path / "out", source=f"{tmp_path}/pairs", quality={"min_psnr_db": 90.0})
    tokenize_pairs(config, beam_options())
    found = quality(tmp_path / "out")
    assert found.slices[0].psnr_db is None
    assert found.sample == []


def test_without_a_sample_nothing_is_decoded(make, tmp_path, beam_options, monkeypatch):
    monkeypatch.setattr(ImageTokenizer, "decode", None)
    tokenize_pairs(make(tmp_path, sample=0, min_psnr_db=90.0), beam_options())
    assert {one.psnr_db for one in quality(tmp_path).slices} == {None}


def test_a_fragment_without_its_measures_is_refused(tokens, tmp_path):
    shard = f"{tokens}/{read_manifest(tokens).shards[0].name}"
    path = str(tmp_path / "slice.arrow")
    write_fragment(path, [], read_metadata(shard)[0], "")
    with pytest.raises(
        ShardError, match=r"expected what was measured of it, found Invalid JSON.*; remove it to make it"
    ):
        read_quality(path)
    with pytest.raises(ShardError, match=r"parquet: expected a fragment, found .*; remove it and run the same command"):
        read_quality(shard)


def test_measures_survive_the_note(tokens):
    stated = json.loads(Path(f"{tokens}/manifest.json").read_text())["details"]["quality"]
    for one in stated["slices"]:
        assert SliceQuality.model_validate(one).model_dump(exclude={"sample", "precision"}) == one
