"""The job with an untrained prior: completion of pictures and ranking of candidates, from configs to files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from stand_in_clip import save_towers, stand_in

from model.contrastive import Contrastive, ContrastiveShape, save_contrastive
from model.evaluation.clip import load_clip
from model.evaluation.clip_score import cosines
from model.priors.dalle import DALLE, DALLEShape
from model.priors.parti import Parti, PartiShape
from model.priors.prior_file import save_prior
from model.sampling import sample as sample_module
from model.sampling.sample import SampleConfig, sample
from model.tokenizers import load_tokenizer
from model.upsamplers import WDSR, WDSRShape, save_upsampler
from parti_data.errors import CheckpointError, ConfigError, ShardError, TokenizerError
from parti_data.images import image_key, to_png
from parti_data.recipes import apply_recipe
from parti_data.storage import sha256_file
from parti_data.text import TextTokenizer

PROMPTS = ["a small red ring", "a large blue star"]
SIZES = {"width": 32, "hidden": 64, "num_heads": 2, "num_encoder_layers": 1, "dropout": 0.0}
IDS = {"text_vocabulary_size": 128, "max_text_length": 32, "codebook_size": 64, "grid_side": 4}


def marks(image_tokenizer: str, text_tokenizer: str) -> Any:
    """What a shard's metadata tells a file of weights."""
    return SimpleNamespace(image_tokenizer=image_tokenizer, text_tokenizer=text_tokenizer)


