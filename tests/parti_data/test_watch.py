import io
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parti_data import watch as watch_module
from parti_data.errors import StorageError
from parti_data.step_times import count, take_steps
from parti_data.watch import State, Watched, Watcher, say_state, watch


@pytest.fixture
def finish(tmp_path):
    """Write a finished file of so many rows."""

    def write(name: str, rows: int) -> None:
        pq.write_table(pa.table({"key": ["x"] * rows}), tmp_path / name)

    return write


@pytest.fixture
def watcher(tmp_path):
    """A watcher that begins now, at second 100, for files of these weights."""
    return lambda unit="rows", **weights: Watcher(
        Watched("measure", str(tmp_path), {f"{name}.parquet": weight for name, weight in weights.items()}, unit), 100.0
    )


def test_finished_files_tell_rows_speed_and_time_left(watcher, finish, tmp_path):
    watching = watcher(a=300, b=100, c=600)
    assert watching.look(101.0) == State(0, 0.0, 0, None, None, None)
    finish("a.parquet", 300)
    (tmp_path / "b.parquet.tmp-0").write_bytes(b"half")
    (tmp_path / "other.parquet").write_bytes(b"")
    assert watching.look(130.0) == State(1, 0.3, 300, 10.0, None, 70.0)


def test_a_file_stands_for_its_weight_and_not_for_one_of_many(watcher, finish):
    watching = watcher("image_bytes", a=9_000_000, b=500_000, c=500_000)
    finish("a.parquet", 45)
    assert watching.look(109.0) == State(1, 0.9, 45, 5.0, 1_000_000.0, 1.0)


def test_what_was_finished_before_tells_no_speed(watcher, finish):
    finish("a.parquet", 500)
    watching = watcher(a=500, b=100, c=400)
    assert watching.look(110.0) == State(1, 0.5, 0, None, None, None)
    finish("b.parquet", 100)
    assert watching.look(150.0) == State(2, 0.6, 100, 2.0, None, 200.0)


def test_files_that_shall_be_replaced_count_once_they_are_new(finish, tmp_path):
    for name in "ab":
        finish(f"{name}.parquet", 100)
    watched = Watched("measure", str(tmp_path), {"a.parquet": 300, "b.parquet": 100, "c.parquet": 600}, "size", True)
    watching = Watcher(watched, 100.0)
    assert watching.look(110.0) == State(0, 0.0, 0, None, None, None)
    finish("a.parquet", 100)
    assert watching.look(130.0) == State(1, 0.3, 0, None, None, 70.0)
    for name in "bc":
        finish(f"{name}.parquet", 100)
    assert watching.look(140.0) == State(3, 1.0, 0, None, None, None)


def test_a_footer_is_read_once(watcher, finish, monkeypatch):
    watching = watcher(a=10, b=10)
    finish("a.parquet", 10)
    watching.look(101.0)
    monkeypatch.setattr(watch_module, "_num_rows", lambda path: pytest.fail(path))
    assert watching.look(102.0).rows == 10


def test_a_file_that_has_just_gone_counts_no_rows(watcher, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no footer")
    watching = watcher(a=10)
    assert watching.look(101.0).files == 1
    watching = watcher(a=10, b=10)
    (tmp_path / "b.parquet").write_bytes(b"no footer")
    assert (watching.look(101.0).files, watching.look(101.0).rows) == (2, 0)


@pytest.mark.parametrize(
    ("unit", "weight", "share", "left_s"),
    [("rows", 400, 0.25, 30.0), ("image_bytes", 40_000, 0.125, 70.0), ("size", 40_000, 0.0, None)],
)
def test_threads_of_this_process_tell_of_the_file_that_they_are_at(watcher, unit, weight, share, left_s):
    watching = watcher(unit, a=weight)
    count("rows", 100)
    count("image_bytes", 5000)
    take_steps()
    assert watching.look(110.0) == State(0, share, 100, 10.0, 500.0, left_s)


@pytest.mark.parametrize("unit", ["image_bytes", "size"])
def test_rows_at_work_weigh_as_much_as_finished_ones(watcher, finish, unit):
    watching = watcher(unit, a=1000, b=3000)
    count("rows", 150)
    finish("a.parquet", 100)
    state = watching.look(110.0)
    assert (state.share, state.rows, state.left_s) == (0.375, 150, pytest.approx(10 * 2500 / 1500))


def test_work_is_not_said_to_be_done_before_it_is(watcher, finish):
    watching = watcher(a=100)
    count("rows", 500)
    assert watching.look(101.0).share == 0.99
    finish("a.parquet", 100)
    assert watching.look(102.0).share == 1.0


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (State(0, 0.0, 0, None, None, None), "0 %, 0/40 files"),
        (State(3, 0.125, 1204, 80.25, None, 185.0), "12.5 %, 3/40 files, 1,204 rows, 80.2/s, about 3 min 5 s left"),
        (State(3, 0.125, 10, 1.0, 4.5e6, None), "12.5 %, 3/40 files, 10 rows, 1/s, 4.5 MB/s"),
    ],
)
def test_a_state_is_said_in_one_line(state, text):
    assert say_state(state, 40) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_until(seen: threading.Event, watched: Watched) -> None:
    with watch(watched):
        assert seen.wait(30)


