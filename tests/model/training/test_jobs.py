"""The training jobs on tiny data, from a filter directory to sampled and judged pictures."""

import json
import re
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from model.evaluation.evaluate import EvaluateConfig, evaluate
from model.priors.prior_file import load_prior
from model.sampling import sample as sample_module
from model.sampling.generate import generate
from model.sampling.sample import SampleConfig, sample
from model.tokenizers import Reading, load_tokenizer, open_network, save_tokenizer
from model.training.ranks import Ranks
from model.training.reconstructions import measure_tokenizer
from model.training.row_job import cut_text, tell_skipped
from model.training.schedule import PriorRunning, Schedule
from model.training.token_batches import as_tensors
from model.training.train_contrastive import TrainContrastiveConfig, train_contrastive
from model.training.train_prior import TrainPriorConfig, train_prior
from model.training.train_text import TrainTextConfig, train_text
from model.training.train_text_encoder import TrainTextEncoderConfig, train_text_encoder
from model.training.train_tokenizer import CodebookCare, TrainTokenizerConfig, train_tokenizer
from model.upsamplers import WDSR, WDSRShape, load_upsampler, save_upsampler
from parti_data import TokenDataset
from parti_data.caption_ids import TextReading
from parti_data.errors import ConfigError, ShardError, TokenizerError
from parti_data.ledger import PairDirectory
from parti_data.storage import sha256_file
from parti_data.text import TextTokenizer, train_sentencepiece
from parti_data.token_directory import open_token_directory
from parti_data.token_rows import ShardReading

TINY_TOKENIZER = {
    "image_side": 32, "patch_side": 8, "codebook_size": 64, "code_width": 8, "positions": "rotary",
    "encoder": {"num_layers": 1, "num_heads": 2, "width": 32, "hidden": 64},
    "decoder": {"num_layers": 1, "num_heads": 2, "width": 32, "hidden": 64},
}  # fmt: skip
TINY_PRIOR = {
    "width": 32, "hidden": 64, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "max_text_length": 32,
}  # fmt: skip
TINY_TEXT = {name: size for name, size in TINY_PRIOR.items() if name != "num_decoder_layers"}
SHORT = Schedule(num_steps=30, lr=3e-3, warmup_steps=5, checkpoint_every=10, log_every=5)


@pytest.fixture(scope="module")
def prior_file(tmp_path_factory, tokens):
    output = tmp_path_factory.mktemp("prior")
    config = TrainPriorConfig(
        output=str(output), source=tokens, architecture=TINY_PRIOR, schedule=SHORT, batch_size=8, held_out=tokens
    )
    train_prior(config)
    return str(output / "prior.safetensors")


def metrics(directory) -> list[dict]:
    return [json.loads(line) for line in Path(directory, "metrics.jsonl").read_text().splitlines()]


def tokenizer_config(output, source) -> TrainTokenizerConfig:
    care = CodebookCare(continuous_steps=5, restart_every=5)
    return TrainTokenizerConfig(
        output=str(output), source=source, architecture=TINY_TOKENIZER, codebook=care, schedule=SHORT, batch_size=8
    )


def test_a_tokenizer_learns_and_is_written_with_what_it_measured(tmp_path, filtered):
    manifest = train_tokenizer(tokenizer_config(tmp_path, filtered))
    losses = [line["l2"] for line in metrics(tmp_path) if "l2" in line]
    assert losses[-1] < 0.7 * losses[0]
    assert load_tokenizer(str(tmp_path / "tokenizer.safetensors")).fingerprint == manifest.details["fingerprint"]
    assert 0 < manifest.details["code_usage"] <= 1
    with Image.open(tmp_path / "reconstructions.png") as drawn:
        assert drawn.size == (12 * 32, 2 * 32)


