import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from model.evaluation import probe_features
from model.evaluation.probe import figure_lines, probe
from model.evaluation.probe_config import ProbeConfig
from model.evaluation.probe_features import block_features, no_condition, pixel_features, untrained
from model.priors.parti import Parti, PartiShape
from model.priors.prior_file import load_prior, save_prior
from model.priors.vim import VIM, VIMShape
from model.tokenizers import load_tokenizer
from parti_data.errors import ConfigError, ShardError, TokenizerError
from parti_data.manifest import Beginning, StageDirectory, begin, record_shard
from parti_data.token_directory import open_token_directory
from parti_data.token_shard import TokenRow, to_table, write_token_shard

CPU = torch.device("cpu")
SMALL = {"width": 32, "hidden": 64, "num_heads": 2, "num_layers": 2, "dropout": 0.0}
NAMES = {"bird": 0, "cat": 20, "dog": 40}
"""Classes, and the first of the codes that their images have."""


@pytest.fixture(scope="module")
def metadata(tokens):
    return open_token_directory(tokens).metadata


@pytest.fixture(scope="module")
def prior_file(tmp_path_factory, metadata) -> str:
    """An untrained VIM of the shared token shards."""
    path = str(tmp_path_factory.mktemp("prior") / "prior.safetensors")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_prior(VIM(VIMShape(codebook_size=64, grid_side=4, **SMALL)), metadata, path)
    return path


@pytest.fixture(scope="module")
def make_tokens(tmp_path_factory, metadata):
    """Write token shards of rows (key, captions, tokens); their path."""

    def make(rows: list[tuple[str, list[str], np.ndarray]]) -> str:
        path = tmp_path_factory.mktemp("tokens")
        details = {"metadata": metadata.model_dump(), "row_group_rows": 4096}
        begun = begin(str(path), Beginning(stage="tokenize", config={}, inputs={}))
        assert isinstance(begun, StageDirectory)
        table = to_table(
            [
                TokenRow(key, 0, [0, 0, 1, 1], False, captions, [[1]] * len(captions), image_tokens, "s", key)
                for key, captions, image_tokens in rows
            ],
            metadata,
        )
        write_token_shard(str(path / "tokens-00000-of-00001.parquet"), table, metadata)
        begun.finish([record_shard(str(path), "tokens-00000-of-00001.parquet", len(rows))], {}, details)
        return str(path)

    return make


