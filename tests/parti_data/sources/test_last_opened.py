import os
import threading

import pytest

from parti_data.sources.last_opened import LastOpened


class Reader:
    def __init__(self, path: str, *options: object):
        self.path, self.options, self.is_closed = path, options, False

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def files(tmp_path) -> list[str]:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"1")
    return [f"{tmp_path}/a", f"{tmp_path}/b"]


def test_a_file_is_opened_once_for_many_calls_and_closed_for_the_next(files):
    last = LastOpened(Reader)
    first = last.get(files[0], "x")
    assert last.get(files[0], "x") is first
    assert (first.path, first.options, first.is_closed) == (files[0], ("x",), False)
    second = last.get(files[1], "x")
    assert (first.is_closed, second.is_closed) == (True, False)
    assert last.get(files[1], "y") is not second


def test_a_file_that_has_changed_is_opened_anew(files, tmp_path):
    last = LastOpened(Reader)
    first = last.get(files[0])
    os.utime(files[0], ns=(1, 1))
    second = last.get(files[0])
    assert second is not first
    (tmp_path / "a").write_bytes(b"22")
    assert last.get(files[0]) is not second


def test_threads_do_not_share_and_close_when_they_end(files):
    last = LastOpened(Reader)
    mine, theirs = last.get(files[0]), []
    thread = threading.Thread(target=lambda: theirs.append(last.get(files[0])))
    thread.start()
    thread.join()
    assert theirs[0] is not mine
    assert (theirs[0].is_closed, mine.is_closed) == (True, False)


def test_a_child_process_opens_its_own(files, monkeypatch):
    last = LastOpened(Reader)
    mine = last.get(files[0])
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert last.get(files[0]) is not mine


def test_a_file_that_has_gone_or_cannot_be_opened_leaves_nothing_half_open(files):
    def refuse(path: str) -> Reader:
        raise ZeroDivisionError

    last = LastOpened(refuse)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            last.get(files[0])
    with pytest.raises(FileNotFoundError):
        last.get(files[0] + "none")
