import re

import pytest
import torch

from model.tokenizers import RECORD, Execution, ImageTokenizer, load_tokenizer
from model.tokenizers.vit_vqgan import ViTVQGAN
from parti_data.errors import SourceError
from parti_data.image_dataset import ImageDataset
from parti_data.ledger import PairDirectory
from parti_data.quality import psnr_db
from parti_data.sources import SyntheticSource
from pipelines.command_line import main
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.probe_tokenizer import Probe, WayProbe, probe_lines, probe_tokenizer

BFLOAT16 = Execution(precision="bfloat16")


def way(execution: Execution, tokens: list[list[int]], images_per_s: float) -> WayProbe:
    return WayProbe(execution, torch.tensor(tokens), images_per_s, 21.25, 0.5)


def test_the_record_does_not_differ_from_itself(make_tokenize_config, tmp_path):
    probe = probe_tokenizer(make_tokenize_config(tmp_path), 1000)
    assert (probe.pairs, probe.all_pairs) == (64, 72)  # whole slices of 16
    assert probe.differences.differing_tokens == 0
    assert not list(tmp_path.iterdir())


def test_both_ways_encode_the_pairs_that_lie_evenly_over_all(make_tokenize_config, tmp_path, filtered, image_file):
    config = make_tokenize_config(tmp_path).model_copy(update={"execution": BFLOAT16})
    probe = probe_tokenizer(config, 32)
    pictures = ImageDataset(filtered, 32, 1).pictures([*range(16), *range(56, 72)])  # pyright: ignore[reportArgumentType]
    tokenizer = load_tokenizer(image_file)
    assert (probe.record.tokens == tokenizer.encode(pictures)).all()
    assert probe.record.code_usage == len(probe.record.tokens.unique()) / 64
    assert (probe.chosen.execution, probe.record.execution) == (BFLOAT16, RECORD)
    assert 0 < probe.differences.differing_tokens < probe.differences.differing_rows


def test_what_was_found_is_said_in_seven_lines():
    chosen, record = way(BFLOAT16, [[1, 2], [3, 4]], 12.3), way(RECORD, [[1, 2], [3, 5]], 6.1)
    assert probe_lines(Probe(2, 1, 1234, chosen, record)) == [
        "probe of 2 pairs in 1 places, of 1,234",
        "                chosen                       record",
        "  encoder       bfloat16, torch on cpu       float32, torch on cpu",
        "  images/s      12.3                         6.1",
        "  PSNR          21.25 dB                     21.25 dB",
        "  codes in use  50.0 %                       50.0 %",
        "  differing     25.0 % of the tokens, in 50.0 % of the pictures",
    ]


def test_a_tokenizer_without_a_decoder_is_probed_too(make_tokenize_config, tmp_path, monkeypatch):
    monkeypatch.setattr(ViTVQGAN, "has_decoder", False)
    monkeypatch.setattr(ImageTokenizer, "decode", None)
    probe = probe_tokenizer(make_tokenize_config(tmp_path), 16)
    assert (probe.chosen.psnr_db, probe.differences.differing_tokens) == (None, 0)
    assert probe_lines(probe)[4] == "  PSNR          no decoder                   no decoder"


def test_views_are_counted_and_encoded_a_slice_at_a_time(make_tokenize_config, tmp_path, monkeypatch):
    encoded, encode = [], ImageTokenizer.encode

    def watched(self, images):
        encoded.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(ImageTokenizer, "encode", watched)
    probe = probe_tokenizer(make_tokenize_config(tmp_path, views={"kind": "ten_crop"}), 60)
    assert (probe.pairs, probe.places, len(probe.record.tokens)) == (6, 6, 60)
    assert max(encoded) == 10


def test_the_psnr_is_that_of_all_pictures_together(make_tokenize_config, tmp_path, filtered, image_file):
    probe = probe_tokenizer(make_tokenize_config(tmp_path), 32)
    pictures = ImageDataset(filtered, 32, 1).pictures([*range(16), *range(56, 72)])  # pyright: ignore[reportArgumentType]
    decoded = load_tokenizer(image_file).decode(probe.record.tokens).numpy()
    assert probe.record.psnr_db == psnr_db(pictures, decoded)


def test_the_command_probes_and_writes_nothing(filtered, image_file, text_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [f"source={filtered}", f"image_tokenizer={image_file}", f"text_tokenizer={text_file}"]
    with pytest.raises(SystemExit) as end:
        main(["tokenize", "--probe", "--pairs", "20", *files, "execution.precision=bfloat16"])
    lines = capsys.readouterr().out.splitlines()
    assert not end.value.code
    assert lines[0] == f"probe of 16 pairs in 1 places, of {len(PairDirectory(filtered))}"
    assert re.fullmatch(r"  differing     [\d.]+ % of the tokens, in [\d.]+ % of the pictures", lines[-1])
    assert not list(tmp_path.iterdir())


def test_options_of_beam_are_refused_for_a_probe(capsys):
    with pytest.raises(SystemExit) as end:
        main(["tokenize", "--probe", "--", "--runner=DataflowRunner"])
    assert end.value.code == 2
    assert "--runner=DataflowRunner: expected no options after --" in capsys.readouterr().err


def test_nothing_kept_is_refused(make_tokenize_config, tmp_path, beam_options):
    source = SyntheticSource(num_pairs=1, side_px=32, spoil_every=1)
    filter_pairs(FilterConfig(output=f"{tmp_path}/pairs", source=source, max_dropped_fraction=1.0), beam_options())
    with pytest.raises(SourceError, match="expected kept pairs, found none; see its ledger for the reasons"):
        probe_tokenizer(make_tokenize_config(tmp_path / "out", source=f"{tmp_path}/pairs"), 4)
