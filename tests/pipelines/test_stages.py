"""What filter, shard, tokenize and export have in common."""

import errno
import io
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from parti_data import storage
from parti_data.errors import ShardError
from parti_data.manifest import BEGUN, MANIFEST, StageDirectory, read_manifest
from parti_data.metrics import METRICS
from pipelines.verify import verify

STAGES = ("filter", "shard", "tokenize", "export")
FINISHED = {"filter": "filtered", "shard": "sharded", "tokenize": "tokens", "export": "exported"}
NUM_PROCESSES = {"filter": 2, "shard": 4, "tokenize": 2, "export": 2}
"""Four of one stage alone, which imports the least, as each process takes seconds to start."""
WAYS = {
    "again": ["--direct_num_workers=1"],
    "two threads": ["--direct_num_workers=2"],
    "four threads": ["--direct_num_workers=4"],
    "two threads behind grpc": ["--direct_num_workers=2", "--direct_running_mode=multi_threading"],
    "processes": ["--direct_running_mode=multi_processing"],
    "every bundle twice": ["--direct_num_workers=1", "--direct_runner_bundle_repeat=1"],
    "runner by name": ["--runner=FnApiRunner"],
}


@pytest.fixture(params=STAGES)
def stage(request) -> str:
    return request.param


@pytest.fixture
def finished(request, stage) -> str:
    """The stage's directory, made by one worker."""
    return request.getfixturevalue(FINISHED[stage])


