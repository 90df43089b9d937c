"""Forgetting that is stopped at any moment: never read as good, and done by the same command."""

import json
import runpy
import shutil
import signal
from pathlib import Path

import pytest
from stops_at_a_moment import StoppedError, stop_at
from test_forget import STAGES, by_key, silent

from parti_data.claim import claim
from parti_data.errors import ShardError
from parti_data.ledger import PairDirectory
from parti_data.manifest import BEGUN, MANIFEST, Beginning, begin, read_manifest, record_shard
from pipelines.forget import Options, forget
from pipelines.forget.swap import PLEDGE, fulfil, read_pledge

CHILD = str(Path(__file__).with_name("forget_killed_midway.py"))


class Setup:
    """A directory before, its keys to forget, and what it is afterwards."""

    def __init__(self, root: Path, request, contents):
        self.before, self.after, self.pledged = root / "before", root / "after", root / "pledged"
        for name, fixture in STAGES.items():
            shutil.copytree(request.getfixturevalue(fixture), self.before / name)
        (self.before / "report.html").write_text("old")
        kept = list(PairDirectory(str(self.before / "pairs")).kept())
        sample = read_manifest(str(self.before / "tokens")).details["quality"]["sample"]
        self.keys = [kept[40].key, sample[0]["key"]]
        shutil.copytree(self.before, self.after)
        with stop_at(-1) as passed:
            forget(str(self.after), by_key(*self.keys), silent)
        self.num_moments = passed()
        self.expected = contents(self.after)
        shutil.copytree(self.before, self.pledged)
        with stop_at(-1) as passed, pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipelines.forget.forget_rows.fulfil", lambda *given: (_ for _ in ()).throw(StoppedError))
            with pytest.raises(StoppedError):
                forget(str(self.pledged), by_key(*self.keys), silent)
        self.num_before_swap = passed()


@pytest.fixture(scope="module")
def setup(tmp_path_factory, request, contents) -> Setup:
    return Setup(tmp_path_factory.mktemp("stopped"), request, contents)


def assert_no_half_is_read_as_good(runs: Path) -> None:
    """Each stage is as its manifest says, or nobody takes it for finished or for begun."""
    for name in STAGES:
        directory = str(runs / name)
        if (runs / name / MANIFEST).exists():
            manifest = read_manifest(directory)
            assert [record_shard(directory, shard.name, shard.rows) for shard in manifest.shards] == manifest.shards
        elif not (runs / name / BEGUN).exists():
            with pytest.raises(ShardError, match="found one in which forget was stopped; run the same forget again"):
                read_manifest(directory)
            with pytest.raises(ShardError, match="found one in which forget was stopped; run the same forget again"):
                begin(directory, Beginning(stage="filter", config={}, inputs={}))
        else:
            raise AssertionError(f"{name} could be taken for begun")


def test_the_swap_goes_on_from_every_moment(setup, tmp_path, contents):
    with stop_at(-1) as passed:
        shutil.copytree(setup.pledged, tmp_path / "whole")
        fulfil(str(tmp_path / "whole"), read_pledge(str(tmp_path / "whole")))
    assert contents(tmp_path / "whole") == setup.expected
    num_moments, seen = passed(), set()
    assert num_moments > 40
    for moment in range(num_moments):
        runs = tmp_path / str(moment)
        shutil.copytree(setup.pledged, runs)
        with stop_at(moment), pytest.raises(StoppedError):
            fulfil(str(runs), read_pledge(str(runs)))
        assert_no_half_is_read_as_good(runs)
        seen.add(sum((runs / name / MANIFEST).exists() for name in STAGES))
        lines: list[str] = []
        if moment < num_moments - 1:  # behind the last one nothing is left to do
            forget(str(runs), by_key(*setup.keys), lines.append)
            assert lines[0].startswith("forget: went on where an earlier run was stopped; 11 files replaced, 8 ")
        assert contents(runs) == setup.expected, moment
        shutil.rmtree(runs)
    assert seen == {0, 1, 2, 3}


def test_until_the_swap_nothing_has_changed_and_a_rerun_does_it(setup, tmp_path, contents):
    before = contents(setup.before)
    for moment in range(0, setup.num_before_swap, 13):
        runs = tmp_path / str(moment)
        shutil.copytree(setup.before, runs)
        with stop_at(moment), pytest.raises(StoppedError):
            forget(str(runs), by_key(*setup.keys), silent)
        left = contents(runs)
        assert {name: content for name, content in left.items() if "forgetting" not in name} == before
        forget(str(runs), by_key(*setup.keys), silent)
        assert contents(runs) == setup.expected, moment


