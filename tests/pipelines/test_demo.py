import csv
import io
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from parti_data.claim import claim
from parti_data.errors import PartiError
from parti_data.manifest import BEGUN
from parti_data.metrics import PipelineRun, StageMetrics, write_metrics
from parti_data.scenes import has_new_combination, is_held_out_prompt, parse_caption
from pipelines import demo
from pipelines.demo import CATEGORIES, DemoConfig, configs_directory, demo_commands, rows_per_s, scene_prompts


def test_prompts_are_as_many_as_asked_for_and_none_occurs_in_training():
    rows = list(csv.DictReader(io.StringIO(scene_prompts(6)), delimiter="\t"))
    assert Counter(row["Category"] for row in rows) == dict.fromkeys(CATEGORIES, 6)
    assert len({row["Prompt"] for row in rows}) == 24
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


def test_a_step_that_fails_ends_the_demo(capfd):
    with pytest.raises(PartiError, match="parti none: expected to finish, found exit code 2; see above"):
        demo._run(["none"], demo.Stops())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_ends_its_step_in_one_line_and_frees_its_directories(tmp_path, number):
    command = [sys.executable, "-m", "pipelines.command_line", "demo", f"output={tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if (tmp_path / "pairs" / BEGUN).exists():
                break
            time.sleep(0.1)
        (child,) = psutil.Process(process.pid).children()
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait() == 128 + number
    assert not child.is_running()
    assert said == "stopped; run the same command again to go on, what is finished is kept\n"
    with claim(str(tmp_path)), claim(f"{tmp_path}/pairs"):
        pass


def test_a_step_that_was_stopped_alone_stops_the_demo():
    with pytest.raises(SystemExit) as stopped:
        demo.Stops().run(["sh", "-c", "exit 143"])
    assert stopped.value.code == 143


def test_no_step_begins_after_a_stop():
    stops = demo.Stops()
    with pytest.raises(SystemExit) as stopped, stops.handed_on():
        signal.raise_signal(signal.SIGTERM)
        stops.run(["false"])
    assert stopped.value.code == 143


def test_the_speed_of_each_pipeline_is_in_the_summary(tmp_path):
    values = {
        "ended": "", "engine": "local", "workers": 1, "counts": {"rows": 30}, "peak_memory_bytes": 1,
        "peak_child_memory_bytes": 0,
    }  # fmt: skip
    runs = [PipelineRun(pipeline=name, seconds=seconds, **values) for name, seconds in (("measure", 3), ("judge", 1))]
    write_metrics(f"{tmp_path}/pairs", StageMetrics(runs=runs))
    write_metrics(f"{tmp_path}/tokens", StageMetrics(runs=[PipelineRun(pipeline="tokenize", seconds=6, **values)]))
    assert rows_per_s(str(tmp_path)) == {"pairs measure": 10, "pairs judge": 30, "tokens tokenize": 5}
