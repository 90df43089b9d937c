import json
import shutil
from pathlib import Path

import pytest

from parti_data.manifest import MANIFEST
from parti_data.quality import PrecisionQuality, QualityFloors, RunQuality
from pipelines.report import write_report
from pipelines.report.quality import read_quality
from pipelines.report.stages import FinishedStage, find_stages


@pytest.fixture
def copy(tokens, tmp_path) -> Path:
    return Path(shutil.copytree(tokens, tmp_path / "run" / "tokens"))


def stage_of(directory: Path) -> FinishedStage:
    return find_stages(str(directory.parent)).of("tokenize")[0]


def restate(directory: Path, change) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    change(manifest["details"])
    (directory / MANIFEST).write_text(json.dumps(manifest))


def page_of(directory: Path) -> str:
    return Path(write_report(str(directory.parent))).read_text()


def test_each_sampled_picture_is_shown_with_its_psnr_and_each_part_has_a_row(copy):
    stage, page = stage_of(copy), page_of(copy)
    quality = read_quality(stage)
    assert quality is not None
    stated = stage.manifest.details["quality"]
    assert [one.psnr_db for one in quality.reconstructions] == [one["psnr_db"] for one in stated["sample"]]
    assert len(quality.reconstructions) == 2
    for one in quality.reconstructions:
        assert one.picture.uri in page
        assert f"<figcaption>{one.psnr_db:.1f} dB</figcaption>" in page
    assert {part.name for part in quality.parts} == {f"{kind} {n}" for kind in ("slice", "shard") for n in range(3)}
    worst = min(stated["slices"], key=lambda one: one["psnr_db"])
    assert quality.parts[0].name == f"slice {worst['number']}"
    assert quality.note == ""
    assert "What is left of the pictures" in page


def test_what_seems_mixed_up_is_told(copy):
    restate(copy, lambda details: details["quality"]["slices"][1].update(mixup="red & blue look swapped"))
    assert '<p class="problem">red &amp; blue look swapped</p>' in page_of(copy)


def test_of_many_slices_the_worst_are_shown(copy):
    def repeat(details):
        details["quality"]["slices"] *= 10

    restate(copy, repeat)
    quality = read_quality(stage_of(copy))
    assert quality is not None
    assert quality.note == "the 12 worst of 30 slices, the first 3 of 3 shards"
    assert len(quality.parts) == 12 + 3
    assert quality.note in page_of(copy)


def test_a_directory_from_before_it_was_measured_is_shown_without(copy):
    restate(copy, lambda details: details.pop("quality"))
    page = page_of(copy)
    assert "What is left of the pictures" not in page
    assert "cannot be shown" not in page


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda details: details["quality"].pop("slices"), "expected a manifest that tells the quality of its tokens"),
        (lambda details: details["quality"]["sheet"].update(name="no.png"), "no.png: expected a file that tokenize"),
        (lambda details: details["quality"]["sheet"].update(name=MANIFEST), "expected a picture, found image_unreadab"),
    ],
)
def test_quality_that_cannot_be_read_is_told(copy, change, problem):
    restate(copy, change)
    assert problem in page_of(copy)


def test_a_run_is_summed_up_in_figures(tokens):
    stated = json.loads(Path(f"{tokens}/{MANIFEST}").read_text())["details"]["quality"]
    run = RunQuality.model_validate(stated)
    assert run.floors == QualityFloors(sample=2, min_psnr_db=0.0)
    assert dict(run.figures()).keys() == {
        "PSNR of the samples", "codes in use (least of a shard)", "rows with equal tokens (most of a shard)",
    }  # fmt: skip
    other = run.model_copy(
        update={"precision": PrecisionQuality(differing_tokens=0.0125, differing_rows=0.5), "slices": run.slices[:1]}
    )
    assert dict(other.figures())["tokens unlike float32"] == "1.2 %"
    assert dict(other.figures())["PSNR of the samples"] == f"{run.slices[0].psnr_db:.1f} dB"
