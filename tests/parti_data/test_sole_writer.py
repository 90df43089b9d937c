import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from parti_data import sole_writer as writers
from parti_data.sole_writer import remove_abandoned, sole_writer


def publish(part: BinaryIO, path: Path) -> None:
    part.flush()
    os.replace(part.name, path)


def write(path: Path, content: bytes) -> bool:
    """Write it, unless another has; return whether it was written."""
    with sole_writer(path) as part:
        if path.exists():
            return False
        part.write(content)
        time.sleep(0.01)
        publish(part, path)
        return True


def test_one_of_many_threads_writes_and_the_others_find_what_it_wrote(tmp_path):
    for number in range(5):
        with ThreadPoolExecutor(16) as pool:
            written = list(pool.map(lambda who, n=number: write(tmp_path / str(n), str(who).encode()), range(16)))
        assert sum(written) == 1
        assert (tmp_path / str(number)).read_bytes() == str(written.index(True)).encode()
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "3", "4"]


def test_a_block_that_raises_leaves_nothing_and_lets_the_next_in(tmp_path):
    with pytest.raises(ZeroDivisionError), sole_writer(tmp_path / "f") as part:
        part.write(b"half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
    assert write(tmp_path / "f", b"x")


WRITE_FOR_EVER = """
import sys, time
from pathlib import Path
from parti_data.sole_writer import sole_writer
with sole_writer(Path(sys.argv[1])) as part:
    part.write(b"half")
    part.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_lets_go_and_the_next_starts_anew(tmp_path):
    path, part = tmp_path / "f", tmp_path / "f.part"
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert not remove_abandoned(part)
        waiting = threading.Thread(target=write, args=(path, b"x"))
        waiting.start()
        time.sleep(0.05)
        assert not path.exists()
        child.kill()
        waiting.join(10)
    assert path.read_bytes() == b"x"
    assert os.listdir(tmp_path) == ["f"]


def test_what_a_killed_writer_left_is_removed_and_what_is_written_is_not(tmp_path):
    part = tmp_path / "f.part"
    part.write_bytes(b"half")
    assert remove_abandoned(part)
    assert remove_abandoned(part)
    with sole_writer(tmp_path / "f") as file:
        assert not remove_abandoned(part)
        publish(file, tmp_path / "f")
        assert remove_abandoned(part)
    assert os.listdir(tmp_path) == ["f"]


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    with sole_writer(tmp_path / "f"):
        child = os.fork()
        if child == 0:
            time.sleep(5)
            os._exit(0)
    started = time.monotonic()
    with sole_writer(tmp_path / "f"):
        assert time.monotonic() - started < 2
    os.kill(child, 9)
    os.waitpid(child, 0)


def test_on_a_disk_without_locks_each_writes_its_own(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(writers.fcntl, "flock", refuse)
    path = tmp_path / "f"
    with sole_writer(path) as one, sole_writer(path) as other:
        one.write(b"x")
        other.write(b"x")
        assert not remove_abandoned(Path(one.name))
        os.utime(other.name, (0, 0))
        assert remove_abandoned(Path(other.name))
        publish(one, path)
    assert path.read_bytes() == b"x"
    assert os.listdir(tmp_path) == ["f"]


def test_other_failures_of_locking_are_told(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output error"), sole_writer(tmp_path / "f"):
        raise AssertionError


def test_a_name_that_never_stays_is_not_waited_for(tmp_path, monkeypatch):
    is_same = os.path.samestat
    monkeypatch.setattr(writers.os.path, "samestat", lambda *_: False)
    with sole_writer(tmp_path / "f") as part:
        part.write(b"x")
        monkeypatch.setattr(writers.os.path, "samestat", is_same)
        publish(part, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"x"