def test_a_tokenizers_run_that_was_cut_ends_with_the_same_bytes(tmp_path, filtered, monkeypatch):
    train_tokenizer(tokenizer_config(tmp_path / "whole", filtered))
    from model.tokenizers.vit_vqgan import ViTVQGAN

    whole, calls = ViTVQGAN.forward, []

    def cut(self, *arguments, **named):
        calls.append(1)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return whole(self, *arguments, **named)

    monkeypatch.setattr(ViTVQGAN, "forward", cut)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(tokenizer_config(tmp_path / "parts", filtered))
    train_tokenizer(tokenizer_config(tmp_path / "parts", filtered))
    name = "tokenizer.safetensors"
    assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_psnr_is_that_of_the_mean_squared_error(image_file):
    tokenizer = load_tokenizer(image_file)
    pictures = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    decoded = tokenizer.decode(tokenizer.encode(pictures)).numpy().astype(np.float64)
    wanted = 10 * np.log10(255**2 / ((decoded - pictures) ** 2).mean())
    measured = measure_tokenizer(tokenizer, pictures)
    assert measured["psnr_db"] == pytest.approx(wanted, abs=2e-3)
    assert measured["code_usage"] == pytest.approx(len(np.unique(tokenizer.encode(pictures))) / 64, abs=1e-4)


def test_a_prior_learns_from_shards(prior_file):
    lines = metrics(Path(prior_file).parent)
    losses = [line["total"] for line in lines if "total" in line]
    assert losses[-1] < losses[0]
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert len(held_out) == 3
    assert held_out[-1] < held_out[0]


def test_a_dalle_learns_text_and_image_from_shards(tmp_path, tokens, text_file):
    values = {
        "output": str(tmp_path), "family": "dalle", "source": tokens, "held_out": tokens, "batch_size": 8,
        "text": {"tokenizer": text_file, "bpe_dropout": 0.1}, "schedule": SHORT.model_dump(), "ema_decay": 0.9,
        "architecture": {"width": 32, "hidden": 64, "num_heads": 2, "num_layers": 2, "max_text_length": 16},
    }  # fmt: skip
    train_prior(TrainPriorConfig.model_validate(values))
    lines = [line for line in metrics(tmp_path) if "total" in line]
    for name in ("text", "image"):
        assert lines[-1][name] < lines[0][name]
    for line in lines:
        assert line["total"] == pytest.approx(line["text"] / 8 + 7 * line["image"] / 8, rel=1e-5)
    held_out = [line["held_out_loss"] for line in metrics(tmp_path) if "held_out_loss" in line]
    assert held_out[-1] < held_out[0]


def test_an_output_directory_of_another_config_is_refused(tmp_path, filtered):
    config = tokenizer_config(tmp_path, filtered)
    train_tokenizer(config)
    with pytest.raises(ShardError, match="batch_size: begun with 8, now 9"):
        train_tokenizer(config.model_copy(update={"batch_size": 9}))


def test_text_training_is_the_same_bytes_twice_and_knows_the_captions(tmp_path, filtered):
    for name in ("a", "b"):
        train_text(TrainTextConfig(output=str(tmp_path / name), source=filtered, vocabulary_size=100))
    assert (tmp_path / "a" / "text.model").read_bytes() == (tmp_path / "b" / "text.model").read_bytes()
    tokenizer = TextTokenizer(str(tmp_path / "a" / "text.model"))
    assert tokenizer.decode(tokenizer.encode("a small red ring")[:-1]) == "a small red ring"


def test_text_may_be_trained_to_be_read_in_lower_case(tmp_path, filtered):
    config = TrainTextConfig(output=str(tmp_path), source=filtered, vocabulary_size=100, lower_case=True)
    train_text(config)
    tokenizer = TextTokenizer(str(tmp_path / "text.model"))
    assert tokenizer.encode("A small RED ring") == tokenizer.encode("a small red ring")
    with pytest.raises(ShardError, match="lower_case: begun with True, now False"):
        train_text(config.model_copy(update={"lower_case": False}))


def test_too_large_a_vocabulary_is_refused(tmp_path, filtered):
    config = TrainTextConfig(output=str(tmp_path), source=filtered, vocabulary_size=16_000)
    with pytest.raises(TokenizerError, match=r"expected enough text for 16000 pieces, found .*; lower vocabulary_size"):
        train_text(config)


def test_a_vocabulary_of_special_pieces_alone_is_refused():
    with pytest.raises(ValidationError, match="vocabulary_size\n  Input should be greater than 3"):
        TrainTextConfig(output="", source="", vocabulary_size=3)


