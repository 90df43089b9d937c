import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from foreign_tokens import (
    CODES,
    SIDE,
    draw_tokens,
    npy_bytes,
    write_dalle_mini,
    write_llamagen_classes,
    write_llamagen_texts,
    write_npy_tar,
    write_rar,
    write_tar,
)

from model.tokenizers import Reading, load_tokenizer
from parti_data.errors import ConfigError, ShardError, SourceError, TokenizerError
from parti_data.manifest import BEGUN, MANIFEST, read_manifest
from parti_data.text import END, TextTokenizer, train_sentencepiece
from parti_data.token_directory import open_token_directory
from parti_data.token_shard import ShardMetadata, order_hash, read_metadata, read_row_group
from parti_data.token_sources.import_counts import ImportCounts
from pipelines.command_line import main
from pipelines.export import ExportConfig, export_tokens
from pipelines.gather_tokens import drop_repeated, gather_shard
from pipelines.import_tokens import ImportTokensConfig, import_tokens
from pipelines.read_tokens import Importing, ReadPlan, read_counts, read_slice
from pipelines.token_fragments import Gathering, fragment_path, read_fragment, write_fragment
from pipelines.verify import verify

DECLARED = {"name": "made up", "codebook_size": CODES, "grid_side": SIDE, "image_side": 32}
NUM_IMAGES = 60
TOKENS = draw_tokens(NUM_IMAGES)
CAPTIONS = [f"a small red ring {number}" for number in range(NUM_IMAGES)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, dict]:
    """A source of each kind with the same tokens; classes are numbers from 0 to 2."""
    root = tmp_path_factory.mktemp("sources")
    classes = [number % 3 for number in range(NUM_IMAGES)]
    (root / "names.txt").write_text("a red ring\na blue square\na tench\n")
    for number, half in enumerate(np.split(np.arange(NUM_IMAGES), 2)):
        write_dalle_mini(root / f"parquet/{number:03d}.parquet", TOKENS[half], [CAPTIONS[n] for n in half])
        write_npy_tar(root / f"tars/{number}.tar", TOKENS[half].astype(np.uint16), [CAPTIONS[n] for n in half])
    return {
        "dalle_mini": {"path": f"{root}/parquet"},
        "npy_tars": {"path": f"{root}/tars/*.tar"},
        "rar": {"path": write_rar(root / "rar.jsonl", TOKENS, classes), "class_names": f"{root}/names.txt"},
        "llamagen": {
            "path": write_llamagen_classes(root / "llamagen", TOKENS[:, None], classes),
            "class_names": f"{root}/names.txt",
        },
    }


@pytest.fixture(scope="module")
def make_import(sources, text_file) -> Callable[..., ImportTokensConfig]:
    """The config that imports a source in small slices to several shards; overrides by name."""

    def make(output: object, kind: str = "dalle_mini", source: dict | None = None, **overrides) -> ImportTokensConfig:
        values = {"source": {"kind": kind, **(source or sources[kind])}, "tokens": DECLARED, "rows_per_fragment": 11}
        values |= {"text_tokenizer": text_file, "rows_per_shard": 25, "output": str(output)}
        return ImportTokensConfig.model_validate({**values, **overrides})

    return make


@pytest.fixture(scope="module")
def imported(tmp_path_factory, make_import, beam_options) -> str:
    output = str(tmp_path_factory.mktemp("imported") / "tokens")
    import_tokens(make_import(output), beam_options())
    return output


def read_rows(directory: object) -> list[dict]:
    paths = [f"{directory}/{shard.name}" for shard in read_manifest(str(directory)).shards]
    tables = [read_row_group(path, group) for path in paths for group in range(len(read_metadata(path)[1]))]
    return pa.concat_tables(tables).to_pylist()


def key_of(tokens: np.ndarray) -> str:
    return hashlib.sha256(tokens.astype("<u4").tobytes()).hexdigest()[:32]