def test_a_log_gets_a_line_now_and_then_and_a_terminal_a_bar(tmp_path, finish, monkeypatch, capsys):
    watched = Watched("measure", str(tmp_path), {"a.parquet": 30, "b.parquet": 10}, "rows")
    monkeypatch.setattr(watch_module, "_LOOK_EVERY_S", 0.01)
    seen, look = threading.Event(), Watcher.look

    def look_and_tell(self, now):
        if watched_looks.append(now) or len(watched_looks) > 3:
            seen.set()
        return look(self, now)

    watched_looks: list[float] = []
    monkeypatch.setattr(Watcher, "look", look_and_tell)
    run_until(seen, watched)
    assert capsys.readouterr().err == ""  # not yet time for a line
    monkeypatch.setattr(watch_module, "LINE_EVERY_S", 0.0)
    finish("a.parquet", 30)
    watched_looks.clear(), seen.clear()
    run_until(seen, watched)
    assert capsys.readouterr().err.startswith("measure: 75.0 %, 1/2 files\n")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    watched_looks.clear(), seen.clear()
    run_until(seen, watched)
    assert "measure" in terminal.getvalue()
    assert "75.0 %, 1/2 files" in terminal.getvalue()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_look_that_fails_is_made_again_later(tmp_path, finish, monkeypatch, capsys, is_terminal):
    monkeypatch.setattr(watch_module, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(watch_module, "LINE_EVERY_S", 0.0)
    finish("a.parquet", 30)
    seen, looks, look = threading.Event(), [], Watcher.look

    def fail_now_and_then(self, now):
        looks.append(now)
        if len(looks) > 3:
            seen.set()
        if len(looks) != 2:
            raise (StorageError, OSError)[len(looks) % 2]("gone")
        return look(self, now)

    monkeypatch.setattr(Watcher, "look", fail_now_and_then)
    monkeypatch.setattr(sys, "stderr", Terminal() if is_terminal else sys.stderr)
    run_until(seen, Watched("measure", str(tmp_path), {"a.parquet": 30, "b.parquet": 10}, "rows"))
    said = sys.stderr.getvalue() if isinstance(sys.stderr, Terminal) else capsys.readouterr().err
    assert "75.0 %, 1/2 files" in said
    assert "Traceback" not in said


def test_the_next_look_waits_longer_than_the_last_one_took(monkeypatch):
    now, state = iter([0.0, 3.0]), State(0, 0.0, 0, None, None, None)
    rests = []

    class Done:
        def wait(self, rest: float) -> bool:
            rests.append(rest)
            return len(rests) > 1

    class Looks:
        def look(self, _: float) -> State:
            return state

    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    assert list(watch_module._states(Looks(), Done())) == [(0.0, state)]
    assert rests == [0.5, 30.0]


def test_files_that_tell_no_rows_have_as_many_as_their_weight(tmp_path):
    watcher = Watcher(Watched("export", str(tmp_path), {"a.tar": 30, "b.tar": 10}, "rows"), 0.0)
    (tmp_path / "a.tar").write_bytes(b"")
    state = watcher.look(10.0)
    assert (state.files, state.share, state.rows) == (1, 0.75, 30)
