import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from spoiled_tokens import edit_manifest, write_anyhow

from parti_data.charts import BOTTOM, TOP, Axes, Series, draw_code_usage, draw_curves, thin
from parti_data.errors import ShardError, StorageError
from parti_data.figures import say_bytes, say_count, say_figure, say_seconds, say_share
from parti_data.images import image_key, to_png
from parti_data.ledger import LedgerRow, PairDirectory, write_ledger
from parti_data.manifest import Beginning, StageDirectory, begin, manifest_digest, read_manifest, record_shard
from parti_data.metrics import PipelineRun, StageMetrics, write_metrics
from parti_data.shard_footer import column_bytes
from parti_data.sources import SyntheticSource
from parti_data.token_shard import ShardMetadata, TokenRow, token_schema
from pipelines.report import page as page_module
from pipelines.report import write_report
from pipelines.report.funnel import find_examples, read_funnel
from pipelines.report.samples import choose
from pipelines.report.stages import FinishedStage, find_stages
from pipelines.report.times import read_times
from pipelines.report.tokens import read_tokens
from pipelines.report.training import drawn_steps, read_prior, read_tokenizer, split_reconstructions

HOSTILE = "<script>alert(1)</script>\"'><img src=https://example.org/x.png onerror=alert(2)>"
CODES, GRID = 16, 2


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def directory(path: Path, stage: str, config: dict | None = None, inputs: dict | None = None) -> StageDirectory:
    begun = begin(str(path), Beginning(stage=stage, config=config or {}, inputs=inputs or {}))
    assert isinstance(begun, StageDirectory)
    return begun


def ledger_row(source: SyntheticSource, number: int, reason: str, **changes) -> LedgerRow:
    outcome, _, reason = reason.partition(" ")
    image = next(source.read(source.splits()[0]._replace(first=number, count=1), 1 << 20)).image
    row = LedgerRow(
        image_key(image), "synthetic", str(number), outcome, reason, "", "", [f"caption {number}"], 64, 64, len(image),
        "PNG", "", {}, {}, "synthetic", number, len(image),
    )  # fmt: skip
    return row._replace(**changes)


def make_pairs(
    path: Path, caption: str = "a plain caption", kept: int = 8, source: dict | None = None, place: str = "synthetic"
) -> None:
    synthetic = SyntheticSource(num_pairs=20)
    begun = directory(path, "filter", {"source": source or synthetic.model_dump(mode="json")})
    rows = [ledger_row(synthetic, number, "kept", captions=[caption]) for number in range(kept)]
    rows += [
        ledger_row(synthetic, 8, "merged exact_duplicate", merged_into="ab" * 16),
        ledger_row(synthetic, 9, "dropped caption_missing", captions=[]),
        ledger_row(synthetic, 10, "dropped image_too_many_bytes", size=1 << 40, key="", detail="far too large"),
    ]
    rows = [row._replace(path=place) for row in rows]
    write_ledger(str(path / "ledger-00000-of-00001.parquet"), rows)
    reasons = {"kept": kept, "merged exact_duplicate": 1, "dropped caption_missing": 1}
    begun.finish(
        [record_shard(str(path), "ledger-00000-of-00001.parquet", len(rows))],
        {"read": kept + 3, "kept": kept, "merged": 1, "dropped": 2},
        {"reasons": reasons | {"dropped image_too_many_bytes": 1}, "kept": [kept]},
    )


def make_tokenizer(path: Path) -> None:
    begun = directory(path, "train_tokenizer")
    lines = [{"step": n, "lr": 0.1, "total": 2.0 / n, "logit_laplace": 1.0 - n} for n in range(1, 6)]
    lines.append({"step": 5, "psnr_db": 21.5, "code_usage": 0.75})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "reconstructions.png").write_bytes(to_png(np.zeros((16, 96, 3), np.uint8)))
    shape = {"codebook_size": CODES, "image_side": 8, "patch_side": 4}
    begun.finish([], {"pictures": 12}, {"psnr_db": 21.5, "code_usage": 0.75, "shape": shape})