@pytest.mark.parametrize("kind", ["dalle_mini", "npy_tars", "rar", "llamagen"])
def test_every_image_of_a_source_becomes_a_row(kind, tmp_path, make_import, beam_options, text_file):
    manifest = import_tokens(make_import(tmp_path / "out", kind), beam_options())
    assert manifest.counts == {"read": NUM_IMAGES, "dropped": 0, "repeated": 0, "rows": NUM_IMAGES}
    text, rows = TextTokenizer(text_file), {row["key"]: row for row in read_rows(tmp_path / "out")}
    assert sorted(rows) == sorted(map(key_of, TOKENS))
    names = ["a red ring", "a blue square", "a tench"]
    for number, tokens in enumerate(TOKENS):
        row = rows[key_of(tokens)]
        assert row["image_tokens"] == tokens.tolist()
        assert row["captions"] == [CAPTIONS[number] if kind in ("dalle_mini", "npy_tars") else names[number % 3]]
        assert row["text_ids"] == [text.encode(row["captions"][0])]
        assert (row["view"], row["box"], row["flipped"]) == (0, [0, 0, 32, 32], False)
    assert len({row["source"] for row in rows.values()}) == (2 if kind in ("dalle_mini", "npy_tars") else 1)
    assert len({(row["source"], row["source_key"]) for row in rows.values()}) == NUM_IMAGES
    assert any(line.endswith("files of import_tokens as the manifest says") for line in verify(f"{tmp_path}/out"))


def test_rows_are_spread_and_ordered_by_their_hash(imported):
    shards = read_manifest(imported).shards
    assert [shard.name for shard in shards] == [f"tokens-{number:05d}-of-00003.parquet" for number in range(3)]
    for number, shard in enumerate(shards):
        keys = read_row_group(f"{imported}/{shard.name}", 0).column("key").to_pylist()
        hashes = [order_hash(key, 0, 0) for key in keys]
        assert hashes == sorted(hashes)
        assert {place % 3 for place in hashes} == {number}


def test_a_directory_says_what_was_declared(imported, text_file):
    directory = open_token_directory(imported)
    assert directory.num_rows == NUM_IMAGES
    metadata = directory.metadata
    assert (metadata.image_tokenizer_name, metadata.codebook_size, metadata.grid_side) == ("made up", CODES, SIDE)
    assert (metadata.image_side, metadata.resize_recipe, metadata.precision) == (32, "unknown", "unknown")
    assert metadata.text_tokenizer == TextTokenizer(text_file).fingerprint
    assert directory.manifest.details["shards"].keys() == {shard.name for shard in directory.shards}


def test_declarations_that_are_equal_have_one_fingerprint_and_others_another(make_import):
    first, again = make_import("a").made_by(), make_import("b", "npy_tars", seed=5).made_by()
    assert first.fingerprint == again.fingerprint
    for change in ({"name": "other"}, {"codebook_size": 65}, {"grid_side": 5}, {"image_side": 64}):
        assert make_import("c", tokens=DECLARED | change).made_by().fingerprint != first.fingerprint


def test_a_tokenizer_file_says_what_made_the_tokens(tmp_path, make_import, beam_options, image_file, tokens):
    config = make_import(tmp_path / "out", tokens=None, image_tokenizer=image_file)
    import_tokens(config, beam_options())
    metadata = open_token_directory(f"{tmp_path}/out").metadata
    assert metadata.image_tokenizer == load_tokenizer(image_file).fingerprint
    ours = open_token_directory(tokens).metadata
    same = ("image_tokenizer", "image_tokenizer_name", "codebook_size", "grid_side", "num_quantizers", "image_side")
    assert [getattr(metadata, name) for name in same] == [getattr(ours, name) for name in same]
    assert verify(f"{tmp_path}/out")


def test_the_bytes_do_not_depend_on_the_workers_and_rows_not_on_the_slices(
    tmp_path, imported, make_import, beam_options, contents
):
    import_tokens(make_import(tmp_path / "two"), beam_options("--direct_num_workers=2"))
    assert contents(tmp_path / "two") == contents(imported)
    for rows_per_fragment in (7, 1000):
        output = tmp_path / str(rows_per_fragment)
        import_tokens(make_import(output, rows_per_fragment=rows_per_fragment), beam_options())
        assert read_rows(output) == read_rows(imported)


