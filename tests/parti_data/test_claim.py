import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parti_data import claim as claims
from parti_data.claim import claim
from parti_data.errors import ShardError
from parti_data.storage import list_directory


def test_a_claimed_directory_is_refused_to_others_until_the_claim_ends(tmp_path):
    place = f"{tmp_path}/a/b"
    with claim(place), claim(f"{tmp_path}/a"):
        Path(place, "file").touch()
        expected = r"a/b: expected no other run in the directory, found one at work"
        with pytest.raises(ShardError, match=expected), claim(place):
            raise AssertionError
    with claim(place):
        assert list_directory(place) == ["file"]


def test_a_claim_ends_with_its_process(tmp_path):
    program = f"""
import os, signal
from parti_data.claim import claim
with claim({str(tmp_path)!r}):
    print("claimed", flush=True)
    signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"claimed\n"
        with pytest.raises(ShardError), claim(str(tmp_path)):
            raise AssertionError
        other.kill()
        other.wait()
        with claim(str(tmp_path)):
            pass


def test_a_claim_leaves_no_empty_directory_and_no_lock_in_a_full_one(tmp_path):
    with claim(f"{tmp_path}/empty"):
        assert (tmp_path / "empty").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_file_cannot_be_claimed(tmp_path):
    (tmp_path / "out").touch()
    expected = r"/out: expected a directory that can be written, found .*; choose another"
    with pytest.raises(ShardError, match=expected), claim(f"{tmp_path}/out"):
        raise AssertionError


def test_a_disk_that_locks_no_directory_is_not_claimed(tmp_path, monkeypatch):
    def refuse(*_: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(claims.fcntl, "flock", refuse)
    with claim(str(tmp_path)), claim(str(tmp_path)):
        pass
