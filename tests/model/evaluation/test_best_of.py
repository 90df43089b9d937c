from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from sample_directories import make_samples, rank_samples

from model.evaluation.best_of import RankedPrompts, best_of_weights, measure_best_of
from model.evaluation.evaluate import evaluate, figure_lines
from model.evaluation.evaluate_config import EvaluateConfig
from parti_data.errors import ConfigError, ShardError
from parti_data.scenes import draw_scene, make_scene

SCENES = [make_scene(0, index, num_objects=1) for index in range(3)]


@pytest.mark.parametrize("num_candidates", [1, 2, 7])
def test_shares_are_those_of_all_choices_of_candidates(num_candidates):
    is_right = np.random.default_rng(0).random((5, num_candidates)) < 0.4
    (panel,) = measure_best_of([RankedPrompts("all", is_right)]).panels
    for count in range(1, num_candidates + 1):
        choices = [list(choice) for choice in combinations(range(num_candidates), count)]
        best = np.mean([row[choice[0]] for row in is_right for choice in choices])
        right = np.mean([row[choice].any() for row in is_right for choice in choices])
        assert panel.lines[0].points[count - 1] == (count, pytest.approx(best, abs=6e-5))
        assert panel.lines[1].points[count - 1] == (count, pytest.approx(right, abs=6e-5))
    assert panel.reference == ("one sample", pytest.approx(is_right.mean(), abs=6e-5))


def test_weights_of_many_candidates_are_chances():
    weights = best_of_weights(512)
    assert weights.sum(1) == pytest.approx(np.ones(512))
    assert weights[-1].tolist() == [1] + [0] * 511


@pytest.fixture
def ranked(tmp_path) -> str:
    """Three scenes, two candidates each: both right, the better one right, none right; and a prompt of no scene."""
    right, wrong = [draw_scene(scene, 32) for scene in SCENES], np.zeros((32, 32, 3), np.uint8)
    pictures = [right[0], right[0], right[1], wrong, wrong, wrong, wrong, wrong]
    prompts = [(scene.caption(), "<one>", "") for scene in SCENES] + [("a wombat", "other", "")]
    path = make_samples(tmp_path / "samples", prompts, copies=2, pictures=pictures)
    rank_samples(path, [0.5, 0.25] * 4, kept=2)
    return path


def config(tmp_path, samples: str, **values) -> EvaluateConfig:
    values = {"output": str(tmp_path / "evaluation"), "samples": samples, "scenes": True, "best_of": True, **values}
    return EvaluateConfig.model_validate(values)


def test_ranked_scenes_have_a_curve_as_figures_and_as_a_picture(tmp_path, ranked):
    manifest = evaluate(config(tmp_path, ranked))
    assert manifest.details["accuracy"] == {"<one>": 0.5}
    (panel,) = manifest.details["curves"]["best_of"]["panels"]
    assert [(line["name"], line["points"]) for line in panel["lines"]] == [
        ("best by score", [[1, 0.5], [2, 0.6667]]),
        ("any right", [[1, 0.5], [2, 0.6667]]),
    ]
    assert (panel["num_pictures"], panel["reference"]) == (6, ["one sample", 0.5])
    assert figure_lines(manifest)[1:] == [
        "right, <one>, best by score: 0.5 at 1, 0.6667 at 2",
        "right, <one>, any right: 0.5 at 1, 0.6667 at 2",
    ]
    assert "best_of.svg" in [shard.name for shard in manifest.shards]
    drawn = ElementTree.fromstring(Path(tmp_path, "evaluation", "best_of.svg").read_text())
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"<one>, 6 pictures", "candidates a prompt", "share of right pictures", "one sample"} <= set(texts)
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}polyline"))) == 2


def test_what_has_no_such_curve_is_refused_before_anything_is_begun(tmp_path, ranked, monkeypatch):
    plain = make_samples(tmp_path / "plain", [("a wombat", "", "")])
    with pytest.raises(ShardError, match="plain: expected ranked samples for best_of, found some without a rank; run"):
        evaluate(config(tmp_path, plain))
    some = make_samples(tmp_path / "some", [("a wombat", "", "")], copies=3)
    rank_samples(some, [0.5, 0.25, 0], kept=2)
    with pytest.raises(ShardError, match="some: expected all 3 candidates kept for best_of, found 2; run sample with"):
        evaluate(config(tmp_path, some))
    odd = make_samples(tmp_path / "odd", [("a wombat", "", "")] * 3)
    rank_samples(odd, [0.5] * 3, kept=3)
    table = tmp_path / "odd" / "samples.parquet"
    rows = pq.read_table(table)
    pq.write_table(rows.set_column(rows.column_names.index("rank"), "rank", [[1, 2, 1]]), table)
    with pytest.raises(ShardError, match="odd: expected as many candidates of each prompt, best first, found others;"):
        evaluate(config(tmp_path, odd))
    with pytest.raises(ConfigError, match="best_of: expected with scenes=true alone, found without; add it or leave"):
        evaluate(config(tmp_path, ranked, scenes=False, page={}))
    monkeypatch.setattr("model.evaluation.best_of._MAX_CANDIDATES", 1)
    with pytest.raises(ShardError, match="expected at most 1 candidates of a prompt for best_of, found 2; run sample"):
        evaluate(config(tmp_path, ranked))
    assert not (tmp_path / "evaluation").exists()
