import importlib.util
import io
import sys
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image

from model.tokenizers import Execution, Reading, load_tokenizer
from parti_data import recipes
from parti_data.errors import ConfigError, EngineError, PartiError, ShardError, SourceError, TokenizerError
from parti_data.image_dataset import ImageDataset
from parti_data.images import ImageLimits, decode
from parti_data.ledger import PairDirectory
from parti_data.manifest import manifest_digest, read_manifest
from parti_data.sources import WebDatasetSource
from parti_data.text import TextTokenizer
from parti_data.token_shard import order_hash, read_metadata, read_row_group, token_matrix
from parti_data.views import Views, make_views
from pipelines.filter import FilterConfig, filter_pairs
from pipelines.gather_tokens import order_rows
from pipelines.tokenize import TokenizeConfig, plan_fragments, tokenize_pairs


def read_rows(directory: str) -> list[dict]:
    paths = [f"{directory}/{shard.name}" for shard in read_manifest(directory).shards]
    tables = [read_row_group(path, group) for path in paths for group in range(len(read_metadata(path)[1]))]
    return pa.concat_tables(tables).to_pylist()


def test_every_kept_pair_is_tokenized_once(filtered, tokens):
    kept = {row.key: row for row in PairDirectory(filtered).kept()}
    rows = read_rows(tokens)
    assert read_manifest(tokens).counts == {"pairs": len(kept), "rows": len(kept)}
    assert sorted(row["key"] for row in rows) == sorted(kept)
    for row in rows:
        pair = kept[row["key"]]
        assert (row["captions"], row["source"], row["source_key"]) == (pair.captions, pair.source, pair.source_key)
        assert (row["view"], row["box"], row["flipped"]) == (0, [0, 0, 32, 32], False)


def test_ids_are_those_of_the_tokenizers(filtered, tokens, image_file, text_file):
    pictures = ImageDataset(filtered, 32, 1)
    expected = load_tokenizer(image_file).encode(pictures.pictures(range(len(pictures)))).numpy()
    by_key = {row.key: ids for row, ids in zip(PairDirectory(filtered).kept(), expected, strict=True)}
    text = TextTokenizer(text_file)
    for row in read_rows(tokens):
        assert row["image_tokens"] == by_key[row["key"]].tolist()
        assert row["text_ids"] == [text.encode(caption) for caption in row["captions"]]
    assert len({tuple(ids) for ids in expected.tolist()}) > 30  # the untrained tokenizer tells pictures apart


def test_rows_are_spread_and_ordered_by_their_hash(tokens):
    shards = read_manifest(tokens).shards
    assert len(shards) == 3
    assert min(shard.rows for shard in shards) > 10
    for number, shard in enumerate(shards):
        keys = read_row_group(f"{tokens}/{shard.name}", 0).column("key").to_pylist()
        hashes = [order_hash(key, 0, 0) for key in keys]
        assert hashes == sorted(hashes)
        assert {place % 3 for place in hashes} == {number}


def test_a_shard_says_what_made_it(tokens, filtered, image_file, text_file):
    image_tokenizer, text_tokenizer = load_tokenizer(image_file), TextTokenizer(text_file)
    for shard in read_manifest(tokens).shards:
        metadata, rows = read_metadata(f"{tokens}/{shard.name}")
        assert sum(rows) == shard.rows
        assert metadata.image_tokenizer == image_tokenizer.fingerprint
        assert metadata.text_tokenizer == text_tokenizer.fingerprint
        assert metadata.input_digest == manifest_digest(filtered)
        assert (metadata.codebook_size, metadata.grid_side, metadata.image_side) == (64, 4, 32)
        assert (metadata.num_tokens, metadata.text_vocabulary_size) == (16, 128)
    assert read_manifest(tokens).inputs == {
        "source": manifest_digest(filtered),
        "image_tokenizer": image_tokenizer.fingerprint,
        "text_tokenizer": text_tokenizer.fingerprint,
    }


def test_tokens_are_the_same_from_the_source_and_from_its_tars(
    tokens, sharded, tmp_path, make_tokenize_config, beam_options
):
    tokenize_pairs(make_tokenize_config(tmp_path / "out", source=sharded), beam_options())
    assert read_rows(f"{tmp_path}/out") == read_rows(tokens)


