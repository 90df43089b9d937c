import csv
import io
import subprocess
from collections import Counter

import pytest

from parti_data.errors import PartiError
from parti_data.metrics import PipelineRun, StageMetrics, write_metrics
from parti_data.scenes import has_new_combination, is_held_out_prompt, parse_caption
from pipelines import demo
from pipelines.demo import CATEGORIES, DemoConfig, configs_directory, demo_commands, rows_per_s, scene_prompts


def test_prompts_are_as_many_as_asked_for_and_none_occurs_in_training():
    rows = list(csv.DictReader(io.StringIO(scene_prompts(6)), delimiter="\t"))
    assert Counter(row["Category"] for row in rows) == dict.fromkeys(CATEGORIES, 6)
    assert len({row["Prompt"] for row in rows}) == 18
    for row in rows:
        split, num_objects = CATEGORIES[row["Category"]]
        scene = parse_caption(row["Prompt"])
        assert len(scene.objects) == num_objects
        assert has_new_combination(scene) == (split == "new_combinations")
        assert is_held_out_prompt(row["Prompt"]) or split == "new_combinations"


def test_every_step_of_the_demo_has_its_config_and_its_output(tmp_path):
    commands = demo_commands(DemoConfig(output=str(tmp_path)))
    for name, arguments in commands.items():
        assert arguments[-1] == f"output={tmp_path}/{name}"
        (config,) = [argument for argument in arguments if argument.endswith(".toml")]
        assert config.startswith(str(configs_directory()))


def test_a_step_reads_what_steps_before_it_wrote(tmp_path):
    made: set[str] = set()
    for name, arguments in demo_commands(DemoConfig(output=str(tmp_path))).items():
        places = [argument.partition("=")[2] for argument in arguments[:-1] if f"{tmp_path}/" in argument]
        read = {place.removeprefix(f"{tmp_path}/").partition("/")[0] for place in places}
        assert read <= made | {demo.PROMPTS}, name
        made.add(name)


def test_a_step_that_fails_ends_the_demo(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    with pytest.raises(PartiError, match="parti filter: expected to finish, found exit code 1; see above"):
        demo._run(["filter"])


def test_the_speed_of_each_pipeline_is_in_the_summary(tmp_path):
    values = {
        "ended": "", "engine": "local", "workers": 1, "counts": {"rows": 30}, "peak_memory_bytes": 1,
        "peak_child_memory_bytes": 0,
    }  # fmt: skip
    runs = [PipelineRun(pipeline=name, seconds=seconds, **values) for name, seconds in (("measure", 3), ("judge", 1))]
    write_metrics(f"{tmp_path}/pairs", StageMetrics(runs=runs))
    write_metrics(f"{tmp_path}/tokens", StageMetrics(runs=[PipelineRun(pipeline="tokenize", seconds=6, **values)]))
    assert rows_per_s(str(tmp_path)) == {"pairs measure": 10, "pairs judge": 30, "tokens tokenize": 5}
