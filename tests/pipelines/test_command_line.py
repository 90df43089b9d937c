import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from sample_directories import make_samples

from parti_data.claim import claim
from parti_data.manifest import MANIFEST, read_manifest
from pipelines import run_command, runner
from pipelines.command_line import main

COMMANDS = [
    ["filter"], ["shard"], ["tokenize"], ["import-tokens"], ["export"], ["train", "text"], ["train", "tokenizer"],
    ["train", "dvae"], ["train", "palette"], ["train", "prior"], ["sample"], ["evaluate"], ["plan"], ["inspect"],
    ["verify"], ["report"], ["demo"],
]  # fmt: skip
JOBS = [command for command in COMMANDS if command[0] not in ("plan", "inspect", "verify", "report")]
ON_BEAM = ("filter", "shard", "tokenize", "import-tokens", "export")
SMALL = ["source.num_pairs=8", "source.side_px=32"]


@pytest.fixture
def parti(capsys):
    """Run the program; return its exit code, what it printed and what it complained of."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run


def test_a_stage_that_ends_well_exits_0_and_says_its_counts(parti, tmp_path):
    code, out, err = parti("filter", f"output={tmp_path}/a", *SMALL)
    assert (code, out, err) == (0, "filter: 0 dropped, 8 kept, 0 merged, 8 read\n", "")
    assert read_manifest(f"{tmp_path}/a").counts["kept"] == 8
    assert parti("filter", f"output={tmp_path}/a", *SMALL)[0] == 0


def test_the_stages_work_one_after_another(parti, tmp_path, image_file, text_file):
    parti("filter", f"output={tmp_path}/pairs", *SMALL)
    code, out, _ = parti("shard", f"source={tmp_path}/pairs", f"output={tmp_path}/shards", "pairs_per_shard=5")
    assert (code, out) == (0, "shard: 8 kept\n")
    files = [f"image_tokenizer={image_file}", f"text_tokenizer={text_file}", "quality.min_psnr_db=0"]
    code, out, _ = parti("tokenize", f"source={tmp_path}/shards", f"output={tmp_path}/tokens", *files)
    assert (code, out) == (0, "tokenize: 8 pairs, 8 rows\n")
    code, out, _ = parti("verify", tmp_path / "tokens")
    assert code == 0
    assert out.splitlines()[-1].endswith("8 rows encoded again, all ids equal")


def test_an_evaluation_says_its_figures(parti, tmp_path):
    samples = make_samples(tmp_path / "samples", [("a large red circle on a white background", "scenes", "")], side=32)
    code, out, _ = parti("evaluate", f"samples={samples}", "scenes=true", f"output={tmp_path}/evaluation")
    assert (code, out) == (0, "evaluate: 1 judged, 0 not judged\nright, scenes: 0\n")
    code, _, err = parti("evaluate", f"samples={samples}", f"output={tmp_path}/none")
    assert (code, err.startswith("error: evaluate: expected something to measure, found nothing; ")) == (2, True)


def test_a_linear_probe_is_an_evaluation_that_is_named_first(parti, tmp_path, tokens):
    from model.priors.prior_file import save_prior
    from model.priors.vim import VIM, VIMShape
    from parti_data.token_directory import open_token_directory

    shape = VIMShape(codebook_size=64, grid_side=4, width=8, hidden=8, num_heads=1, num_layers=1, dropout=0.0)
    save_prior(VIM(shape), open_token_directory(tokens).metadata, f"{tmp_path}/prior.safetensors")
    config = tmp_path / "a.toml"
    config.write_text(f'prior = "{tmp_path}/prior.safetensors"\noutput = "{tmp_path}/probe"\ndevice = "cpu"\n')
    code, out, _ = parti("evaluate", "probe", config, f"tokens={tokens}", "label_pattern=(white|black) background")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("evaluate: ")
    assert ", 2 classes, " in lines[0]
    assert [line.partition(":")[0] for line in lines[1:3]] == ["probe prior block", "probe prior accuracy"]
    assert read_manifest(f"{tmp_path}/probe").stage == "evaluate"
    assert "[probe] [CONFIG.toml]" in parti("evaluate", "--help")[1]


def test_a_directory_with_another_run_in_it_is_left_alone(parti, tmp_path, contents):
    with claim(f"{tmp_path}/a"):
        code, _, err = parti("filter", f"output={tmp_path}/a", *SMALL)
        assert (code, contents(tmp_path / "a")) == (1, {})
    assert err.startswith(f"error: {tmp_path}/a: expected no other run in the directory, found one at work; ")


TOKENIZED = ("source", "image_tokenizer", "text_tokenizer")
IMPORTED = ["source.kind=llamagen", "source.path=memory://a", "image_tokenizer=a", "text_tokenizer=memory://a"]


@pytest.mark.parametrize(
    ("stage", "name", "others"),
    [
        ("shard", "source", ["source=runs/x"]),
        ("filter", "source", ["source.kind=webdataset", "source.path=runs/x"]),
        ("filter", "source.root", ["source.kind=coco", "source.path=memory://a", "source.root=runs/x"]),
        ("tokenize", "image_tokenizer", ["source=memory://a", "image_tokenizer=runs/x", "text_tokenizer=memory://a"]),
        ("tokenize", "text_tokenizer", ["source=memory://a", "image_tokenizer=memory://a", "text_tokenizer=runs/x"]),
        ("tokenize", "tokenizer.config", [f"{name}=memory://a" for name in TOKENIZED] + ["tokenizer.config=runs/x"]),
        ("import-tokens", "source.labels", [*IMPORTED, "source.labels=runs/x"]),
    ],
)
def test_what_workers_open_on_this_machine_is_refused_for_dataflow(parti, monkeypatch, stage, name, others):
    options = PipelineOptions(["--runner=DataflowRunner"])
    monkeypatch.setattr(runner, "parse_options", lambda _: options)  # without asking Google
    code, _, err = parti(stage, *others, "output=memory://bucket/x", "--", "--runner=DataflowRunner")
    expected = f"error: {name}: expected a path that Dataflow's workers reach, found 'runs/x'; give a gs:// one\n"
    assert (code, err) == (2, expected)


def test_a_filter_directory_is_judged_again(parti, tmp_path):
    parti("filter", f"output={tmp_path}/a", *SMALL)
    code, _, err = parti("filter", f"output={tmp_path}/a", *SMALL, "rules.min_side_px=64")
    assert (code, "rules.min_side_px: begun with 16, now 64" in err) == (1, True)
    judged = parti(
        "filter", "--rejudge", f"output={tmp_path}/a", *SMALL, "rules.min_side_px=64", "max_dropped_fraction=1"
    )
    assert judged[:2] == (0, "filter: 8 dropped, 0 kept, 0 merged, 8 read\n")


def test_a_config_file_comes_first_and_overrides_after_it(parti, tmp_path):
    config = tmp_path / "a.toml"
    config.write_text(f'output = "{tmp_path}/a"\n[source]\nnum_pairs = 3\nside_px = 16\n')
    assert parti("filter", config, "source.num_pairs=4")[:2] == (0, "filter: 0 dropped, 4 kept, 0 merged, 4 read\n")


def test_beams_options_go_after_two_dashes(parti, tmp_path, contents):
    places = [f"{tmp_path}/a", f"{tmp_path}/b"]
    for place, options in zip(places, (["--direct_num_workers=1"], ["--direct_num_workers=2"]), strict=True):
        assert parti("filter", f"output={place}", *SMALL, "--", *options)[0] == 0
    assert contents(places[0]) == contents(places[1])


@pytest.mark.parametrize("stage", [[], ["filter"]])
def test_a_plan_is_printed_and_nothing_written(parti, tmp_path, monkeypatch, stage):
    monkeypatch.chdir(tmp_path)
    code, out, err = parti("plan", *stage, "output=a", *SMALL, "--pairs=4", "--", "--direct_num_workers=3")
    assert (code, err) == (0, "")
    assert out.startswith("filter\n  source     synthetic, 1 splits, 8 pairs\n  sampled    4 pairs of 1 splits\n")
    assert "3 threads are " in out
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_each_stage_is_printed(parti, tmp_path, image_file, text_file, filtered):
    files = [f"image_tokenizer={image_file}", f"text_tokenizer={text_file}"]
    assert parti("plan", f"source={filtered}", *files, "--pairs=64")[1].startswith("tokenize\n")
    assert parti("plan", "shard", f"source={filtered}")[1].startswith("shard\n")


def test_a_plan_of_no_source_exits_1_in_one_line(parti, tmp_path):
    code, out, err = parti("plan", "source.kind=webdataset", f"source.path={tmp_path}/none")
    expected = f"error: {tmp_path}/none/*.tar: expected tar files, found none; check source.path\n"
    assert (code, out, err) == (1, "", expected)


def test_what_went_wrong_exits_1_in_one_line(parti, tmp_path):
    code, out, err = parti("filter", f"output={tmp_path}/a", "source.kind=webdataset", f"source.path={tmp_path}/none")
    expected = f"error: {tmp_path}/none/*.tar: expected tar files, found none; check source.path\n"
    assert (code, out, err) == (1, "", expected)


def test_faults_exit_1_a_line_each(parti, tokens, tmp_path):
    copy = shutil.copytree(tokens, tmp_path / "copy")
    names = [shard.name for shard in read_manifest(tokens).shards]
    for name in names:
        (copy / name).unlink()
    code, out, err = parti("verify", copy)
    assert (code, out) == (1, "")
    first, *others = err.splitlines()
    assert first.startswith(f"error: {copy}: expected what its manifest.json says, found 3 faults; remove what is")
    assert [line.partition(": ")[0] for line in others] == [f"  {copy}/{name}" for name in names]


def test_verify_makes_as_many_pictures_again_as_it_is_told(parti, tokens):
    code, out, _ = parti("verify", tokens, "--sample", "5")
    assert code == 0
    assert out.endswith(f"{tokens}: 5 rows encoded again, all ids equal\n")
    assert parti("verify", tokens, "--sample=-1")[0] == 2


@pytest.mark.parametrize("command", ["verify", "report"])
def test_a_directory_that_is_none_exits_1(parti, tmp_path, command):
    code, out, err = parti(command, tmp_path / "none")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path}/none: expected ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["filter", "outptu=x"], "error: overrides: expected a known key, found 'outptu'; did you mean 'output'?\n"),
        (["filter", "output=x", "source.num_pair=1"], "did you mean 'source.num_pairs'?\n"),
        (["tokenize", "rows_per_shrd=1"], "did you mean 'rows_per_shard'?\n"),
        (["filter"], "expected a value for 'output', found none; add it to the file or as output=…\n"),
        (["filter", "none.toml"], "error: none.toml: expected a TOML file, found none (No such file or directory)"),
        (["filter", "a.toml", "b.toml"], "b.toml: expected one config file, found 2; give overrides as key=value\n"),
        (["filter", "output"], "error: output: expected key=value, found no '='"),
        (["filter", "output=x", "--", "--nothing=1"], "--nothing=1: expected an option of Beam's after --, found"),
        (["evaluate", "probe"], "expected a value for 'output', found none; add it to the file or as output=…\n"),
        (["evaluate", "probe", "held_out.prior=x"], "expected a known key, found 'held_out'; did you mean "),
        (["evaluate", "priors=x"], "expected a known key, found 'priors'; did you mean "),
        (["plan", "source.num_pair=1"], "did you mean 'source.num_pairs'?\n"),
        (["plan", "none.toml"], "error: none.toml: expected a TOML file, found none (No such file or directory)"),
        (["plan", "tokenize"], "expected a value for 'source', found none; add it to the file or as source=…\n"),
        (["tokenize", "--pairs", "5"], "--pairs: expected with --probe alone, found without; add --probe or leave"),
        (["train", "text", "source=x", "output="], "for 'output' that string should have at least 1 character, found"),
        (["verify", ""], "error: DIR: expected a path, found an empty one; see if its shell variable is set\n"),
        (["report", ""], "error: DIR: expected a path, found an empty one; "),
        (["forget", "", "--key=x"], "error: DIR: expected a path, found an empty one; "),
        (["inspect", ""], "error: PATH: expected a path, found an empty one; "),
        (["plan", "--", "--runner=FlinkRunner"], "--runner: expected none, since a plan is of this machine, found "),
    ],
)  # fmt: skip
def test_a_wrong_config_exits_2_in_one_line(parti, arguments, message):
    code, out, err = parti(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["fliter"], ["verify"], ["filter", "--nothing"], ["train", "nothing"]])
def test_wrong_usage_exits_2(parti, arguments):
    code, out, err = parti(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err


@pytest.mark.parametrize("command", [command for command in JOBS if command[0] not in ON_BEAM])
def test_beams_options_are_refused_where_there_is_no_beam(parti, command):
    code, _, err = parti(*command, "--", "--direct_num_workers=2")
    assert code == 2
    assert err == (
        "error: --direct_num_workers=2: expected no options after --, found some; this command does not use Beam\n"
    )


@pytest.mark.parametrize("command", [[], ["train"], *COMMANDS], ids=" ".join)
def test_help_is_there_at_each_level(parti, command):
    code, out, _ = parti(*command, "--help")
    assert code == 0
    assert out.lstrip().startswith("Usage: ")
    level = [
        known[len(command)] for known in COMMANDS if known[: len(command)] == command and len(known) > len(command)
    ]
    for name in level:
        assert name in out
    assert level or "[CONFIG.toml] [KEY=VALUE]" in out or "{DIR}" in out or "{PATH}" in out


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("apache_beam", "pipelines", ["filter", "output=x"]),
        ("torch", "model", ["train", "prior"]),
        ("jinja2", "report", ["report", "x"]),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(parti, monkeypatch, package, extra, arguments):
    def refuse(module: str):
        raise ModuleNotFoundError(f"No module named {package!r}", name=f"{package}.inner")

    monkeypatch.setattr(run_command, "import_module", refuse)
    code, _, err = parti(*arguments)
    assert code == 2
    assert f"expected the package {package}.inner, found none; pip install 'parti[{extra}]'\n" in err


def test_a_missing_module_of_ours_is_a_fault_and_no_missing_extra(monkeypatch):
    def refuse(module: str):
        raise ModuleNotFoundError("No module named 'parti_data.lost'", name="parti_data.lost")

    monkeypatch.setattr(run_command, "import_module", refuse)
    with pytest.raises(ModuleNotFoundError, match="lost"):
        main(["filter", "output=x"])


def test_every_package_outside_the_base_belongs_to_an_extra():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for package, extra in run_command.EXTRAS.items():
        stated = [line.replace("-", "_") for line in project["optional-dependencies"][extra]]
        assert any(line.startswith(package) for line in stated), package


def test_help_needs_neither_torch_nor_beam():
    """In a process of its own, as the packages are loaded here."""
    code = (
        "import sys; from pipelines.command_line import main\n"
        "try: main(['filter', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'apache_beam', 'scipy', 'jinja2'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_installed_program_exits_with_the_code(tmp_path):
    program = [sys.executable, "-m", "pipelines.command_line"]
    wrong = subprocess.run([*program, "filter", "outptu=x"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: overrides: expected a known key, found 'outptu'; did you mean 'output'?\n"
    (tmp_path / MANIFEST).write_text(json.dumps({}))
    failed = subprocess.run([*program, "verify", str(tmp_path)], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: {tmp_path}/{MANIFEST}: expected a manifest, found ")
    assert len(failed.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["sample"], ["evaluate"], ["train", "text"]])
def test_jobs_of_one_process_are_refused_under_torchrun(capsys, monkeypatch, words):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        main([*words, "nowhere.toml"])
    assert stopped.value.code == 2
    said = f"{words[-1]}: expected one process, found 2 that torchrun started; start it without"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("job", ["tokenizer", "prior"])
def test_a_rank_but_the_first_leaves_it_to_that_to_say_what_is_wrong_with_a_config(capsys, monkeypatch, job):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for rank, words in (("0", "expected a TOML file, found none"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as stopped:
            main(["train", job, "nowhere.toml"])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert words in error
        assert bool(error) == bool(words)