@pytest.fixture(scope="module")
def priors(tmp_path_factory, image_file, text_file) -> dict[str, str]:
    """The files of untrained priors, by family."""
    folder = tmp_path_factory.mktemp("priors")
    metadata = marks(load_tokenizer(image_file).fingerprint, TextTokenizer(text_file).fingerprint)
    sizes = {"width": 32, "hidden": 64, "num_heads": 2, "num_layers": 2, "kernel_side": 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_prior(Parti(PartiShape(**IDS, **SIZES, num_decoder_layers=1)), metadata, str(folder / "parti"))
        save_prior(DALLE(DALLEShape(**IDS, **sizes)), metadata, str(folder / "dalle"))
    return {family: str(folder / family) for family in ("parti", "dalle")}


@pytest.fixture
def files(priors, image_file, text_file) -> dict[str, str]:
    """The files that every config here names."""
    return {"prior": priors["parti"], "image_tokenizer": image_file, "text_tokenizer": text_file}


@pytest.fixture
def draw(tmp_path, files):
    """Run the job into a directory of a name; its table's rows."""

    def run(name: str, **values) -> list[dict]:
        config = {"output": str(tmp_path / name), "prompts": PROMPTS, "samples_per_prompt": 3, **files, **values}
        sample(SampleConfig.model_validate(config))
        return pq.read_table(tmp_path / name / "samples.parquet").to_pylist()

    return run


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    """Two noisy pictures of other sides than the tokenizer's."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 48, 70, 3), np.uint8)
    for number, pixels in enumerate(noise):
        (tmp_path / f"{number}.png").write_bytes(to_png(pixels))
    return [str(tmp_path / f"{number}.png") for number in range(2)]


class CodeSum:
    """A ranker that needs no weights: the more, the larger the codes of an image are."""

    def scores(self, prompts, image_tokens):
        return image_tokens.double().mean(1).numpy()


@pytest.fixture
def by_code_sum(monkeypatch, tmp_path) -> dict:
    """The table of a config that ranks so."""
    (tmp_path / "ranker.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(sample_module, "open_ranker", lambda *_: CodeSum())
    return {"model": str(tmp_path / "ranker.safetensors")}


def png_names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("sample-*.png")}


def test_no_rows_given_draw_what_is_drawn_plainly(draw, pictures):
    plain = draw("plain")
    assert [(row["given_rows"], row["given_key"], row["score"], row["rank"]) for row in plain] == [
        (0, "", None, None)
    ] * 6
    given = draw("given", completion={"pictures": pictures[:1], "rows": 0})
    assert [row["image_tokens"] for row in given] == [row["image_tokens"] for row in plain]


@pytest.mark.parametrize("family", ["parti", "dalle"])
def test_given_rows_are_the_pictures_own_and_the_table_says_so(draw, pictures, files, priors, family):
    tokenizer = load_tokenizer(files["image_tokenizer"])
    rows = draw("given", prior=priors[family], completion={"pictures": pictures, "rows": 3}, batch_size=4)
    for number, row in enumerate(rows):
        path = Path(pictures[number // 3])
        square = apply_recipe(tokenizer.spec.resize_recipe, np.asarray(Image.open(path)), 32).pixels
        wanted = tokenizer.encode(square[None])[0].tolist()
        assert row["image_tokens"][:12] == wanted[:12]
        assert (row["given_rows"], row["given_key"]) == (3, image_key(path.read_bytes()))
    assert len({tuple(row["image_tokens"][12:]) for row in rows[:3]}) == 3


def test_one_prompt_goes_with_each_of_several_pictures(draw, pictures):
    rows = draw("given", prompts=PROMPTS[:1], completion={"pictures": pictures, "rows": 1})
    assert [row["prompt"] for row in rows] == PROMPTS[:1] * 6
    assert len({row["given_key"] for row in rows}) == 2


def test_pictures_and_rows_that_do_not_fit_are_refused_before_anything_is_begun(draw, pictures, tmp_path):
    (tmp_path / "none.png").write_bytes(b"no picture")
    for completion, message in (
        (
            {"pictures": pictures[:1], "rows": 4},
            "completion.rows: expected fewer than the 4 rows of an image, found 4;",
        ),
        ({"pictures": pictures + pictures[:1], "rows": 1}, "expected one, or one for each of the 2 prompts, found 3;"),
        ({"pictures": ["none/a.png"], "rows": 1}, "completion.pictures: expected a picture, found .*; check the path"),
        (
            {"pictures": [str(tmp_path / "none.png")], "rows": 1},
            r"none.png: expected a picture within completion.limits, found image_unreadable \(.*\); give another",
        ),
        (
            {"pictures": pictures, "rows": 1, "limits": {"max_pixels": 1000}},
            r"found image_too_many_pixels \(70x48, at most 1000 pixels\)",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            draw("refused", completion=completion)
    assert not (tmp_path / "refused").exists()


def test_a_run_does_not_go_on_with_another_picture_and_does_with_a_moved_one(draw, pictures, tmp_path):
    first = draw("given", completion={"pictures": pictures[:1], "rows": 2})
    moved = str(Path(pictures[0]).rename(tmp_path / "moved.png"))
    assert draw("given", completion={"pictures": [moved], "rows": 2}) == first
    with pytest.raises(ShardError, match="input completion: begun with"):
        draw("given", completion={"pictures": pictures[1:], "rows": 2})


def test_the_best_of_each_prompt_are_kept_and_all_are_in_the_table(draw, by_code_sum, tmp_path):
    plain = {(row["prompt"], row["sample"]): row["image_tokens"] for row in draw("plain")}
    rows = draw("ranked", ranking={**by_code_sum, "keep": 2})
    assert {(row["prompt"], row["sample"]): row["image_tokens"] for row in rows} == plain
    for prompt, mine in zip(PROMPTS, (rows[:3], rows[3:]), strict=True):
        assert [(row["prompt"], row["rank"]) for row in mine] == [(prompt, 1), (prompt, 2), (prompt, 3)]
        assert [row["score"] for row in mine] == [np.mean(row["image_tokens"]) for row in mine]
        assert [row["score"] for row in mine] == sorted((row["score"] for row in mine), reverse=True)
        assert [bool(row["picture"]) for row in mine] == [True, True, False]
    kept = {row["picture"] for row in rows if row["picture"]}
    assert png_names(tmp_path / "ranked") == kept
    for name in kept:
        assert (tmp_path / "ranked" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_as_many_as_are_drawn_keep_all_in_ranked_order(draw, by_code_sum, tmp_path):
    draw("plain")
    rows = draw("ranked", ranking={**by_code_sum, "keep": 3})
    assert [row["rank"] for row in rows] == [1, 2, 3, 1, 2, 3]
    assert png_names(tmp_path / "ranked") == png_names(tmp_path / "plain")
    with Image.open(tmp_path / "ranked" / "grid.png") as opened:
        grid = np.asarray(opened)
    for number, row in enumerate(rows):
        with Image.open(tmp_path / "ranked" / row["picture"]) as opened:
            assert np.array_equal(grid[:32, 34 * number : 34 * number + 32], np.asarray(opened))


def test_what_is_kept_does_not_depend_on_the_batch_and_is_written_larger_too(draw, by_code_sum, files, tmp_path):
    path = str(tmp_path / "upsampler.safetensors")
    fingerprint = load_tokenizer(files["image_tokenizer"]).fingerprint
    save_upsampler(WDSR(WDSRShape(2, num_blocks=1, width=4)), fingerprint, path)
    first, second = (draw(f"{size}", ranking=by_code_sum, batch_size=size, upsampler=path) for size in (64, 2))
    assert first == second
    kept = {row["picture"] for row in first if row["picture"]}
    assert len(kept) == 2
    assert png_names(tmp_path / "2") == kept | {name.replace(".png", "-large.png") for name in kept}


def test_a_stopped_run_goes_on_behind_its_last_whole_prompts_to_the_same_bytes(
    draw, by_code_sum, contents, tmp_path, monkeypatch
):
    values = {"ranking": by_code_sum, "batch_size": 2, "prompts": ["a ring", *PROMPTS]}
    draw("whole", **values)
    drawn, generate = [], sample_module.generate

    def stop_at_the_fourth(*arguments):
        drawn.append(arguments)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return generate(*arguments)

    monkeypatch.setattr(sample_module, "generate", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        draw("stopped", **values)
    draw("stopped", **values)
    assert len(drawn) == 4 + 4  # of two batches a prompt, the first prompt's two are not drawn again
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_run_does_not_go_on_with_another_ranker(draw, by_code_sum):
    draw("ranked", ranking=by_code_sum)
    Path(by_code_sum["model"]).write_bytes(b"other weights")
    with pytest.raises(ShardError, match="input ranker: begun with"):
        draw("ranked", ranking=by_code_sum)


def test_clip_ranks_by_the_angle_between_picture_and_prompt(draw, monkeypatch, tmp_path):
    stand_in(monkeypatch)
    weights = save_towers(str(tmp_path / "clip.pt"))
    clip = {"model": "Two", "weights": weights, "batch_size": 2}
    rows = draw("ranked", ranking={"clip": clip, "keep": 3})
    clip = load_clip("Two", weights, torch.device("cpu"))
    for row in rows:
        with Image.open(tmp_path / "ranked" / row["picture"]) as opened:
            picture = clip.picture_features([np.asarray(opened)])
        assert row["score"] == pytest.approx(cosines(picture, clip.text_features([row["prompt"]]))[0], abs=1e-9)
    manifest = (tmp_path / "ranked" / "manifest.json").read_text()
    assert sha256_file(weights) in manifest
    assert weights not in manifest


def test_a_contrastive_model_of_the_same_tokenizers_ranks(draw, files, tmp_path):
    path, fingerprint = str(tmp_path / "contrastive.safetensors"), load_tokenizer(files["image_tokenizer"]).fingerprint
    text_tokenizer = TextTokenizer(files["text_tokenizer"])
    torch.manual_seed(0)
    model = Contrastive(ContrastiveShape(**IDS, **SIZES, num_image_layers=1, embedding_width=8)).eval()
    save_contrastive(model, marks(fingerprint, text_tokenizer.fingerprint), path)
    rows = draw("ranked", ranking={"model": path})
    for row in rows:
        text_ids = torch.tensor([text_tokenizer.encode(row["prompt"])])
        assert row["score"] == pytest.approx(
            model.scores(text_ids, torch.tensor([row["image_tokens"]])).item(), abs=1e-6
        )
    for mine in (rows[:3], rows[3:]):
        assert [row["score"] for row in mine] == sorted({row["score"] for row in mine}, reverse=True)
    for kind, others in (("image", ("ab" * 32, text_tokenizer.fingerprint)), ("text", (fingerprint, "ab" * 32))):
        save_contrastive(model, marks(*others), path)
        with pytest.raises(TokenizerError, match=f"expected a ranker of the {kind} tokenizer .* found one of abababab"):
            draw("other", ranking={"model": path})


def test_tables_that_do_not_fit_are_refused(draw, tmp_path):
    clip = {"model": "Two", "weights": "none.pt"}
    for ranking, message in (
        ({}, "ranking: expected either a model or a table clip, found neither; give one of them"),
        ({"model": "a", "clip": clip}, "ranking: expected either a model or a table clip, found both; give one"),
        ({"clip": clip, "keep": 4}, "ranking.keep: expected at most the 3 samples of a prompt, found 4; lower it"),
        ({"clip": clip}, "ranking: expected a file of weights, found none at none.pt; make one or check the path"),
    ):
        with pytest.raises(ConfigError, match=message):
            draw("refused", ranking=ranking)
    assert not (tmp_path / "refused").exists()


def test_scores_that_are_none_are_refused(draw, by_code_sum, monkeypatch):
    monkeypatch.setattr(CodeSum, "scores", lambda _, prompts, tokens: np.full(len(prompts), np.nan))
    with pytest.raises(CheckpointError, match="ranking: expected finite scores, found others; check the ranker's"):
        draw("ranked", ranking=by_code_sum)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_that_is_not_there_is_refused(draw, tmp_path, monkeypatch, compiled):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        TokenizerError, match="^execution.device=cuda: expected a GPU where images are encoded or decod"
    ):
        draw("a", execution={"device": "cuda", "compile": compiled})
    assert not (tmp_path / "a").exists()
