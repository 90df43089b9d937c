"""What is measured of a split that is not yet measured whole."""

from itertools import islice

import pytest

from parti_data.images import ImageLimits
from parti_data.ledger import read_ledger
from parti_data.storage import list_directory
from pipelines import fragments, measure_pairs
from pipelines.fragments import FRAGMENTS, fragment_path, keep_parts, part_path, read_parts, remove_parts
from pipelines.measure_pairs import Measuring, measure_pair, measure_split


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(fragments, "PART_ROWS", 10)


@pytest.fixture
def measure(synthetic, tmp_path):
    """Measure the first split, of 32 rows, into a directory; return its fragment's bytes."""

    def run(name: str) -> bytes:
        output = str(tmp_path / name)
        list(measure_split(synthetic.splits()[0], Measuring(synthetic, ImageLimits(), (), output), False))
        return (tmp_path / name / "measured/split-00000.parquet").read_bytes()

    return run


def parts_of(tmp_path, name: str) -> list[str]:
    return [file for file in list_directory(str(tmp_path / name / FRAGMENTS)) if file.startswith("part-")]


class StoppedError(Exception):
    pass


def stop_after(monkeypatch, rows: int) -> list[str]:
    """Let measuring fail after so many rows; return the list of what is measured from now on."""
    measured: list[str] = []

    def measure_or_stop(pair, source, measuring):
        if len(measured) == rows:
            raise StoppedError
        measured.append(pair.source_key)
        return measure_pair(pair, source, measuring)

    monkeypatch.setattr(measure_pairs, "measure_pair", measure_or_stop)
    return measured


@pytest.mark.parametrize(("stopped_after", "kept"), [(0, 0), (9, 0), (10, 1), (25, 2), (31, 3)])
def test_a_stopped_run_goes_on_after_its_last_part(measure, tmp_path, monkeypatch, stopped_after, kept):
    whole = measure("whole")
    with monkeypatch.context() as patch:
        before = stop_after(patch, stopped_after)
        with pytest.raises(StoppedError):
            measure("out")
    assert len(parts_of(tmp_path, "out")) == kept
    with monkeypatch.context() as patch:
        after = stop_after(patch, 1000)
        assert measure("out") == whole
    assert before[: 10 * kept] + after == [row.source_key for row in read_ledger(fragment_path(f"{tmp_path}/whole", 0))]
    assert parts_of(tmp_path, "out") == []


def test_parts_of_one_split_are_not_those_of_another(measure, tmp_path, monkeypatch):
    output = str(tmp_path / "out")
    with monkeypatch.context() as patch:
        stop_after(patch, 25)
        with pytest.raises(StoppedError):
            measure("out")
    assert [row.source_key for row in read_parts(output, 1)] == []
    rows = list(read_parts(output, 0))
    assert len(rows) == 20
    assert list(islice(keep_parts(output, 1, iter(rows), 0), 15)) == rows[:15]
    remove_parts(output, 0)
    assert list(read_parts(output, 0)) == []
    assert list(read_parts(output, 1)) == rows
    remove_parts(output)
    assert parts_of(tmp_path, "out") == []


def test_no_part_outlives_a_run(measure, tmp_path, monkeypatch, synthetic, make_config, run_stage, contents):
    with monkeypatch.context() as patch:
        stop_after(patch, 25)
        with pytest.raises(StoppedError):
            measure("out")
    left = (tmp_path / part_path("out", 0, 1)).read_bytes()
    config = make_config("filter", tmp_path / "whole")
    run_stage(config)
    assert parts_of(tmp_path, "whole") == []
    (tmp_path / "whole/manifest.json").unlink()
    (tmp_path / part_path("whole", 0, 1)).write_bytes(left)
    expected = contents(tmp_path / "whole")
    run_stage(config)
    found = contents(tmp_path / "whole")
    assert found.keys() - expected.keys() == {"manifest.json"}
    assert expected.keys() - found.keys() == {"measured/part-00000-000001.parquet"}