def test_a_process_that_is_killed_leaves_what_a_rerun_mends(setup, tmp_path, contents, processes):
    for moment in (setup.num_before_swap - 2, setup.num_before_swap + 12, setup.num_moments - 8):
        runs = tmp_path / str(moment)
        shutil.copytree(setup.before, runs)
        given = {"DIRECTORY": str(runs), "KEYS": setup.keys, "DIE_AT": moment}
        child = processes.Process(target=runpy.run_path, args=(CHILD, given, "__main__"))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        assert_no_half_is_read_as_good(runs)
        forget(str(runs), by_key(*setup.keys), silent)
        assert contents(runs) == setup.expected, moment


def test_new_files_of_other_names_are_not_taken(setup, tmp_path, contents):
    runs = Path(shutil.copytree(setup.pledged, tmp_path / "runs"))
    (runs / PLEDGE).unlink()
    forget(str(runs), by_key(setup.keys[1]), silent)
    forget(str(runs), by_key(setup.keys[0]), silent)
    found = {name: content for name, content in contents(runs).items() if not name.endswith(MANIFEST)}
    expected = {name: content for name, content in setup.expected.items() if not name.endswith(MANIFEST)}
    assert found.keys() == expected.keys()
    differing = [name for name in found if found[name] != expected[name]]
    assert differing == ["shards/begun.json", "tokens/begun.json"]  # their input has another history


def test_other_names_are_forgotten_after_the_first_are(setup, tmp_path):
    runs = Path(shutil.copytree(setup.pledged, tmp_path / "runs"))
    with pytest.raises(ShardError, match="expected a directory at rest, found one in which forget was stopped; run"):
        forget(str(runs), by_key("0" * 32), silent, Options(dry_run=True))
    other = next(row.key for row in PairDirectory(str(setup.after / "pairs")).kept())
    lines: list[str] = []
    forget(str(runs), by_key(other), lines.append)
    assert lines[0].startswith("forget: went on where an earlier run was stopped")
    assert read_manifest(str(runs / "tokens")).counts["pairs"] == 69


def test_a_file_that_changes_during_the_swap_keeps_the_stage_unfinished(setup, tmp_path, contents):
    runs = Path(shutil.copytree(setup.pledged, tmp_path / "runs"))
    path = runs / "shards" / "pairs-00003-of-00004.tar"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\1")
    with pytest.raises(ShardError, match=r"pairs-00003.*: expected \d+ bytes with SHA-256 .* after forgetting, found"):
        forget(str(runs), by_key(*setup.keys), silent)
    assert_no_half_is_read_as_good(runs)
    path.write_bytes(content)
    forget(str(runs), by_key(*setup.keys), silent)
    assert contents(runs) == setup.expected


def test_a_stage_that_was_removed_meanwhile_is_passed_over(setup, tmp_path, contents):
    runs = Path(shutil.copytree(setup.pledged, tmp_path / "runs"))
    shutil.rmtree(runs / "tokens")
    lines: list[str] = []
    forget(str(runs), by_key(*setup.keys), lines.append)
    assert lines[0].endswith("; passed over as it is not here any more, if it was moved forget there too: tokens")
    left = {name: content for name, content in setup.expected.items() if not name.startswith("tokens/")}
    assert contents(runs) == left


@pytest.mark.parametrize("name", ["", "tokens"])
def test_another_run_in_the_directory_is_refused(setup, tmp_path, name, contents):
    runs = Path(shutil.copytree(setup.before, tmp_path / "runs"))
    with (
        claim(str(runs / name)),
        pytest.raises(ShardError, match="expected no other run in the directory, found one at work"),
    ):
        forget(str(runs), by_key(*setup.keys), silent)
    assert contents(runs) == contents(setup.before)


@pytest.mark.parametrize("stage", [{"name": ".."}, {"files": ["../kept"]}, {"scratch": ["../kept"]}, {"scratch": "x"}])
def test_a_pledge_that_leads_elsewhere_is_refused_and_nothing_removed(tmp_path, stage):
    (tmp_path / "kept").mkdir()
    (tmp_path / "runs").mkdir()
    pledge = {"names": "0", "stages": [{"name": "", "files": [], "scratch": []} | stage], "reports": []}
    (tmp_path / "runs" / PLEDGE).write_text(json.dumps(pledge))
    with pytest.raises(ShardError, match="expected what forget is to do yet, found .*; nothing was changed: get the"):
        forget(str(tmp_path / "runs"), by_key("0" * 32), silent)
    assert (tmp_path / "kept").is_dir()
