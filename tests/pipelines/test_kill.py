import signal

import pytest

from parti_data.manifest import BEGUN, MANIFEST, read_manifest

FINISHED = {"filter": "filtered", "shard": "sharded", "tokenize": "tokens", "export": "exported"}
NUM_KILLS = 10


def spread(num_moments: int) -> list[int]:
    """Ten moments from the first to the last, those around the manifest among them."""
    last = num_moments - 1
    around_manifest = {last - 2, last - 1, last}
    steps = NUM_KILLS - len(around_manifest)
    return sorted({step * (last - 3) // (steps - 1) for step in range(steps)} | around_manifest)


@pytest.mark.parametrize("stage", FINISHED)
def test_a_stage_that_was_killed_anywhere_ends_with_the_same_bytes(
    stage, request, tmp_path, make_config, run_stage, run_child, contents
):
    expected = contents(request.getfixturevalue(FINISHED[stage]))
    whole = make_config(stage, tmp_path / "whole")
    assert run_child(stage, whole, -1, tmp_path / "moments") == 0
    assert contents(whole.output) == expected
    num_moments = int((tmp_path / "moments").read_text())
    num_files = len(read_manifest(whole.output).shards) + 2
    assert num_moments % 3 == 0
    assert num_moments >= 3 * num_files
    kills = spread(num_moments)
    assert len(kills) == NUM_KILLS
    has_half_files, has_begun, has_manifest = set(), set(), set()
    for moment in kills:
        config = make_config(stage, tmp_path / f"killed-{moment}")
        assert run_child(stage, config, moment, tmp_path / "never") == -signal.SIGKILL
        left = contents(config.output)
        has_half_files.add(any(".tmp-" in name for name in left))
        has_begun.add(BEGUN in left)
        has_manifest.add(MANIFEST in left)
        run_stage(config)
        found = contents(config.output)
        assert found.keys() == expected.keys(), moment
        assert [name for name in expected if found[name] != expected[name]] == [], moment
    assert has_half_files == has_begun == has_manifest == {True, False}


def test_a_stage_that_is_killed_again_and_again_gets_done(tmp_path, make_config, run_child, filtered, contents):
    config = make_config("filter", tmp_path / "out")
    exits = [run_child("filter", config, 6, tmp_path / "moments") for _ in range(12)]
    assert exits[0] == -signal.SIGKILL
    assert exits[-1] == 0
    assert sorted(exits) == exits
    assert contents(config.output) == contents(filtered)