@pytest.mark.parametrize("rows_per_fragment", [7, 64, 1000])
def test_tokens_do_not_depend_on_the_fragments(tokens, tmp_path, make_tokenize_config, beam_options, rows_per_fragment):
    tokenize_pairs(make_tokenize_config(tmp_path / "out", rows_per_fragment=rows_per_fragment), beam_options())
    assert read_rows(f"{tmp_path}/out") == read_rows(tokens)


def test_another_seed_gives_another_order_of_the_same_rows(tokens, tmp_path, make_tokenize_config, beam_options):
    tokenize_pairs(make_tokenize_config(tmp_path / "out", seed=1), beam_options())
    found, expected = read_rows(f"{tmp_path}/out"), read_rows(tokens)
    assert found != expected
    assert sorted(found, key=lambda row: row["key"]) == sorted(expected, key=lambda row: row["key"])


def test_pictures_of_another_size_say_which_square_was_taken(tmp_path, make_tar, make_tokenize_config, beam_options):
    from parti_data.images import to_png

    wide = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    path = make_tar("x.tar", [("a.png", to_png(wide)), ("a.txt", b"a small red ring")])
    source = WebDatasetSource(kind="webdataset", path=path)
    filter_pairs(FilterConfig(output=f"{tmp_path}/pairs", source=source), beam_options())
    tokenize_pairs(make_tokenize_config(tmp_path / "out", source=f"{tmp_path}/pairs"), beam_options())
    (row,) = read_rows(f"{tmp_path}/out")
    assert row["box"] == [16, 0, 64, 64]


@pytest.mark.parametrize(
    ("rendering", "size", "box"), [("as_seen", (64, 96), [0, 16, 64, 64]), ("as_stored", (96, 64), [16, 0, 64, 64])]
)
def test_the_box_lies_in_the_picture_as_it_was_rendered(
    rendering, size, box, tmp_path, make_tar, make_tokenize_config, beam_options
):
    exif, lying = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(lying, "PNG", exif=exif)
    path = make_tar("x.tar", [("a.png", lying.getvalue()), ("a.txt", b"a small red ring")])
    source, limits = WebDatasetSource(kind="webdataset", path=path), ImageLimits(rendering=rendering)
    filter_pairs(FilterConfig(output=f"{tmp_path}/pairs", source=source, limits=limits), beam_options())
    tokenize_pairs(make_tokenize_config(tmp_path / "out", source=f"{tmp_path}/pairs"), beam_options())
    (pair,) = PairDirectory(f"{tmp_path}/pairs").kept()
    (row,) = read_rows(f"{tmp_path}/out")
    assert ((pair.width, pair.height), row["box"]) == (size, box)


VIEWS = [Views(kind="ten_crop"), Views(kind="random", count=3, seed=5, least_zoom=1.25, most_zoom=1.5, may_flip=True)]