def sample_config(output, prior_file, image_file, text_file, **named) -> SampleConfig:
    return SampleConfig(
        output=str(output),
        prior=prior_file,
        image_tokenizer=image_file,
        text_tokenizer=text_file,
        samples_per_prompt=2,
        **named,
    )


def test_samples_are_written_with_their_tokens_and_judged(tmp_path, prior_file, image_file, text_file):
    scene = "a small red ring on a black background"
    table = f'Prompt\tCategory\tChallenge\n{scene}\tscenes\tBasic\n"quoted" wombat\tother\n'
    (tmp_path / "prompts.tsv").write_text(table)
    config = sample_config(
        tmp_path / "samples", prior_file, image_file, text_file, prompts_file=str(tmp_path / "prompts.tsv")
    )
    sample(config)
    rows = pq.read_table(tmp_path / "samples" / "samples.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == [scene] * 2 + ['"quoted" wombat'] * 2
    assert [(row["category"], row["challenge"]) for row in rows[1:3]] == [("scenes", "Basic"), ("other", "")]
    metadata = pq.read_schema(tmp_path / "samples" / "samples.parquet").metadata
    assert json.loads(metadata[b"parti"])["inputs"]["image_tokenizer"] == load_tokenizer(image_file).fingerprint
    for row in rows:
        with Image.open(tmp_path / "samples" / row["picture"]) as opened:
            picture = np.asarray(opened)
        decoded = load_tokenizer(image_file).decode(torch.tensor([row["image_tokens"]])).numpy()[0]
        assert np.array_equal(picture, decoded)
    config = EvaluateConfig(output=str(tmp_path / "evaluation"), samples=str(tmp_path / "samples"), scenes=True)
    manifest = evaluate(config)
    assert manifest.counts == {"judged": 2, "not_judged": 2}
    assert manifest.details["accuracy"].keys() == {"scenes"}


def test_samples_are_written_larger_too_by_an_upsampler_of_their_tokenizer(tmp_path, prior_file, image_file, text_file):
    network, path = WDSR(WDSRShape(2, num_blocks=1, width=4)), str(tmp_path / "upsampler.safetensors")
    fingerprint = load_tokenizer(image_file).fingerprint
    save_upsampler(network, fingerprint, path)
    values = {"prompts": ["a ring"], "upsampler": path}
    manifest = sample(sample_config(tmp_path / "s", prior_file, image_file, text_file, **values))
    assert manifest.inputs["upsampler"] == sha256_file(path)
    for copy in range(2):
        with Image.open(tmp_path / "s" / f"sample-00000-{copy:03d}.png") as small:
            wanted = load_upsampler(path).enlarge(np.asarray(small)[None])[0]
        with Image.open(tmp_path / "s" / f"sample-00000-{copy:03d}-large.png") as large:
            assert np.array_equal(np.asarray(large), wanted)
    assert "sample-00000-001-large.png" in [shard.name for shard in manifest.shards]
    save_upsampler(network, "cd" * 32, path)
    with pytest.raises(TokenizerError, match=f"expected an upsampler of the image tokenizer {fingerprint[:12]}, found"):
        sample(sample_config(tmp_path / "other", prior_file, image_file, text_file, **values))


def test_two_runs_sample_the_same_bytes_whatever_the_batch(tmp_path, prior_file, image_file, text_file):
    prompts = ["a small red ring", "a large blue star", "a ring"]
    for name, batch_size in (("a", 64), ("b", 2)):
        sample(
            sample_config(tmp_path / name, prior_file, image_file, text_file, prompts=prompts, batch_size=batch_size)
        )
    first, second = (pq.read_table(tmp_path / name / "samples.parquet").to_pylist() for name in ("a", "b"))
    assert first == second


def test_a_prior_refuses_a_tokenizer_that_it_was_not_trained_with(tmp_path, prior_file, make_image_file, text_file):
    other = make_image_file(tmp_path / "other.safetensors", 7)
    with pytest.raises(TokenizerError, match=r"expected the image tokenizer .* was trained with, found"):
        sample(sample_config(tmp_path / "s", prior_file, other, text_file, prompts=["x"]))


def test_a_prior_refuses_another_text_tokenizer(tmp_path, prior_file, image_file, text_file, filtered):
    train_text(TrainTextConfig(output=str(tmp_path / "text"), source=filtered, vocabulary_size=90))
    other = str(tmp_path / "text" / "text.model")
    with pytest.raises(TokenizerError, match=r"expected the text tokenizer .* was trained with, found"):
        sample(sample_config(tmp_path / "s", prior_file, image_file, other, prompts=["x"]))


def test_a_stopped_run_goes_on_behind_its_last_batch_to_the_same_bytes(
    tmp_path, prior_file, image_file, text_file, contents, monkeypatch
):
    prompts = ["a small red ring", "a large blue star", "a ring"]
    named = {"prompts": prompts, "batch_size": 2}
    sample(sample_config(tmp_path / "whole", prior_file, image_file, text_file, **named))
    drawn = []

    def stop_at_the_third(*arguments):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(generate(*arguments))
        return drawn[-1]

    config = sample_config(tmp_path / "stopped", prior_file, image_file, text_file, **named)
    monkeypatch.setattr(sample_module, "generate", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        sample(config)
    drawn.pop()
    sample(config)
    assert len(drawn) == 2
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert not [name for name in contents(tmp_path / "whole") if "part" in name]


def test_a_run_does_not_go_on_with_another_decoder_of_the_same_tokens(tmp_path, prior_file, image_file, text_file):
    config = sample_config(tmp_path / "s", prior_file, image_file, text_file, prompts=["a ring"])
    sample(config)
    network = open_network(image_file, Reading())
    with torch.no_grad():
        next(network.decoder.parameters()).mul_(2)  # type: ignore[union-attr]
    save_tokenizer(network, str(tmp_path / "other.safetensors"))  # type: ignore[arg-type]
    other = config.model_copy(update={"image_tokenizer": str(tmp_path / "other.safetensors")})
    with pytest.raises(ShardError, match="image_tokenizer_files"):
        sample(other)


@pytest.mark.parametrize("lost", ["grid.png", "manifest.json"])
def test_a_run_that_was_stopped_behind_its_table_draws_nothing_again(
    tmp_path, prior_file, image_file, text_file, contents, monkeypatch, lost
):
    config = sample_config(tmp_path / "s", prior_file, image_file, text_file, prompts=["a ring"])
    sample(config)
    whole = contents(tmp_path / "s")
    (tmp_path / "s" / "manifest.json").unlink()
    (tmp_path / "s" / lost).unlink(missing_ok=True)
    monkeypatch.setattr(sample_module, "generate", None)
    sample(config)
    assert contents(tmp_path / "s") == whole


def test_a_run_with_ids_of_a_text_tokenizer_is_not_that_of_another(tokens, text_file, filtered, tmp_path):
    named = tmp_path / "text.model"
    shutil.copy(text_file, named)
    config = TrainPriorConfig(
        output=f"{tmp_path}/prior", source=tokens, architecture=TINY_PRIOR, batch_size=8,
        schedule=SHORT.model_copy(update={"num_steps": 1}), text=TextReading(tokenizer=str(named)),
    )  # fmt: skip
    finished = train_prior(config)
    assert train_prior(config) == finished
    captions = (caption[::-1] for row in PairDirectory(filtered).kept() for caption in row.captions)
    named.write_bytes(train_sentencepiece(captions, 128, 0))
    with pytest.raises(ShardError, match="text_tokenizer"):
        train_prior(config)


@pytest.mark.parametrize("config", [TrainTextConfig, partial(TrainPriorConfig, schedule=SHORT)])
def test_a_seed_below_zero_is_refused(config):
    with pytest.raises(ValidationError, match="seed\n  Input should be greater than or equal to 0"):
        config(source="", output="x", seed=-1)


def test_a_row_that_is_told_from_no_other_is_refused():
    with pytest.raises(ValidationError, match="batch_size\n  Input should be greater than or equal to 2"):
        TrainContrastiveConfig(output="", source="", schedule=SHORT, batch_size=1)


def test_a_finished_job_does_nothing_twice(tmp_path, filtered):
    config = tokenizer_config(tmp_path / "t", filtered)
    first = train_tokenizer(config)
    stamp = (tmp_path / "t" / "tokenizer.safetensors").stat().st_mtime_ns
    assert train_tokenizer(config) == first
    assert (tmp_path / "t" / "tokenizer.safetensors").stat().st_mtime_ns == stamp
    shutil.rmtree(tmp_path / "t")


def test_a_prior_learns_from_a_mixture_with_captions_tokenized_again(tokens, text_file, tmp_path):
    values = {
        "output": f"{tmp_path}/mixed", "source": {tokens: 2, f"{tokens}/": 1}, "held_out": tokens, "batch_size": 8,
        "text": {"tokenizer": text_file, "bpe_dropout": 0.1, "caption_weights": [2, 1], "length": 16},
        "architecture": TINY_PRIOR | {"max_text_length": 16}, "schedule": SHORT.model_dump(),
    }  # fmt: skip
    manifest = train_prior(TrainPriorConfig.model_validate(values))
    assert manifest.details["metadata"]["text_vocabulary_size"] == 128
    assert manifest.counts["rows"] == 2 * TokenDataset(tokens, 8).num_rows


@pytest.mark.parametrize(
    ("world_size", "parts", "shares"),
    [(1, 3, "1 ranks times 3 batch_parts"), (3, 1, "3 ranks"), (2, 8, "2 ranks times 8 batch_parts")],
)
def test_a_batch_that_ranks_and_parts_cannot_share_is_refused(tokens, tmp_path, monkeypatch, world_size, parts, shares):
    monkeypatch.setattr("model.training.train_prior.join_ranks", lambda device: nullcontext(Ranks(0, world_size)))
    config = TrainPriorConfig(
        output=f"{tmp_path}/prior", source=tokens, schedule=SHORT, batch_size=8, batch_parts=parts
    )  # fmt: skip
    found = f"batch_size: expected a multiple of {shares}, found 8; change one"
    with pytest.raises(ConfigError, match=found):
        train_prior(config)
    assert not (tmp_path / "prior").exists()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch looks at it, and hides the warning if it is one
@pytest.mark.parametrize("recompute_blocks", [False, True])
def test_compiled_blocks_learn_the_same_from_few_graphs(tokens, tmp_path, monkeypatch, recompute_blocks):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    schedule = SHORT.model_copy(update={"num_steps": 3, "log_every": 1, "precision": "float32"})
    losses = []
    for is_compiled in (False, True):
        config = TrainPriorConfig(
            output=f"{tmp_path}/{is_compiled}", source=tokens, batch_size=8, batch_parts=2, schedule=schedule,
            architecture=TINY_PRIOR | {"num_decoder_layers": 2, "dropout": 0.2},
            running=PriorRunning(compile=is_compiled), recompute_blocks=recompute_blocks,
        )  # fmt: skip
        train_prior(config)
        losses.append([line["total"] for line in metrics(config.output) if "total" in line])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    counters = torch._dynamo.utils.counters
    assert 0 < counters["stats"]["unique_graphs"] <= 6  # of 18 calls of 3 blocks, as lengths of text differ
    assert not counters["graph_break"]


def test_the_held_out_loss_is_the_mean_over_all_rows_whatever_the_batch(tokens, tmp_path):
    lasts = []
    for held_out_parts in (1, 4):
        output = tmp_path / str(held_out_parts)
        schedule = SHORT.model_copy(update={"num_steps": 1, "precision": "float32"})
        config = TrainPriorConfig(
            output=str(output), source=tokens, held_out=tokens, architecture=TINY_PRIOR, schedule=schedule,
            batch_size=32, batch_parts=held_out_parts,
        )  # fmt: skip
        train_prior(config)
        lasts.append(metrics(output)[-1]["held_out_loss"])
    network = load_prior(str(output / "prior.safetensors")).model
    dataset = TokenDataset(tokens, 1, text=TextReading(length=32))
    rows = [as_tensors(batch, network) for batch in dataset.epoch(0)]
    assert len(rows) % 32
    losses = [float(network.losses(row.condition.long(), row.image_tokens.long())["total"]) for row in rows]
    assert lasts == pytest.approx([np.mean(losses)] * 2, abs=1e-4)


TORN = "tokens-00001-of-00003.parquet"


@pytest.fixture
def torn(tokens, tmp_path) -> str:
    """Token shards of which one is cut."""
    shutil.copytree(tokens, tmp_path / "torn")
    path = tmp_path / "torn" / TORN
    path.write_bytes(path.read_bytes()[:-100])
    return f"{tmp_path}/torn"


@pytest.mark.parametrize(
    ("job", "config", "architecture"),
    [
        (train_prior, TrainPriorConfig, TINY_PRIOR),
        (train_text_encoder, TrainTextEncoderConfig, TINY_TEXT),
        (train_contrastive, TrainContrastiveConfig, TINY_TEXT | {"num_image_layers": 1}),
    ],
)
def test_shards_that_are_skipped_are_told(torn, tokens, tmp_path, capsys, job, config, architecture):
    values = {"architecture": architecture, "schedule": SHORT.model_copy(update={"num_steps": 10}), "batch_size": 32}
    values |= {"reading": ShardReading(on_bad_shard="skip")}
    manifest = job(config(output=f"{tmp_path}/skipping", source=torn, **values))
    found = manifest.details["skipped"]
    assert found == {"rows": found["rows"], "shards": [f"{torn}/{TORN}"]}
    assert 0 < found["rows"] < 10 * 32
    line = f"{found['rows']} rows of batches lie in shards that could not be read, .* took their places: {torn}/{TORN};"
    assert re.search(rf"train \w+( encoder)?: {line} run parti verify", capsys.readouterr().err)
    assert "skipped" not in job(config(output=f"{tmp_path}/whole", source=tokens, **values)).details
    with pytest.raises(ShardError, match=f"{TORN}: expected "):
        job(config(output=f"{tmp_path}/measured", source=tokens, held_out=torn, **values))


def test_shards_that_any_rank_skipped_are_told_once_by_the_first(tokens, capsys):
    class Two(Ranks):
        def gather(self, value):
            return [value, (3, [f"{letter}.parquet" for letter in "febcad"])]

    dataset = TokenDataset(tokens, 8)
    told = {"skipped": {"rows": 3, "shards": [f"{letter}.parquet" for letter in "abcdef"]}}
    assert [tell_skipped(dataset, "train prior", Two(rank, 2)) for rank in (0, 1)] == [told] * 2
    shown = "a.parquet, b.parquet, c.parquet, d.parquet and 2 more; run parti verify on what it reads\n"
    assert capsys.readouterr().err.count(shown) == 1


def test_held_out_tokens_of_another_tokenizer_are_refused(tokens, tmp_path):
    shutil.copytree(tokens, tmp_path / "other")
    manifest = tmp_path / "other" / "manifest.json"
    fingerprint = open_token_directory(tokens).metadata.image_tokenizer
    manifest.write_text(manifest.read_text().replace(fingerprint, "ef" * 32))
    config = TrainPriorConfig(
        output=f"{tmp_path}/prior", source=tokens, held_out=f"{tmp_path}/other", architecture=TINY_PRIOR, schedule=SHORT
    )
    with pytest.raises(ShardError, match=r"other: expected image_tokenizer \w+ like .*, found efefefefefef;"):
        train_prior(config)


@pytest.mark.parametrize(
    ("job", "config"), [(train_prior, TrainPriorConfig), (train_text_encoder, TrainTextEncoderConfig)]
)
def test_captions_cut_below_what_a_network_reads_are_refused(tokens, tmp_path, job, config):
    found = "text.length: expected at least architecture.max_text_length = 32, found 31: the positions beyond"
    with pytest.raises(ConfigError, match=found):
        job(config(
            output=f"{tmp_path}/out", source=tokens, schedule=SHORT, architecture={"max_text_length": 32},
            text=TextReading(length=31),
        ))  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_captions_are_read_as_far_as_a_network_reads(tokens):
    config = TrainPriorConfig(output="x", source=tokens, schedule=SHORT)
    assert cut_text(config, 256).length == 256
    assert cut_text(config, None).length == 128