def make_palette(path: Path) -> None:
    begun = directory(path, "train_palette")
    (path / "metrics.jsonl").write_text('{"step": 1, "mean_squared_distance": 0.5}\n' * 2)
    (path / "reconstructions.png").write_bytes(to_png(np.zeros((16, 96, 3), np.uint8)))
    (path / "palette.png").write_bytes(to_png(np.full((16, 512, 3), 77, np.uint8)))
    shape = {"codebook_size": 32, "image_side": 16, "patch_side": 1}
    begun.finish([], {"pictures": 12}, {"psnr_db": 36.5, "code_usage": 1.0, "shape": shape})


def make_tokens(path: Path, largest: int = 3, pairs: int = 40, stage: str = "tokenize") -> None:
    begun = directory(path, stage)
    metadata = ShardMetadata(
        image_tokenizer="a", image_tokenizer_name="vit_vqgan", codebook_size=CODES, grid_side=GRID, image_side=8,
        resize_recipe="resize_center", resize_library="pillow", precision="float32", text_tokenizer="b",
        text_vocabulary_size=64, config_digest="c", input_digest="d",
    )  # fmt: skip
    rows = [
        TokenRow(
            f"{n:032x}", 0, [0, 0, 8, 8], False, ["x"], [[1]], np.array([0, 0, 1, n % 4 if n else largest]), "s", "k"
        )
        for n in range(40)
    ]
    columns = {name: [getattr(row, name) for row in rows] for name in TokenRow._fields}
    columns["image_tokens"] = [tokens.tolist() for tokens in columns["image_tokens"]]
    table = pa.table(columns, schema=token_schema(metadata))
    write_anyhow(path / "tokens-00000-of-00001.parquet", [table], metadata)
    begun.finish([record_shard(str(path), "tokens-00000-of-00001.parquet", 40)], {"pairs": pairs, "rows": 40})


def make_prior(path: Path) -> None:
    begun = directory(path, "train_prior", {"batch_size": 20, "text_drop": 0.1})
    lines = [{"step": n, "lr": 0.1, "total": 3.0 / n, "memory_bytes": 2.5e9} for n in range(1, 6)]
    lines += [{"step": step, "held_out_loss": loss} for step, loss in ((1, 2.5), (4, 1.125), (5, 1.25))]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shape = {"codebook_size": CODES, "dropout": 0.2}
    begun.finish([], {"rows": 40}, {"parameters": 1_234_567, "shape": shape, "weights": "average"})