def labelled(seed: int, count: int, shuffled: bool = False) -> list[tuple[str, list[str], np.ndarray]]:
    """Rows of three classes, each with codes of its own, or with those of any class."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        name = str(rng.choice(list(NAMES)))
        first = NAMES[str(rng.choice(list(NAMES))) if shuffled else name]
        rows.append((rng.bytes(16).hex(), [f"a {name} outside"], rng.integers(first, first + 20, 16)))
    return rows


@pytest.fixture(scope="module")
def classes(make_tokens) -> str:
    return make_tokens(labelled(0, 300))


def config(tmp_path, prior_file: str, tokens: str, **values) -> ProbeConfig:
    told = {"prior": prior_file, "tokens": tokens, "output": str(tmp_path / "probe"), "device": "cpu"}
    return ProbeConfig.model_validate(told | {"validation": 0.2, "test": 0.3, "penalties": [1.0, 0.01]} | values)


def test_classes_that_codes_tell_are_told(prior_file, classes, tmp_path):
    manifest = probe(config(tmp_path, prior_file, classes, label_pattern="a (.*) outside"))
    figures, counts = manifest.details["figures"], manifest.counts
    assert figures["probe_prior_accuracy"] > 0.95
    assert figures["probe_random_network_accuracy"] > 0.95
    assert figures["probe_tokens_accuracy"] > 0.98
    assert "probe_tokens_block" not in figures
    assert figures["probe_prior_accuracy_low"] < figures["probe_prior_accuracy"]
    assert (counts["classes"], counts["unlabelled_rows"]) == (3, 0)
    assert counts["training_rows"] + counts["validation_rows"] + counts["test_rows"] == 300
    assert 45 < counts["validation_rows"] < 75
    assert 70 < counts["test_rows"] < 110
    assert [shard.name for shard in manifest.shards] == ["probe.svg", "probe_validation.parquet"]
    table = pq.read_table(tmp_path / "probe" / "probe_validation.parquet").to_pylist()
    assert [(row["features"], row["block"]) for row in table] == [
        ("prior", 0), ("prior", 1), ("prior", 2), ("random network", 0), ("random network", 1), ("random network", 2),
    ]  # fmt: skip
    (panel,) = manifest.details["curves"]["probe"]["panels"]
    assert [line["points"] for line in panel["lines"]] == [
        [[row["block"], round(row["validation_accuracy"], 4)] for row in table[start : start + 3]] for start in (0, 3)
    ]
    lines = figure_lines(manifest)
    assert f"probe prior accuracy: {figures['probe_prior_accuracy']:.5g}" in lines
    assert lines[-2].startswith("right, validation, prior: ")
    assert ">block</text>" in (tmp_path / "probe" / "probe.svg").read_text()


def test_classes_that_codes_do_not_tell_are_told_by_chance(prior_file, make_tokens, tmp_path):
    tokens = make_tokens(labelled(1, 600, shuffled=True))
    figures = probe(config(tmp_path, prior_file, tokens)).details["figures"]
    table = pq.read_table(tmp_path / "probe" / "probe_validation.parquet").to_pylist()
    for name in ("prior", "random network"):
        shares = [row["validation_accuracy"] for row in table if row["features"] == name]
        assert figures[f"probe_{name.replace(' ', '_')}_block"] == 1 + shares[1:].index(max(shares[1:]))
    assert figures["probe_prior_accuracy_low"] < 1 / 3 < figures["probe_prior_accuracy_high"]
    assert figures["probe_prior_accuracy"] < 0.45


def test_the_same_inputs_give_the_same_bytes_wherever_they_lie(prior_file, classes, image_file, tmp_path, contents):
    moved = shutil.copytree(classes, tmp_path / "moved")
    options = {"image_tokenizer": image_file, "label_pattern": "a (.*) outside"}
    probe(config(tmp_path / "a", prior_file, classes, **options))
    probe(config(tmp_path / "b", prior_file, str(moved), **options))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert "probe/manifest.json" in contents(tmp_path / "a")


def test_a_block_that_is_named_is_told_and_pixels_are_probed_beside(prior_file, classes, image_file, tmp_path):
    manifest = probe(config(tmp_path, prior_file, classes, block=2, image_tokenizer=image_file, side_px=8))
    figures = manifest.details["figures"]
    assert figures["probe_prior_block"] == 2
    assert figures["probe_pixels_accuracy"] > 0.7
    row = pq.read_table(tmp_path / "probe" / "probe_validation.parquet").to_pylist()[-1]
    assert (row["features"], row["block"]) == ("pixels", None)
    assert manifest.inputs.keys() == {"prior", "tokens", "image_tokenizer_files"}
    reference = manifest.details["curves"]["probe"]["panels"][0]["reference"]
    assert reference == ["pixels", round(row["validation_accuracy"], 4)]


def test_rows_without_a_class_are_left_out_and_counted(prior_file, make_tokens, tmp_path):
    rows = labelled(2, 100)
    extra = [("00" * 16, [], rows[0][2]), ("11" * 16, ["a wombat inside"], rows[0][2])]
    tokens = make_tokens(rows + extra)
    manifest = probe(config(tmp_path, prior_file, tokens, label_pattern="a (.*) outside"))
    assert manifest.counts["unlabelled_rows"] == 2
    counted = sum(manifest.counts[f"{name}_rows"] for name in ("training", "validation", "test"))
    assert counted == 100


def test_views_of_an_image_lie_in_one_part_and_rows_are_bounded(prior_file, make_tokens, tmp_path):
    rows = [row for row in labelled(3, 80) for _ in range(2)]
    manifest = probe(config(tmp_path, prior_file, make_tokens(rows), rows=120))
    counts = manifest.counts
    assert counts["training_rows"] + counts["validation_rows"] + counts["test_rows"] == 120
    assert counts["test_images"] * 2 == counts["test_rows"]


def test_a_share_that_filter_held_out_by_keys_leaves_the_parts_as_large_as_told(prior_file, make_tokens, tmp_path):
    rows = [(key[:24] + "ffffffff", captions, tokens) for key, captions, tokens in labelled(4, 200)]
    counts = probe(config(tmp_path, prior_file, make_tokens(rows))).counts
    assert 40 < counts["test_rows"] < 80


def test_validation_and_test_may_be_directories_of_their_own(prior_file, classes, make_tokens, tmp_path):
    validation, test = make_tokens(labelled(5, 40)), make_tokens(labelled(6, 60))
    manifest = probe(config(tmp_path, prior_file, classes, validation=validation, test=test))
    assert [manifest.counts[f"{name}_rows"] for name in ("training", "validation", "test")] == [300, 40, 60]
    assert manifest.inputs.keys() == {"prior", "tokens", "validation", "test"}
    with pytest.raises(ShardError, match="expected images of which none is in another part of the probe's, found 300;"):
        probe(config(tmp_path / "b", prior_file, classes, validation=validation, test=classes))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label_pattern": "(a (cat|dog))"}, "expected for 'label_pattern' that .*it should have one group, and has 2"),
        ({"label_pattern": "(cat"}, "expected for 'label_pattern' that .*it should be a regular expression"),
        ({"block": "worst"}, "expected for 'block"),
        ({"test": 1.5}, "expected for 'test"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(values, message):
    overrides = [f"{name}={value}" for name, value in ({"prior": "a", "tokens": "b", "output": "c"} | values).items()]
    with pytest.raises(ConfigError, match=message):
        ProbeConfig.load(None, overrides)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"block": 3}, ConfigError, "block: expected 0 to 2, the blocks of .*, or best, found 3; change it"),
        ({"validation": 0.5, "test": 0.5}, ConfigError, "expected shares of less than 1 together, found 1; lower"),
        ({"label_pattern": "(wombat)"}, ShardError, "training: expected rows with a class, found none, and 300 witho"),
        ({"label_pattern": "(outside)"}, ShardError, "expected at least two classes, found 1; mend label_pattern"),
        ({"rows": 12}, ShardError, "expected at least 5 rows of a class to train on, found [0-4] of 'a .*'; raise row"),
    ],
)
def test_what_cannot_be_probed_is_refused(values, error, message, prior_file, classes, tmp_path):
    with pytest.raises(error, match=message):
        probe(config(tmp_path, prior_file, classes, **values))


def test_a_class_that_is_not_trained_on_is_refused(prior_file, classes, make_tokens, tmp_path):
    test = make_tokens([(key, ["a wombat"], tokens) for key, _, tokens in labelled(7, 10)])
    with pytest.raises(
        ShardError, match="rows of a class to train on, found 0 of 'a wombat'; raise rows, or set label"
    ):
        probe(config(tmp_path, prior_file, classes, test=test))


def test_a_prior_whose_decoder_reads_the_caption_is_refused(classes, metadata, tmp_path):
    path = str(tmp_path / "parti.safetensors")
    shape = PartiShape(text_vocabulary_size=metadata.text_vocabulary_size, codebook_size=64, grid_side=4, width=8,
                       hidden=8, num_heads=1, num_encoder_layers=1, num_decoder_layers=1)  # fmt: skip
    save_prior(Parti(shape), metadata, path)
    with pytest.raises(ConfigError, match="expected a prior of one stream, such as vim, found parti, whose decoder"):
        probe(config(tmp_path, path, classes))


def test_tokens_and_tokenizers_of_another_making_are_refused(classes, metadata, make_image_file, tmp_path):
    small, other = str(tmp_path / "small.safetensors"), str(tmp_path / "other.safetensors")
    save_prior(VIM(VIMShape(codebook_size=64, grid_side=2, **SMALL)), metadata, small)
    with pytest.raises(
        ShardError, match="expected 4 tokens an image, as .* has them, found 16; tokenize the images at"
    ):
        probe(config(tmp_path, small, classes))
    model = VIM(VIMShape(codebook_size=64, grid_side=4, **SMALL))
    save_prior(model, metadata.model_copy(update={"image_tokenizer": "ab" * 32}), other)
    with pytest.raises(
        ShardError, match="expected tokens of the image tokenizer abababababab that .*; tokenize the im"
    ):
        probe(config(tmp_path, other, classes))
    save_prior(model, metadata, other)
    image_file = make_image_file(tmp_path / "image.safetensors", 1)
    with pytest.raises(
        TokenizerError, match="expected the image tokenizer .* was trained with, found .*; give the one"
    ):
        probe(config(tmp_path, other, classes, image_tokenizer=image_file))


def test_a_code_beyond_the_codebook_is_refused(prior_file, classes, metadata, tmp_path):
    """The file lies: its metadata tell fewer codes than its rows have, as a stranger's may."""
    wide = metadata.model_copy(update={"codebook_size": 128})
    copy = shutil.copytree(classes, tmp_path / "copy")
    (shard,) = copy.glob("*.parquet")
    rows = [TokenRow("00" * 16, 0, [0, 0, 1, 1], False, ["a"], [[1]], np.full(16, 100), "s", "k")] * 300
    write_token_shard(str(shard), to_table(rows, wide), wide)
    table = pq.read_table(shard)
    told = {b"parti": metadata.model_dump_json().encode()}
    pq.write_table(table.replace_schema_metadata(told), shard)
    with pytest.raises(
        ShardError, match="copy: row 0+: expected image tokens from 0 to 63, found 100; run tokenize in"
    ):
        probe(config(tmp_path, prior_file, str(copy)))