@pytest.mark.parametrize("way", WAYS)
def test_the_bytes_are_the_same_whoever_ran_it(stage, finished, way, tmp_path, make_config, run_stage, contents):
    processes = [f"--direct_num_workers={NUM_PROCESSES[stage]}"] if way == "processes" else []
    run_stage(make_config(stage, tmp_path / "out"), *WAYS[way], *processes)
    expected = contents(finished)
    found = contents(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_finished_directory_holds_what_its_manifest_lists_and_no_more(finished, contents):
    manifest = read_manifest(finished)
    names = {shard.name for shard in manifest.shards}
    if manifest.stage == "tokenize":
        names.add(manifest.details["quality"]["sheet"]["name"])
    assert contents(finished).keys() == names | {MANIFEST, BEGUN}


def test_foreign_files_in_the_output_are_left_alone(stage, finished, tmp_path, make_config, run_stage, contents):
    """Where img2dataset takes any .json for its own and fails."""
    foreign = dict.fromkeys(("x.json", "00000_stats.json", "measured/x.json", "a.tmp-1"), b"{")
    for name, content in foreign.items():
        storage.publish_bytes(f"{tmp_path}/out/{name}", content)
    run_stage(make_config(stage, tmp_path / "out"))
    (tmp_path / "out" / MANIFEST).unlink()
    run_stage(make_config(stage, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(finished) | foreign


def test_a_finished_directory_is_left_as_it_is(stage, finished, make_config, run_stage, monkeypatch):
    def refuse(path: str):
        raise AssertionError(f"wrote {path}")

    monkeypatch.setattr(storage, "_publish_local", refuse)
    assert run_stage(make_config(stage, finished)) == read_manifest(finished)


@pytest.mark.parametrize("name", ["first", "last"])
def test_a_file_that_is_removed_is_made_again(stage, finished, name, tmp_path, make_config, run_stage, contents):
    shutil.copytree(finished, tmp_path / "out")
    names = [shard.name for shard in read_manifest(finished).shards]
    (tmp_path / "out" / names[0 if name == "first" else -1]).unlink()
    with pytest.raises(
        ShardError,
        match=r"remove what is broken and manifest.json to make it again.*\n.*a file of \d+ bytes, found none$",
    ):
        verify(str(tmp_path / "out"))
    (tmp_path / "out" / MANIFEST).unlink()
    run_stage(make_config(stage, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(finished)


CHANGES = {
    "filter": ({"source": None}, r"source.seed: begun with 0, now 5"),
    "shard": ({"pairs_per_shard": 21}, r"pairs_per_shard: begun with 20, now 21"),
    "tokenize": ({"seed": 3}, r"seed: begun with 0, now 3"),
    "export": ({"rows_per_tar": 5}, r"rows_per_tar: begun with 0, now 5"),
}


def test_another_config_is_refused_and_the_difference_shown(stage, finished, make_config, run_stage, synthetic):
    changes, message = CHANGES[stage]
    if stage == "filter":
        changes = {"source": synthetic.model_copy(update={"seed": 5})}
    with pytest.raises(ShardError, match=rf"expected the config that it was begun with, found another \({message}"):
        run_stage(make_config(stage, finished, **changes))


def test_the_directory_of_another_stage_is_refused(stage, request, make_config, run_stage):
    other = "filter" if stage != "filter" else "shard"
    with pytest.raises(ShardError, match=f"expected an output of {stage}, found one of {other}; choose another output"):
        run_stage(make_config(stage, request.getfixturevalue(FINISHED[other])))


@pytest.mark.parametrize("source_stage", ["tokenize", "none"])
def test_a_source_that_is_no_pairs_is_refused(source_stage, tmp_path, tokens, make_config, run_stage):
    source = tokens if source_stage == "tokenize" else f"{tmp_path}/none"
    for stage in ("shard", "tokenize"):
        with pytest.raises(ShardError, match=r"expected (the output of filter or shard|a finished directory with)"):
            run_stage(make_config(stage, tmp_path / "out", source=source))


class FullFile(io.FileIO):
    """A file on a disk that has no room left."""

    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def moments(finished: str) -> list[int]:
    """How many files are written before the disk is full: few, half, all but the manifest."""
    count = len(read_manifest(finished).shards)
    return [1, 1 + count // 2, 1 + count]


@pytest.mark.parametrize("at", ["write", "fsync"])
def test_a_full_disk_says_so_and_what_is_finished_stays(
    stage, finished, at, tmp_path, make_config, run_stage, contents, monkeypatch
):
    """One run after the other gets a little further, and the last to the end."""
    config, expected = make_config(stage, tmp_path / "out"), contents(finished)
    (tmp_path / "out/measured").mkdir(parents=True)
    (tmp_path / "out/encoded").mkdir()
    publish_local, written, left = storage._publish_local, set(), 0

    def open_aside(path: Path):
        nonlocal left
        left -= 1
        return FullFile(path, "wb") if left < 0 else path.open("wb")

    def fsync(_: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def publish_and_tell(path: Path):
        with publish_local(path) as file:
            yield file
        written.add(str(path.relative_to(tmp_path / "out")))

    def times() -> dict[str, int]:
        return {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in written & expected.keys()}

    finished_at = times()
    for moment in moments(finished):
        left = moment - len(written)
        with monkeypatch.context() as patch:
            patch.setattr(storage, "_publish_local", publish_and_tell)
            patch.setattr(*((storage, "_open_aside", open_aside) if at == "write" else (os, "fsync", fsync)))
            with pytest.raises(
                ShardError, match=rf"^{tmp_path}/out/.*: expected room on the disk, found none left; free some"
            ):
                run_stage(config)
        assert contents(tmp_path / "out").keys() == written - {METRICS}
        assert written
        assert MANIFEST not in written
        assert finished_at.items() <= times().items(), "what was finished was written again"
        finished_at = times()
    run_stage(config)
    found = contents(tmp_path / "out")
    assert {name: found[name] for name in expected} == expected
    assert finished_at == times(), "what was finished was written again"


def test_an_output_that_is_a_file_is_refused(stage, tmp_path, make_config, run_stage):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(ShardError, match=r"/out: expected a directory that can be written, found .*; choose another"):
        run_stage(make_config(stage, tmp_path / "out"))


def test_a_job_that_wrote_elsewhere_is_told(stage, tmp_path, make_config, run_stage, monkeypatch):
    monkeypatch.setattr(StageDirectory, "finish", lambda *_: None)
    with pytest.raises(
        ShardError, match=rf"^{tmp_path}/out: expected the manifest.json that the workers wrote, found no"
    ):
        run_stage(make_config(stage, tmp_path / "out"))