@pytest.mark.parametrize("views", VIEWS, ids=["ten_crop", "random"])
def test_every_view_is_a_row_with_its_box_and_the_tokens_of_its_pixels(
    views, filtered, image_file, tmp_path, make_tokenize_config, beam_options
):
    config = make_tokenize_config(tmp_path / "out", views=views, rows_per_shard=200)
    manifest = tokenize_pairs(config, beam_options("--direct_num_workers=2"))
    pairs, tokenizer = PairDirectory(filtered), load_tokenizer(image_file)
    kept = {row.key: row for row in pairs.kept()}
    assert manifest.counts == {"pairs": len(kept), "rows": len(kept) * views.num_views}
    assert len(manifest.shards) == -(-len(kept) * views.num_views // 200)
    rows = {(row["key"], row["view"]): row for row in read_rows(f"{tmp_path}/out")}
    assert sorted(rows) == [(key, view) for key in sorted(kept) for view in range(views.num_views)]
    metadata, _ = read_metadata(f"{tmp_path}/out/{manifest.shards[0].name}")
    assert metadata.resize_recipe == views.name_recipe("resize_center")
    for key in sorted(kept)[::20]:
        pixels = decode(pairs.fetch(kept[key]), pairs.limits)
        made = make_views(pixels, key, 32, "resize_center", views)
        tokens = tokenizer.encode(np.stack([view.pixels for view in made])).tolist()
        for number, view in enumerate(made):
            row = rows[key, number]
            assert (row["box"], row["flipped"]) == (list(view.box), view.flipped)
            assert row["image_tokens"] == tokens[number]
            assert row["captions"] == kept[key].captions
            assert row["text_ids"] == rows[key, 0]["text_ids"]


def test_views_have_the_same_bytes_for_any_workers_and_fragments(
    tmp_path, make_tokenize_config, beam_options, contents
):
    outputs = []
    for name, workers, rows_per_fragment in (("one", 1, 30), ("two", 2, 30), ("large", 1, 1000)):
        config = make_tokenize_config(tmp_path / name, views=VIEWS[1], rows_per_fragment=rows_per_fragment)
        tokenize_pairs(config, beam_options(f"--direct_num_workers={workers}"))
        outputs.append(contents(tmp_path / name) if name != "large" else read_rows(f"{tmp_path}/{name}"))
    assert outputs[0] == outputs[1]
    assert outputs[2] == read_rows(f"{tmp_path}/one")


def test_other_views_are_refused_in_a_begun_directory(tokens, make_tokenize_config, beam_options):
    with pytest.raises(ShardError, match=r"found another \(views.kind: begun with 'center', now 'ten_crop'\)"):
        tokenize_pairs(make_tokenize_config(tokens, views=VIEWS[0]), beam_options())


@pytest.mark.parametrize("num_pairs", [1, 29, 30, 31, 100])
def test_fragments_hold_every_row_once(num_pairs):
    plans = plan_fragments(num_pairs, 30)
    assert [row for plan in plans for row in range(plan.first, plan.last)] == list(range(num_pairs))
    assert [plan.number for plan in plans] == list(range(len(plans)))
    assert max(plan.last - plan.first for plan in plans) <= 30


def test_ordering_rows_is_a_permutation_by_hash(tokens):
    table = read_row_group(f"{tokens}/{read_manifest(tokens).shards[0].name}", 0)
    backwards = table.take(pa.array(range(len(table) - 1, -1, -1)))
    assert order_rows(backwards, 0) == table
    np.testing.assert_array_equal(token_matrix(order_rows(backwards, 0)), token_matrix(table))


def test_another_tokenizer_is_refused_in_a_begun_directory(
    tokens, tmp_path, make_image_file, make_tokenize_config, beam_options
):
    other = make_image_file(tmp_path / "other.safetensors", 1)
    with pytest.raises(ShardError, match=r"found another \(input image_tokenizer: begun with '\w+', now '\w+'\)"):
        tokenize_pairs(make_tokenize_config(tokens, image_tokenizer=other), beam_options())


def test_another_source_is_refused_in_a_begun_directory(tokens, sharded, make_tokenize_config, beam_options):
    with pytest.raises(ShardError, match=r"found another \(input source: begun with '\w+', now '\w+'\)"):
        tokenize_pairs(make_tokenize_config(tokens, source=sharded), beam_options())


def test_a_missing_tokenizer_is_refused(tmp_path, make_tokenize_config, beam_options):
    with pytest.raises(TokenizerError, match=r"none.safetensors: expected .*found none"):
        config = make_tokenize_config(tmp_path / "out", image_tokenizer=f"{tmp_path}/none.safetensors")
        tokenize_pairs(config, beam_options())
    with pytest.raises(TokenizerError, match=r"none.model: expected a SentencePiece model, found none"):
        tokenize_pairs(make_tokenize_config(tmp_path / "out", text_tokenizer=f"{tmp_path}/none.model"), beam_options())


def test_no_kept_pairs_are_refused(make_tar, tmp_path, make_tokenize_config, beam_options):
    source = WebDatasetSource(kind="webdataset", path=make_tar("x.tar", []))
    filter_pairs(FilterConfig(output=f"{tmp_path}/pairs", source=source), beam_options())
    with pytest.raises(SourceError, match="pairs: expected kept pairs, found none; see its ledger for the reasons"):
        tokenize_pairs(make_tokenize_config(tmp_path / "out", source=f"{tmp_path}/pairs"), beam_options())


@pytest.mark.parametrize("key", ["rows_per_shard", "rows_per_fragment"])
def test_shards_without_room_are_refused(key):
    needed = ["output=x", "source=y", "image_tokenizer=i", "text_tokenizer=t"]
    with pytest.raises(ConfigError, match=f"expected for '{key}' that input should be greater than 0, found 0"):
        TokenizeConfig.load(None, [*needed, f"{key}=0"])


def test_resources_change_no_byte(tokens, tmp_path, make_tokenize_config, beam_options, contents):
    resources = {"accelerator": "type:nvidia-l4;count:1", "min_ram": "1GB"}
    tokenize_pairs(make_tokenize_config(tmp_path / "out", resources=resources), beam_options())
    assert contents(tmp_path / "out") == contents(tokens)


def test_another_device_is_refused_in_a_begun_directory(tokens, make_tokenize_config, beam_options):
    with pytest.raises(ShardError, match=r"found another \(execution.device: begun with 'cpu', now 'cuda'\)"):
        tokenize_pairs(make_tokenize_config(tokens, execution=Execution(device="cuda")), beam_options())


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"device": "cuda"}, "execution.device=cuda: expected a GPU"),
        ({"backend": "openvino"}, "execution.backend=openvino: expected OpenVINO"),
        ({}, "resize recipe taming: expected OpenCV"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_begun(
    execution, message, tmp_path, make_tokenize_config, beam_options, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(recipes, "_opencv", recipes._opencv.__wrapped__)  # the one that remembers nothing
    config = make_tokenize_config(tmp_path / "out", execution=Execution(**execution))
    if not execution:
        np.save(tmp_path / "colours.npy", np.linspace(-1, 1, 48, dtype=np.float32).reshape(16, 3))
        reading = Reading(kind="igpt", resize_recipe="taming")
        config = config.model_copy(update={"image_tokenizer": f"{tmp_path}/colours.npy", "tokenizer": reading})
    with pytest.raises(PartiError, match=message):
        tokenize_pairs(config, beam_options())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_is_for_the_workers_of_another_engine_to_have(tmp_path, make_tokenize_config, beam_options, monkeypatch):
    monkeypatch.setattr("pipelines.gather_tokens.make_pipeline", Mock(side_effect=EngineError("submitted")))
    config = make_tokenize_config(tmp_path / "out", execution=Execution(device="cuda"))
    with pytest.raises(EngineError, match="submitted"):
        tokenize_pairs(config, PipelineOptions(["--runner=FlinkRunner"]))


def test_resources_that_beam_cannot_read_are_refused():
    needed = ["output=x", "source=y", "image_tokenizer=i", "text_tokenizer=t"]
    with pytest.raises(ConfigError, match="Resource hint min_ram has invalid value much"):
        TokenizeConfig.load(None, [*needed, "resources.min_ram=much"])


def test_processes_that_decode_and_two_workers_change_no_byte(
    tokens, tmp_path, make_tokenize_config, beam_options, contents
):
    tokenize_pairs(make_tokenize_config(tmp_path / "out", decode_processes=1), beam_options("--direct_num_workers=2"))
    assert contents(tmp_path / "out") == contents(tokens)


def test_a_shard_names_the_precision_that_it_was_encoded_in(tmp_path, make_tokenize_config, beam_options):
    config = make_tokenize_config(tmp_path / "out", execution=Execution(precision="bfloat16"))
    (first, *_) = tokenize_pairs(config, beam_options()).shards
    metadata, _ = read_metadata(f"{tmp_path}/out/{first.name}")
    assert Execution(**metadata.model_dump(include=set(Execution.model_fields))) == config.execution


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_gives_the_same_rows_and_is_named_in_the_shards(tokens, tmp_path, make_tokenize_config, beam_options):
    execution = Execution(backend="openvino")
    tokenize_pairs(make_tokenize_config(tmp_path / "out", execution=execution), beam_options("--direct_num_workers=2"))
    assert read_rows(f"{tmp_path}/out") == read_rows(tokens)
    (first, *_) = read_manifest(f"{tmp_path}/out").shards
    metadata, _ = read_metadata(f"{tmp_path}/out/{first.name}")
    assert (metadata.precision, metadata.device, metadata.backend) == ("float32", "cpu", "openvino")