def test_a_rerun_of_what_is_finished_changes_nothing_and_another_config_is_refused(
    imported, make_import, beam_options, contents
):
    before = contents(imported)
    import_tokens(make_import(imported), beam_options())
    with pytest.raises(ShardError, match=r"found another \(seed: begun with 0, now 3\)"):
        import_tokens(make_import(imported, seed=3), beam_options())
    with pytest.raises(ShardError, match=r"tokens.name: begun with 'made up', now 'x'"):
        import_tokens(make_import(imported, tokens=DECLARED | {"name": "x"}), beam_options())
    with pytest.raises(ShardError, match=r"source.kind: begun with 'dalle_mini', now 'npy_tars'"):
        import_tokens(make_import(imported, "npy_tars"), beam_options())
    assert contents(imported) == before


def test_a_stage_that_was_killed_anywhere_ends_with_the_same_bytes(
    tmp_path, imported, make_import, run_child, beam_options, contents
):
    expected = contents(imported)
    assert run_child("import_tokens", make_import(tmp_path / "whole"), -1, tmp_path / "moments") == 0
    assert contents(tmp_path / "whole") == expected
    last = int((tmp_path / "moments").read_text()) - 1
    has_begun, has_manifest = set(), set()
    for moment in (0, last // 2, last):
        config = make_import(tmp_path / f"killed-{moment}")
        assert run_child("import_tokens", config, moment, tmp_path / "never") == -signal.SIGKILL
        left = contents(config.output)
        has_begun.add(BEGUN in left)
        has_manifest.add(MANIFEST in left)
        import_tokens(config, beam_options())
        assert contents(config.output) == expected, moment
    assert has_begun == has_manifest == {True, False}


def test_views_are_rows_of_one_key_and_the_mirrored_ones_are_told(tmp_path, make_import, beam_options):
    views = draw_tokens(100).reshape(10, 10, -1)
    source = {"path": write_llamagen_classes(tmp_path / "llamagen", views, [0] * 10)}
    manifest = import_tokens(make_import(tmp_path / "out", "llamagen", source), beam_options())
    assert manifest.counts == {"read": 10, "dropped": 0, "repeated": 0, "rows": 100}
    assert len(manifest.shards) == 4
    rows = {(row["key"], row["view"]): row for row in read_rows(tmp_path / "out")}
    for image in views:
        for number, tokens in enumerate(image):
            row = rows.pop((key_of(image[0]), number))
            assert (row["image_tokens"], row["flipped"]) == (tokens.tolist(), number >= 5)
            assert (row["captions"], row["text_ids"]) == ([""], [[END]])
    assert not rows
    assert verify(f"{tmp_path}/out")


def test_what_is_exported_without_captions_is_imported_again(tmp_path, make_import, beam_options):
    source = {"path": write_llamagen_classes(tmp_path / "llamagen", TOKENS[:9, None], [0] * 9)}
    import_tokens(make_import(tmp_path / "first", "llamagen", source), beam_options())
    exporting = {"source": f"{tmp_path}/first", "output": f"{tmp_path}/tars", "format": "webdataset"}
    export_tokens(ExportConfig.model_validate(exporting), beam_options())
    manifest = import_tokens(make_import(tmp_path / "again", "npy_tars", {"path": f"{tmp_path}/tars"}), beam_options())
    assert manifest.counts == {"read": 9, "dropped": 0, "repeated": 0, "rows": 9}
    first, again = ({row["key"]: row["captions"] for row in read_rows(tmp_path / name)} for name in ("first", "again"))
    assert first == again == {key_of(tokens): [""] for tokens in TOKENS[:9]}


def test_names_that_are_no_text_are_spelled_out(tmp_path, make_import, beam_options):
    path = write_llamagen_classes(tmp_path / "llamagen", TOKENS[:3, None], [0] * 3)
    os.rename(f"{path}/1.npy".encode(), path.encode() + b"/\xff.npy")
    (tmp_path / "llamagen/imagenet256_codes/2.npy").write_bytes(b"")
    config = make_import(tmp_path / "out", "llamagen", {"path": path}, max_dropped_fraction=0.5)
    assert import_tokens(config, beam_options()).counts["rows"] == 2
    assert {row["source_key"] for row in read_rows(tmp_path / "out")} == {"0", r"\udcff"}


def test_captions_stand_in_the_lines_that_files_are_named_after(tmp_path, make_import, beam_options):
    texts = [[f"blip {number}", f"llava {number}"] for number in range(12)]
    for stem, part in (("part-0", slice(0, 6)), ("part-1", slice(6, 12))):
        path, captions = write_llamagen_texts(tmp_path / "t2i", stem, TOKENS[part], texts[part])
    manifest = import_tokens(
        make_import(tmp_path / "out", "llamagen", {"path": path, "captions": captions}, rows_per_fragment=4),
        beam_options(),
    )
    assert manifest.counts["rows"] == 12
    rows = {row["key"]: row["captions"] for row in read_rows(tmp_path / "out")}
    assert rows == {key_of(tokens): text for tokens, text in zip(TOKENS[:12], texts, strict=True)}


def test_the_first_of_equal_images_stays_and_the_others_are_counted(tmp_path, make_import, beam_options, contents):
    repeated = np.concatenate([TOKENS[:20], TOKENS[5:15], TOKENS[:3]])
    path = write_dalle_mini(tmp_path / "a.parquet", list(repeated), [f"number {n}" for n in range(33)])
    for workers in (1, 2):
        config = make_import(tmp_path / f"out-{workers}", source={"path": path}, rows_per_shard=8)
        manifest = import_tokens(config, beam_options(f"--direct_num_workers={workers}"))
        assert manifest.counts == {"read": 33, "dropped": 0, "repeated": 13, "rows": 20}
    assert contents(tmp_path / "out-1") == contents(tmp_path / "out-2")
    captions = {row["key"]: row["captions"] for row in read_rows(tmp_path / "out-1")}
    assert captions == {key_of(tokens): [f"number {number}"] for number, tokens in enumerate(TOKENS[:20])}
    assert verify(f"{tmp_path}/out-1")


BAD = {
    "negative_code": np.array([*TOKENS[0, 1:], -1]),
    "outside_codebook": np.array([*TOKENS[0, 1:], CODES]),
    "wrong_shape": TOKENS[0, 1:],
    "not_integers": TOKENS[0].astype(np.float32),
}


def test_bad_images_are_dropped_and_counted_by_reason(tmp_path, make_import, beam_options):
    good = [member for n in range(30) for member in sample(f"good{n}", npy_bytes(TOKENS[n]), "a ring")]
    bad = [member for reason, array in BAD.items() for member in sample(reason, npy_bytes(array), "a ring")]
    bad += [("no_caption.npy", npy_bytes(TOKENS[0])), ("no_tokens.txt", b"a ring")]
    bad += [*sample("blank", npy_bytes(TOKENS[0]), " \n"), *sample("torn", npy_bytes(TOKENS[0])[:-1], "a ring")]
    source = {"path": write_tar(tmp_path / "a.tar", good[:4] + bad + good[4:])}
    config = make_import(tmp_path / "out", "npy_tars", source, max_dropped_fraction=0.3)
    manifest = import_tokens(config, beam_options())
    assert manifest.counts == {
        "read": 38, "dropped": 8, "dropped_negative_code": 1, "dropped_no_caption": 2, "dropped_no_tokens": 1,
        "dropped_not_integers": 1, "dropped_outside_codebook": 1, "dropped_unreadable": 1, "dropped_wrong_shape": 1,
        "repeated": 0, "rows": 30,
    }  # fmt: skip
    tar = source["path"]
    assert manifest.details["examples"] == {
        "negative_code": f"{tar} negative_code: code -1",
        "no_caption": f"{tar} no_caption: no member .txt or .json with a caption",
        "no_tokens": f"{tar} no_tokens: no member .npy",
        "not_integers": f"{tar} not_integers: tokens of type <f4",
        "outside_codebook": f"{tar} outside_codebook: code 64",
        "unreadable": f"{tar} torn: an array of 128 bytes in 127",
        "wrong_shape": f"{tar} wrong_shape: tokens of shape (15,)",
    }
    assert verify(f"{tmp_path}/out")


def sample(key: str, tokens: bytes, caption: str) -> list[tuple[str, bytes]]:
    return [(f"{key}.npy", tokens), (f"{key}.txt", caption.encode())]


def test_too_many_dropped_images_fail_the_run_until_they_are_allowed(tmp_path, make_import, beam_options):
    captions = [None if number < 3 else "a ring" for number in range(NUM_IMAGES)]
    source = {"path": write_dalle_mini(tmp_path / "a.parquet", list(TOKENS), captions)}
    with pytest.raises(
        SourceError,
        match=r"a.parquet: expected at most 1% of images dropped, found 3 of 60 \(no_caption 3; such as .*a.parquet "
        r"00000000: no text\); mend the source, say otherwise how it is read, or raise max_dropped_fraction",
    ):
        import_tokens(make_import(tmp_path / "out", source=source), beam_options())
    assert not (tmp_path / "out" / MANIFEST).exists()
    config = make_import(tmp_path / "out", source=source, max_dropped_fraction=0.05)
    assert import_tokens(config, beam_options()).counts["rows"] == 57


def test_another_grid_than_said_is_refused_before_anything_is_begun(tmp_path, make_import, beam_options):
    message = (
        r"found 60 of 60 \(wrong_shape 60; such as .* 00000000: tokens of shape \(16,\)\); a view should have 25 "
        "tokens, so look which tokenizer made them"
    )
    with pytest.raises(SourceError, match=message):
        import_tokens(make_import(tmp_path / "out", tokens=DECLARED | {"grid_side": 5}), beam_options())
    assert not (tmp_path / "out").exists()


def test_codes_of_a_larger_codebook_are_refused_before_anything_is_begun(tmp_path, make_import, beam_options):
    with pytest.raises(SourceError, match=r"\(outside_codebook 60; .*; codes should be below 8, so look which tokeniz"):
        import_tokens(make_import(tmp_path / "out", tokens=DECLARED | {"codebook_size": 8}), beam_options())
    assert not (tmp_path / "out").exists()


def test_a_source_without_a_common_grid_is_refused(tmp_path, make_import, beam_options):
    ragged = [row[: 16 - number % 3] for number, row in enumerate(TOKENS)]
    source = {"path": write_dalle_mini(tmp_path / "a.parquet", ragged, CAPTIONS)}
    with pytest.raises(
        SourceError,
        match=r"a.parquet: expected images of one grid, 16 tokens each, found 20 such, and shapes \(15,\) 20, \(14,\) "
        "20; shards hold one grid, so import the images of each into a directory of their own",
    ):
        import_tokens(make_import(tmp_path / "out", source=source), beam_options())


def test_a_source_without_images_is_refused(tmp_path, make_import, beam_options):
    source = {"path": write_dalle_mini(tmp_path / "a.parquet", [], [])}
    with pytest.raises(SourceError, match=r"a.parquet: expected"):
        import_tokens(make_import(tmp_path / "out", source=source), beam_options())
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(SourceError, match=r"empty.jsonl: expected tokens, found none; check source.path"):
        import_tokens(make_import(tmp_path / "out", "rar", {"path": f"{tmp_path}/empty.jsonl"}), beam_options())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tokens.grid_side=0"], "expected for 'tokens.grid_side' that input should be greater than 0, found 0"),
        (["image_tokenizer=x"], "or a table that declares it, found both; leave one out"),
        (["tokenizer.kind=taming"], "tokenizer: expected none without the image_tokenizer that it tells how to read"),
        (["source.caption_colum=x"], "did you mean 'source.caption_column'?"),
        (["source.kind=tfrecord"], "'tfrecord'"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(overrides, message):
    needed = ["output=x", "text_tokenizer=t", "source.kind=dalle_mini", "source.path=y"]
    declared = [f"tokens.{name}={json.dumps(value)}" for name, value in DECLARED.items()]
    with pytest.raises(ConfigError) as error:
        ImportTokensConfig.load(None, [*needed, *declared, *overrides])
    assert message in str(error.value)
    with pytest.raises(ConfigError, match="image_tokenizer, tokens: expected one of them, .* found none; add one"):
        ImportTokensConfig.load(None, needed)


def test_missing_tokenizers_are_said(tmp_path, make_import, beam_options):
    with pytest.raises(TokenizerError, match=r"none.model: expected a SentencePiece model, found none"):
        import_tokens(make_import(tmp_path / "out", text_tokenizer=f"{tmp_path}/none.model"), beam_options())
    with pytest.raises(TokenizerError, match=r"none.ckpt: expected a tokenizer file, found none"):
        config = make_import(
            tmp_path / "out", tokens=None, image_tokenizer=f"{tmp_path}/none.ckpt", tokenizer=Reading(kind="taming")
        )
        import_tokens(config, beam_options())


def test_another_text_tokenizer_than_the_run_began_with_is_refused(tmp_path, make_import, beam_options, text_file):
    shutil.copy(text_file, tmp_path / "text.model")
    config = make_import(tmp_path / "out", text_tokenizer=f"{tmp_path}/text.model")
    importing = Importing(config.source, config.text_tokenizer, gathering_of(tmp_path, text_file))
    plan = ReadPlan(0, config.source.slices(11).slices[0])
    assert read_slice(plan, importing) == 0
    captions = (f"number {number}" for number in range(300))
    (tmp_path / "text.model").write_bytes(train_sentencepiece(captions, 40, 0))
    assert read_slice(plan, importing) == 0  # is there already
    with pytest.raises(TokenizerError, match=r"text.model: expected the tokenizer \w{12} that the run began with, fou"):
        read_slice(plan._replace(number=1), importing)


def gathering_of(output: object, text_file: str) -> Gathering:
    metadata = ShardMetadata(
        image_tokenizer="", image_tokenizer_name="", codebook_size=CODES, grid_side=SIDE, image_side=32,
        resize_recipe="", resize_library="", precision="", text_tokenizer=TextTokenizer(text_file).fingerprint,
        text_vocabulary_size=128, config_digest="", input_digest="",
    )  # fmt: skip
    return Gathering(str(output), metadata, 1, 2, 0, may_repeat=True)


def test_a_slice_read_and_gathered_without_beam_has_the_rows_of_its_images(tmp_path, make_import, text_file):
    config, gathering = make_import(tmp_path), gathering_of(tmp_path, text_file)
    read_slice(ReadPlan(0, config.source.slices(11).slices[0]), Importing(config.source, text_file, gathering))
    assert read_counts(fragment_path(str(tmp_path), 0)) == ImportCounts(images=11, rows=11)
    shards = [gather_shard(number, gathering) for number in range(2)]
    assert sum(shard.record.rows for shard in shards) == 11
    write_fragment(fragment_path(str(tmp_path), 1), [[], []], gathering.metadata, "")
    with pytest.raises(ShardError, match="slice-00001.arrow: expected what was counted of it, found Invalid JSON"):
        read_counts(fragment_path(str(tmp_path), 1))


def test_equal_images_are_not_taken_for_views(tmp_path, make_import, beam_options):
    path = write_dalle_mini(tmp_path / "a.parquet", [TOKENS[0]] * 20, CAPTIONS[:20])
    manifest = import_tokens(make_import(tmp_path / "out", source={"path": path}, rows_per_shard=8), beam_options())
    assert manifest.counts == {"read": 20, "dropped": 0, "repeated": 19, "rows": 1}
    assert sorted(shard.rows for shard in manifest.shards) == [0, 0, 1]
    assert verify(f"{tmp_path}/out")


def test_equal_images_of_one_slice_are_written_once(tmp_path, make_import, text_file):
    path = write_dalle_mini(tmp_path / "a.parquet", [TOKENS[0]] * 50, CAPTIONS[:50])
    config, gathering = make_import(tmp_path, source={"path": path}), gathering_of(tmp_path, text_file)
    read_slice(ReadPlan(0, config.source.slices(50).slices[0]), Importing(config.source, text_file, gathering))
    path = fragment_path(str(tmp_path), 0)
    assert (read_counts(path).rows, sum(len(read_fragment(path, shard)) for shard in range(2))) == (50, 1)


def test_the_first_row_of_each_key_and_view_stays():
    table = pa.table({"key": [*"abacb"], "view": [0, 0, 0, 0, 1], "row": range(5)})
    assert drop_repeated(table).column("row").to_pylist() == [0, 1, 3, 4]
    assert drop_repeated(table.take([0, 1])) == table.take([0, 1])


def test_the_command_says_what_became_of_the_images(tmp_path, sources, text_file, capsys):
    declared = [f"tokens.{name}={json.dumps(value)}" for name, value in DECLARED.items()]
    path = sources["dalle_mini"]["path"]
    source = ["source.kind=dalle_mini", f"source.path={path}"]
    with pytest.raises(SystemExit, match="^0$"):
        main(["import-tokens", *source, *declared, f"text_tokenizer={text_file}", f"output={tmp_path}/out"])
    assert capsys.readouterr().out == "import_tokens: 0 dropped, 60 read, 0 repeated, 60 rows\n"