def make_samples(path: Path, evaluation: Path, prompt: str = "a red circle", num_prompts: int = 3) -> None:
    begun = directory(path, "sample")
    names = [f"sample-{n:05d}-000.png" for n in range(3)]
    for name in names:
        (path / name).write_bytes(to_png(np.full((8, 8, 3), 200, np.uint8)))
    table = {"prompt": [prompt] * 3, "category": ["one object"] * 3, "sample": [0] * 3, "picture": names}
    pq.write_table(pa.table(table), path / "samples.parquet")
    begun.finish([record_shard(str(path), name, 0) for name in names], {"prompts": num_prompts, "images": 3})
    begun = directory(evaluation, "evaluate", inputs={"samples": manifest_digest(str(path))})
    verdicts = {"is_right": [True, False, None], "fault": ["", "gray background", "not judged"]}
    pq.write_table(pa.table({"picture": names, "prompt": [prompt] * 3} | verdicts), evaluation / "verdicts.parquet")
    begun.finish([], {"judged": 2, "not_judged": 1}, {"accuracy": {"one object": 0.5}})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory with every stage that has a section."""
    make_pairs(tmp_path / "pairs", HOSTILE)
    make_tokenizer(tmp_path / "tokenizer")
    make_tokens(tmp_path / "tokens")
    make_prior(tmp_path / "prior")
    make_samples(tmp_path / "samples", tmp_path / "evaluation", HOSTILE)
    return tmp_path


def read_page(path: Path) -> str:
    return Path(write_report(str(path))).read_text()


def test_the_page_lies_in_the_directory(run):
    assert write_report(str(run)) == f"{run}/report.html"
    assert [path.name for path in run.iterdir() if path.is_file()] == ["report.html"]


def test_every_stage_has_its_section(run):
    page = read_page(run)
    headings = re.findall(r"<h2>(.+?) <small>", page)
    assert headings == ["What became of the pairs", "Image tokenizer", "Token shards", "Prior", "Samples"]
    assert "cannot be shown" not in page


def test_a_stage_that_is_not_there_has_no_section(tmp_path):
    make_prior(tmp_path / "prior")
    assert re.findall(r"<h2>(.+?) <small>", read_page(tmp_path)) == ["Prior"]


def test_a_stage_s_own_directory_is_reported_too(tmp_path):
    make_prior(tmp_path / "prior")
    assert "1.23 million" in read_page(tmp_path / "prior")


def test_a_prior_s_losses_are_told_with_their_lowest_and_what_they_are_of(run):
    prior = read_prior(find_stages(str(run)).of("train_prior")[0])
    assert prior.figures == [
        ("parameters", "1.23 million"), ("training rows", "40"), ("epochs", "2.5"), ("loss, nats a token", "0.6"),
        ("held-out loss", "1.25"), ("its lowest", "1.12 at step 4"),
    ]  # fmt: skip
    curve = prior.curves[0]
    assert [line.name for line in curve.curves] == ["training", "held out"]
    assert "held out: 2.5 at step 1, 1.25 at step 5, lowest 1.12" in curve.description
    assert (curve.reference and curve.reference.text) == "even guess"
    assert [(chart.title, chart.curves[0].last) for chart in prior.progress] == [
        ("learning rate", "0.1"), ("peak memory, GB", "2.5"),
    ]  # fmt: skip
    page = re.sub(r"<.*?>", "", read_page(run))
    assert "of the 20 rows of a step, with dropout, 90.0 % of them with their text; the held-out loss" in page
    assert "without dropout, by the average of the weights." in page


def test_both_sides_of_a_source_stand_with_the_larger_first(tmp_path):
    make_pairs(tmp_path / "a_held_out", kept=2)
    make_pairs(tmp_path / "pairs", kept=5)
    for name, read in (("a_held_out", 8), ("pairs", 8)):
        path = tmp_path / name / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["counts"]["read"] = read
        path.write_text(json.dumps(manifest))
    assert [stage.name for stage in find_stages(str(tmp_path)).finished] == ["pairs", "a_held_out"]


def pipeline_run(pipeline: str, **changes) -> PipelineRun:
    values = {
        "pipeline": pipeline, "ended": "2026-01-02T03:04:05+00:00", "engine": "local", "workers": 2, "seconds": 80.0,
        "counts": {"rows": 1000, "image_bytes": 8_000_000, "written_bytes": 5000},
        "steps": {"read": 30.0, "decode": 90.0, "caption": 0.01}, "peak_memory_bytes": 250_000_000,
        "peak_child_memory_bytes": 0,
    }  # fmt: skip
    return PipelineRun(**values | changes)


def test_a_stage_tells_where_its_time_went(run):
    runs = [pipeline_run("measure"), pipeline_run("measure", seconds=20.0), pipeline_run("judge", seconds=0.25)]
    write_metrics(f"{run}/pairs", StageMetrics(runs=runs))
    stage = find_stages(str(run)).of("filter")[0]
    measure, judge = read_times(stage)
    assert dict(measure.figures) == {
        "time": "1 min 40 s", "rows": "2,000", "rows a second": "20", "images": "160 kB/s", "written": "10 kB",
        "peak memory": "250 MB",
    }  # fmt: skip
    assert dict(judge.figures)["time"] == "0.25 s"
    assert [(step.name, step.time, round(step.share, 3)) for step in measure.steps] == [
        ("decode", "180 s", 0.75), ("read", "60 s", 0.25), ("caption", "0.02 s", 0.0),
    ]  # fmt: skip
    assert (measure.note, judge.note) == ("2 workers on this machine, in 2 runs", "2 workers on this machine")
    page = read_page(run)
    assert "<h2>Where the time went" in page
    assert page.count("pairs: measure") == page.count("pairs: judge") == 1
    assert "75.0 %, 180 s" in page


def test_an_engine_that_tells_no_steps_has_its_time_shown(run):
    silent = pipeline_run("measure", engine="FlinkRunner", workers=None, counts={}, steps={})
    write_metrics(f"{run}/pairs", StageMetrics(runs=[silent]))
    (measure,) = read_times(find_stages(str(run)).of("filter")[0])
    assert dict(measure.figures) == {"time": "1 min 20 s", "peak memory": "250 MB"}
    assert measure.note == "workers as the engine decided on FlinkRunner"
    assert "The engine tells no steps." in read_page(run)


def test_without_metrics_nothing_is_said_of_time(run):
    assert "Where the time went" not in read_page(run)


def test_broken_metrics_cost_only_their_own_place(run):
    (run / "pairs/metrics.json").write_text("{}}")
    page = read_page(run)
    assert "The times of pairs cannot be shown. " in page
    assert "/pairs/metrics.json: expected metrics, found" in page
    assert "What became of the pairs" in page


def test_two_reports_are_the_same_bytes(run):
    assert read_page(run) == read_page(run)


def test_a_hostile_caption_is_escaped(run):
    page = read_page(run)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    tags = Tags(page).found
    assert not [tag for tag, attributes in tags if tag == "script" or any(name.startswith("on") for name in attributes)]


def test_the_page_loads_nothing_from_outside(run):
    page = read_page(run)
    tags = Tags(page).found
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in tags}
    sources = [attributes[name] for _, attributes in tags for name in ("src", "href", "srcset") if name in attributes]
    assert sources
    assert all((source or "").startswith("data:image/") for source in sources)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_every_reason_has_its_row(run):
    rows = re.findall(r'<div class="reason">\s*<div><h3>(.+?)</h3>', read_page(run))
    assert [re.sub(" <small>.*", "", row) for row in rows] == [
        "kept", "exact duplicate", "caption missing", "image too many bytes",
    ]  # fmt: skip


def test_each_reason_has_at_most_six_examples(tmp_path):
    make_pairs(tmp_path / "pairs")
    funnel = read_funnel(find_stages(str(tmp_path)).finished[0])
    assert [len(reason.examples) for reason in funnel.reasons] == [6, 1, 1, 1]
    assert sum(reason.count for reason in funnel.reasons) == funnel.read == 11


def test_reading_stops_when_every_reason_has_its_examples():
    class Endless:
        def ledger(self):
            yield from (ledger_row(SyntheticSource(num_pairs=9), number, "kept") for number in range(6))
            raise AssertionError("read on")

    assert len(find_examples(Endless(), {"kept": 1000})["kept"]) == 6


def test_bytes_that_show_no_picture_leave_a_placeholder_with_the_detail(run):
    page = read_page(run)
    assert page.count('class="nothing"') == 1
    assert "far too large" in page


def test_a_source_that_has_gone_leaves_placeholders_and_one_note(tmp_path):
    make_pairs(tmp_path / "pairs", source={"kind": "webdataset", "path": str(tmp_path / "gone")})
    page = read_page(tmp_path)
    assert page.count('class="nothing"') == 9
    assert page.count("Some pictures could not be fetched from the source: ") == 1


@pytest.mark.parametrize(("path", "problem"), [("s3://a/b.tar", "to read it, found"), ("no://a/b.tar", "no")])
def test_a_source_out_of_reach_leaves_placeholders_and_is_asked_once(tmp_path, monkeypatch, path, problem):
    fetched, fetch = [], PairDirectory.fetch
    nowhere = {"endpoint_url": "http://localhost:1", "key": "k", "secret": "s"}
    monkeypatch.setitem(fsspec.config.conf, "s3", nowhere | {"config_kwargs": {"retries": {"max_attempts": 1}}})
    monkeypatch.setattr(PairDirectory, "fetch", lambda self, row: fetched.append(row) or fetch(self, row))
    make_pairs(tmp_path / "pairs", source={"kind": "webdataset", "path": path}, place=path)
    page = read_page(tmp_path)
    assert page.count('class="nothing"') == 9
    assert page.count("Some pictures could not be fetched from the source: ") == 1
    assert problem in page
    assert len(fetched) == 1


def test_a_file_out_of_reach_costs_only_its_own_section(run, monkeypatch):
    def refuse(stage: object) -> None:
        raise StorageError("s3://a: expected to read it, found PermissionError (no); give credentials that may")

    monkeypatch.setattr(page_module, "read_prior", refuse)
    page = read_page(run)
    assert page.count("This stage cannot be shown.") == 1
    assert "found PermissionError (no)" in page


def test_a_stage_s_file_that_cannot_be_read_is_not_said_to_be_gone(run):
    (run / "prior/metrics.jsonl").unlink()
    (run / "prior/metrics.jsonl").mkdir()
    assert "Is a directory" in read_page(run)


def test_what_an_evaluation_measured_besides_stands_among_the_key_figures(run):
    inputs = {"samples": manifest_digest(f"{run}/samples")}
    figures = {
        "probe_prior_accuracy": 0.75,
        "probe_pixels_accuracy": 0.5,
        "fid": 12.345,
        "recall": 0.625,
        "held_out_nats_a_token": 4.5678,
        "held_out_nats_a_token_interval": 0.01,
    }
    directory(run / "another", "evaluate", inputs=inputs).finish([], {"samples": 3}, {"figures": figures})
    page = read_page(run)
    tiles = re.findall(r'<span class="label">(.+?)</span><span class="value">(.+?)</span>', page)
    assert {("linear probe", "75.0 %"), ("probe of pixels", "50.0 %"), ("recall", "62.5 %")} <= set(tiles)
    assert {("FID", "12.3"), ("held-out nats a token", "4.57"), ("right: one object", "50.0 %")} <= set(tiles)
    assert not any("interval" in label for label, _ in tiles)
    assert "Verdicts: evaluation." in page


@pytest.mark.parametrize(("num_prompts", "note"), [(3, "for 3 prompts"), (0, "without prompts")])
def test_images_are_said_to_be_for_prompts_where_there_are_some(tmp_path, num_prompts, note):
    make_samples(tmp_path / "samples", tmp_path / "evaluation", num_prompts=num_prompts)
    assert note in read_page(tmp_path)


def test_the_verdict_is_a_sign_and_words_not_only_a_colour(run):
    page = re.sub(r"<.*?>", "", read_page(run))
    assert "✓ right" in page
    assert "✗ gray background" in page
    assert page.count("✓") + page.count("✗") == 2
    assert "50.0 % right, 3 samples" in page


def make_curves(path: Path, curves: object) -> None:
    begun = directory(path, "evaluate")
    begun.finish([], {"judged": 6}, {"figures": {}, "curves": curves})


def test_curves_of_an_evaluation_have_their_charts(tmp_path):
    lines = [
        {"name": "best by score", "points": [[1, 0.5], [2, 0.625], [3, 0.75]]},
        {"name": HOSTILE, "points": [[1, 1]]},
    ]
    panel = {"category": HOSTILE, "num_pictures": 6, "lines": lines, "reference": ["one sample", 0.5]}
    curves = {"title": "Right pictures", "x_label": "candidates a prompt", "panels": [panel]}
    make_curves(tmp_path / "evaluation", {"best_of": curves})
    page = read_page(tmp_path)
    assert re.findall(r"<h2>(.+?) <small>", page) == ["Curves"]
    assert "best by score 0.75</span>" in page
    assert "best by score: 0.5 at candidates a prompt 1, 0.75 at candidates a prompt 3" in page
    assert 'class="axis">candidates a prompt</text>' in page
    ((places,),) = [re.findall(r'<polyline class="line-1" points="([^"]+)"', page)]
    heights = [float(place.partition(",")[2]) for place in places.split()]
    assert heights == pytest.approx([BOTTOM + share * (TOP - BOTTOM) for share in (0.5, 0.625, 0.75)])
    assert "<script>" not in page


@pytest.mark.parametrize("curves", [{"best_of": {"title": 3}}, [1]])
def test_other_curves_are_told_as_a_problem(tmp_path, curves):
    make_curves(tmp_path / "evaluation", curves)
    assert "expected curves as evaluate writes them, found others; run evaluate into a new" in read_page(tmp_path)


def test_curves_without_end_are_told_as_a_problem(tmp_path):
    panel = {"category": "one", "num_pictures": 1, "lines": [{"name": "right", "points": [[12345, 1]]}]}
    make_curves(tmp_path / "evaluation", {"best_of": {"title": "right", "x_label": "candidates", "panels": [panel]}})
    assert "cannot be shown" not in read_page(tmp_path)
    manifest = tmp_path / "evaluation" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("12345", "1e999"))
    assert "expected curves as evaluate writes them, found others; run evaluate into a new" in read_page(tmp_path)


def test_samples_that_were_not_kept_are_not_shown(run):
    path = run / "samples" / "samples.parquet"
    table = pq.read_table(path)
    names = [table["picture"][0].as_py(), "", ""]
    pq.write_table(table.set_column(table.column_names.index("picture"), "picture", [names]), path)
    assert "1 samples" in read_page(run)


def test_a_picture_that_the_manifest_does_not_list_is_never_shown(run):
    (run / "secret.png").write_bytes(to_png(np.zeros((8, 8, 3), np.uint8)))
    path = run / "samples" / "samples.parquet"
    table = pq.read_table(path)
    names = ["../secret.png", *table["picture"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.column_names.index("picture"), "picture", [names]), path)
    page = read_page(run)
    assert "expected pictures that its manifest lists, found &#39;../secret.png&#39;; run sample into" in page
    assert page.count("This stage cannot be shown.") == 1


def test_more_samples_than_fit_are_chosen_by_prompt():
    rows = [{"sample": copy, "prompt": prompt} for prompt in range(30) for copy in (7, 1)]
    assert choose(rows) == [{"sample": 7, "prompt": prompt} for prompt in range(24)]


@pytest.mark.parametrize(("measured_on", "shown"), [("held_out", "held-out pictures"), ("training", "training pic")])
def test_what_a_tokenizer_was_measured_on_is_shown(run, measured_on, shown):
    assert "measured on" not in read_page(run)
    path = run / "tokenizer" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["details"]["measured_on"] = measured_on
    path.write_text(json.dumps(manifest))
    page = read_page(run)
    assert "measured on" in page
    assert shown in page


def test_a_discrete_vae_has_the_section_and_the_tiles_of_an_image_tokenizer(run):
    path = run / "tokenizer" / "manifest.json"
    path.write_text(path.read_text().replace('"train_tokenizer"', '"train_dvae"'))
    lines = [{"step": step, "total": -1.0, "kl": 2.0, "tau": 1 / step, "beta": 6.6} for step in (1, 2)]
    (run / "tokenizer" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = re.sub(r"\s+", " ", read_page(run))
    assert "21.5 dB" in page
    assert page.count("of the image tokenizer") == 1
    for title in ("KL divergence, nats a token", "temperature", "KL weight"):
        assert title in page


def test_every_chart_of_a_tokenizer_says_by_itself_what_it_shows(run):
    names = ["psnr_db", "code_usage", "perplexity", "train_code_usage", "train_perplexity", "discriminator_r1"]
    names += ["discriminator_total", "discriminator_real_score", "discriminator_fake_score"]
    lines = [{"step": step, "total": 1.0} | dict.fromkeys(names, step / 9) for step in (1, 2)]
    (run / "tokenizer" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = str(run / "tokenizer")
    titles = [chart.title for chart in read_tokenizer(FinishedStage("tokenizer", path, read_manifest(path))).curves]
    assert len(set(titles)) == len(titles) == len(names) + 1
    assert not [title for title in titles if "the same" in title or title.startswith("its ")]


def test_a_palette_is_shown_with_its_colours_and_its_tokens_are_pixels(tmp_path):
    make_palette(tmp_path / "palette")
    page = read_page(tmp_path)
    colours = base64.b64encode(to_png(np.full((16, 512, 3), 77, np.uint8))).decode()
    assert f'<img src="data:image/png;base64,{colours}" alt="the colours, a square each">' in page
    assert "36.5 dB" in page
    assert ">256<" in page  # tokens an image
    assert "squared distance of a pixel from its colour" in page


def test_figures_of_image_tokenizers_of_several_kinds_say_whose_they_are(run):
    make_palette(run / "palette")
    page = re.sub(r"\s+", " ", read_page(run))
    for name in ("tokenizer", "palette"):
        assert f"of the reconstructions, {name}" in page


def test_reconstructions_become_a_picture_each(run):
    assert len(re.findall(r'alt="original \d+ above', read_page(run))) == 12


def test_reconstructions_of_a_few_steps_lie_between_the_original_and_the_last(run):
    path = run / "tokenizer"
    names = [f"reconstructions-{step:08d}.png" for step in (100, 200, 300, 400, 500)]
    for number, name in enumerate(names):
        (path / name).write_bytes(to_png(np.full((8, 96, 3), 50 * number, np.uint8)))
    manifest = read_manifest(str(path))
    records = [record_shard(str(path), name, 0) for name in names]
    beginning = Beginning(stage=manifest.stage, config=manifest.config, inputs=manifest.inputs)
    StageDirectory(str(path), beginning).finish(records, manifest.counts, manifest.details)
    stage = FinishedStage("tokenizer", str(path), read_manifest(str(path)))
    assert drawn_steps(stage) == [100, 300, 500]
    first = base64.b64decode(split_reconstructions(stage)[0].uri.partition(",")[2])
    with Image.open(io.BytesIO(first)) as opened:
        assert [int(row[0][0]) for row in np.asarray(opened)[4::8]] == [0, 0, 100, 0]  # original, 100, 300, the last
    page = re.sub(r"\s+", " ", read_page(run))
    assert "as they were at steps 100, 300 and 500." in page
    (path / names[0]).unlink()
    assert "expected a file that train_tokenizer wrote, found none" in read_page(run)


def test_the_summary_adds_time_and_memory(run):
    (run / "summary.json").write_text(json.dumps({"seconds": 431.2, "peak_memory_bytes": 1_900_000_000}))
    page = read_page(run)
    assert "7 min 11 s" in page
    assert "1.9 GB" in page


def test_a_broken_summary_is_refused(run):
    for content, found in (("[", "Invalid JSON"), ('{"seconds": "1"}', "Input should be a valid number")):
        (run / "summary.json").write_text(content)
        with pytest.raises(
            ShardError, match=rf"summary\.json: expected the demo's figures, found {found}.*; remove it"
        ):
            write_report(str(run))


def test_a_directory_without_stages_is_refused(tmp_path):
    with pytest.raises(ShardError, match="expected finished stages here or in subdirectories, found none; run a stage"):
        write_report(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_directory_with_only_unfinished_stages_is_refused(tmp_path):
    directory(tmp_path / "pairs", "filter")
    with pytest.raises(ShardError, match=r"found only unfinished ones \(pairs\)"):
        write_report(str(tmp_path))


def test_unfinished_stages_are_named(run):
    directory(run / "later", "filter")
    assert "unfinished: later<" in read_page(run)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("tokenizer/reconstructions.png", None, "expected a file that train_tokenizer wrote, found none"),
        ("tokenizer/reconstructions.png", b"no", "expected a picture, found image_unreadable"),
        ("tokenizer/reconstructions.png", bytes((32 << 20) + 9), "found image_too_many_bytes (33554433 bytes,"),
        ("prior/metrics.jsonl", b'{"step": 1}\n{', "a step in each line, found something else in line 2"),
        ("tokens/tokens-00000-of-00001.parquet", None, "expected a token shard, found"),
        ("samples/samples.parquet", b"no", "expected a table with picture, prompt, category, found"),
        ("pairs/ledger-00000-of-00001.parquet", None, "No such file"),
    ],
)  # fmt: skip
def test_a_broken_file_costs_only_its_own_section(run, file, content, problem):
    (run / file).unlink()
    if content is not None:
        (run / file).write_bytes(content)
    page = read_page(run)
    assert page.count("This stage cannot be shown.") == 1
    assert problem in page


@pytest.mark.parametrize(
    ("stage", "change", "found"),
    [
        ("pairs", lambda manifest: manifest["counts"].clear(), "read: Field required"),
        ("pairs", lambda manifest: manifest["details"].pop("reasons"), "reasons: Field required"),
        ("pairs", lambda manifest: manifest["details"].update(reasons={"lost": 1}), "reasons.lost.[key]: String sh"),
        ("pairs", lambda manifest: manifest["details"].pop("kept"), "kept: Field required"),
        ("tokenizer", lambda manifest: manifest["details"].update(shape=None), "shape: Input should be a valid dict"),
        ("prior", lambda manifest: manifest["config"].clear(), "batch_size: Field required"),
        ("samples", lambda manifest: manifest["counts"].clear(), "prompts: Field required"),
        ("evaluation", lambda manifest: manifest["details"].update(accuracy=[1]), "accuracy: Input should be a valid"),
    ],
)
def test_a_damaged_manifest_costs_only_its_own_place(run, stage, change, found):
    edit_manifest(run / stage, change)
    page = read_page(run)
    assert f"{run}/{stage}/manifest.json: expected a manifest as " in page
    assert f" writes it, found for {found}" in page
    assert page.count("This stage cannot be shown.") <= 1
    assert len(re.findall(r"<h2>(.+?) <small>", page)) == 5


def test_tokens_without_a_shard_are_shown_as_a_problem(tmp_path):
    directory(tmp_path / "tokens", "tokenize").finish([], {"rows": 0})
    assert "expected token shards, found none" in read_page(tmp_path)


def test_imported_tokens_have_their_section_and_stand_before_what_is_trained_on_them(tmp_path):
    make_prior(tmp_path / "a_prior")
    make_tokens(tmp_path / "tokens", stage="import_tokens")
    assert re.findall(r"<h2>(.+?) <small>", read_page(tmp_path)) == ["Token shards", "Prior"]
    assert [stage.name for stage in find_stages(str(tmp_path)).finished] == ["tokens", "a_prior"]


@pytest.mark.parametrize("pairs", [10, 40])
def test_images_are_counted_where_each_has_several_views(tmp_path, pairs):
    make_tokens(tmp_path / "tokens", pairs=pairs)
    shown = re.findall(r"<dt>images</dt><dd>(\d+)</dd>", read_page(tmp_path))
    assert shown == (["10"] if pairs == 10 else [])


def test_tokens_beyond_the_codebook_are_shown_as_a_problem(tmp_path):
    make_tokens(tmp_path / "tokens", largest=CODES)
    assert f"expected tokens below {CODES}, found {CODES}; run tokenize" in read_page(tmp_path)


def test_code_figures_are_those_of_the_shard(run):
    tokens = read_tokens(find_stages(str(run)).of("tokenize")[0])
    assert (tokens.rows, tokens.sampled_rows, tokens.codes_used, tokens.packed_bytes) == (40, 40, 4, 2.0)
    path = run / "tokens" / "tokens-00000-of-00001.parquet"
    assert 0 < column_bytes(str(path)) < path.stat().st_size
    assert tokens.image_bytes == column_bytes(str(path)) / 40


def test_negative_losses_fall_back_to_a_linear_scale():
    points = [(1.0, 100.0), (2.0, -5.0)]
    chart = draw_curves("loss", [Series("loss", points)], Axes(scale="log"))
    assert chart is not None
    assert chart.scale == "linear"
    assert [tick.place for tick in chart.y_ticks] == [BOTTOM, (TOP + BOTTOM) / 2, TOP]


def test_a_log_scale_has_its_geometric_mean_in_the_middle():
    chart = draw_curves("loss", [Series("loss", [(1, 0.01), (2, 1.0)])], Axes(scale="log"))
    assert chart is not None
    assert (chart.scale, [tick.text for tick in chart.y_ticks]) == ("log", ["0.01", "0.1", "1"])


def test_one_point_is_drawn_in_the_middle():
    chart = draw_curves("loss", [Series("loss", [(7, 0.5)])])
    assert chart is not None
    assert chart.curves[0].end_y == (TOP + BOTTOM) / 2
    assert draw_curves("loss", [Series("loss", [])]) is None


def test_long_series_are_thinned_and_end_where_they_end():
    points = [(float(step), step / 1000) for step in range(10_000)]
    thinned = thin(points)
    assert len(thinned) == 240
    assert thinned[-1] == points[-1]
    assert thin(points[:100]) == points[:100]


def test_code_usage_is_drawn_for_any_codebook():
    assert "100 %" in draw_code_usage(np.array([9, 0])).description
    assert len(draw_code_usage(np.ones(8192, int)).points.split()) == 2 * 128 + 2
    assert "0 %" in draw_code_usage(np.zeros(4, int)).description


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (say_count(1678), "1,678"), (say_count(2_340_000), "2.34 million"), (say_count(20_000_000_000), "20 billion"),
        (say_share(0), "0 %"), (say_share(1), "100 %"), (say_share(0.00001), "<0.1 %"), (say_share(0.99999), ">99.9 %"),
        (say_seconds(12.4), "12 s"), (say_seconds(431.2), "7 min 11 s"), (say_seconds(7260), "2 h 1 min"),
        (say_bytes(999), "999 bytes"), (say_bytes(1.9e9), "1.9 GB"), (say_bytes(5e12), "5 TB"),
        (say_figure(0), "0"), (say_figure(-0.1537), "-0.154"), (say_figure(2e-5), "2e-05"), (say_figure(1200), "1,200"),
    ],
)  # fmt: skip
def test_figures_are_said_in_three_digits(said, text):
    assert said == text