def test_blocks_that_do_not_fit_memory_together_have_the_same_features(prior_file, monkeypatch):
    prior = load_prior(prior_file).model
    rows = {"training": np.arange(96).reshape(6, 16) % 64, "test": np.full((1, 16), 5)}
    at_once = list(block_features(prior, rows, 4, CPU))  # type: ignore[arg-type]
    monkeypatch.setattr(probe_features, "_MOST_BYTES", 2 * 4 * 7 * 32)
    apart = list(block_features(prior, rows, 4, CPU))  # type: ignore[arg-type]
    assert len(at_once) == len(apart) == 3
    for one, other in zip(at_once, apart, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in rows)
    whole = prior.features(torch.zeros(6, 0, dtype=torch.long), torch.from_numpy(rows["training"]))
    torch.testing.assert_close(torch.stack([found["training"] for found in at_once]), whole)


def test_a_prior_of_classes_is_told_none():
    shape = replace(VIMShape(codebook_size=64, grid_side=4, **SMALL), class_conditional=True, classes=("a", "b"))
    assert no_condition(VIM(shape), 2).tolist() == [[2], [2]]


def test_the_untrained_network_is_of_the_seed_alone_and_unlike_the_prior(prior_file):
    prior = load_prior(prior_file).model
    torch.manual_seed(8)
    first = untrained(prior, 0)  # type: ignore[arg-type]
    torch.manual_seed(9)
    assert torch.equal(untrained(prior, 0).to_logits.weight, first.to_logits.weight)  # type: ignore[arg-type]
    assert not torch.equal(prior.to_logits.weight, first.to_logits.weight)
    assert first.shape == prior.shape


def test_pixels_are_those_of_the_decoded_picture_averaged_to_a_side(image_file):
    tokenizer = load_tokenizer(image_file)
    tokens = np.arange(48).reshape(3, 16)
    pictures = tokenizer.decode(tokens).double().numpy() / 255
    whole = pixel_features(tokenizer, tokens, 64, 2)
    np.testing.assert_allclose(whole.numpy(), pictures.transpose(0, 3, 1, 2).reshape(3, -1), atol=1e-6)
    smaller = pixel_features(tokenizer, tokens, 8, 2)
    means = pictures.reshape(3, 8, 4, 8, 4, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(3, -1)
    np.testing.assert_allclose(smaller.numpy(), means, atol=1e-6)
