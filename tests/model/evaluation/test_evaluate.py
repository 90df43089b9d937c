import pytest
from sample_directories import make_samples

from model.evaluation.evaluate import evaluate, figure_lines
from model.evaluation.evaluate_config import EvaluateConfig
from parti_data.errors import ConfigError, ShardError

RED = "a large red circle on a white background"


def config(tmp_path, **values) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"output": str(tmp_path / "evaluation"), "device": "cpu", **values})


def test_a_config_that_names_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="evaluate: expected something to measure, found nothing; add scenes=true"):
        evaluate(config(tmp_path, samples=str(tmp_path)))
    for values in ({"scenes": True}, {"page": {}}):
        with pytest.raises(ConfigError, match="samples: expected a directory that sample finished, found none; add"):
            evaluate(config(tmp_path, **values))


def test_several_measurements_share_one_directory(tmp_path):
    samples = make_samples(tmp_path / "samples", [(RED, "scenes\x1b[1m", ""), ("a wombat", "other", "")], side=32)
    manifest = evaluate(config(tmp_path, samples=samples, scenes=True, page={"title": "Both"}))
    assert manifest.counts == {"judged": 1, "not_judged": 1, "page_prompts": 2, "page_pictures": 2}
    assert {shard.name for shard in manifest.shards} == {
        "verdicts.parquet", "prompts.html", "pictures/0/00000-000.png", "pictures/0/00001-000.png",
    }  # fmt: skip
    assert figure_lines(manifest) == ["right, scenes [1m: 0"]


def test_what_is_measured_decides_and_where_it_lies_does_not(tmp_path):
    samples = make_samples(tmp_path / "samples", [(RED, "scenes", "")], side=32)
    first = evaluate(config(tmp_path, samples=samples, scenes=True))
    (tmp_path / "samples").rename(tmp_path / "moved")
    moved = str(tmp_path / "moved")
    assert evaluate(config(tmp_path, samples=moved, scenes=True)) == first
    with pytest.raises(ShardError, match="page: begun with None, now"):
        evaluate(config(tmp_path, samples=moved, scenes=True, page={}))
    other = make_samples(tmp_path / "other", [("a dog", "", "")], side=32)
    with pytest.raises(ShardError, match="input samples: begun with"):
        evaluate(config(tmp_path, samples=other, scenes=True))
