import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from parti_data import claim as claims
from parti_data.claim import LEASE, LeaseTimes, claim
from parti_data.errors import ShardError, StorageError
from parti_data.storage import list_directory, publish_bytes, read_range


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


def test_a_directory_that_the_run_before_removed_is_made_and_locked_anew(tmp_path, monkeypatch):
    place, flock, seen = tmp_path / "out", claims.fcntl.flock, []

    def flock_late(*arguments):
        if not seen:
            place.rmdir()  # as the end of the run before
        seen.append(arguments)
        return flock(*arguments)

    monkeypatch.setattr(claims.fcntl, "flock", flock_late)
    with claim(str(place)):
        assert place.is_dir()
        with pytest.raises(ShardError, match="expected no other run"), claim(str(place)):
            raise AssertionError
    assert len(seen) == 3


def test_a_directory_that_never_stays_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(claims.os.path, "samestat", lambda *_: False)
    expected = "/out: expected a directory that stays, found another under its name 100 times; see what removes it"
    with pytest.raises(ShardError, match=expected), claim(f"{tmp_path}/out"):
        raise AssertionError


SHORT = LeaseTimes(expires_s=2.5, renew_every_s=0.1, settle_s=0.05)


def read_lease(directory: str) -> dict:
    return json.loads(read_range(f"{directory}/{LEASE}", 0, 1000))


def test_a_leased_directory_is_refused_to_others_until_the_claim_ends(store):
    place = f"{store.new_bucket()}/a"
    who = rf"found process {os.getpid()} on {socket.gethostname()} \(run [0-9a-f]{{8}}\); wait for its end, or, if it "
    with claim(place, SHORT):
        expected = rf"/a: expected no other run in the directory, {who}was killed, \d s until its lease.json expires"
        with pytest.raises(ShardError, match=expected), claim(place, SHORT):
            raise AssertionError
        with claim(f"{place}/below", SHORT), claim(f"{place}b", SHORT):
            pass
        publish_bytes(f"{place}/file", b"x")
        assert list_directory(place) == ["file", LEASE]
    assert list_directory(place) == ["file"]
    with claim(place, SHORT):
        pass


def test_a_lease_is_renewed_for_as_long_as_the_block_runs(s3):
    place = f"{s3.new_bucket()}/a"
    times = LeaseTimes(expires_s=0.6, renew_every_s=0.1, settle_s=0)
    with claim(place, times):
        first = read_lease(place)
        time.sleep(1)
        later = read_lease(place)
        assert later["renewed_s"] > first["renewed_s"] + 0.5
        assert later["owner"] == first["owner"]
        with pytest.raises(ShardError, match="expected no other run"), claim(place, times):
            raise AssertionError


def test_a_lease_that_is_given_back_while_it_is_renewed_does_not_come_again(s3, monkeypatch):
    place, reads, read = f"{s3.new_bucket()}/a", threading.Event(), claims._Lease._read

    def read_slowly(self):
        standing = read(self)
        if threading.current_thread() is not threading.main_thread() and not reads.is_set():
            reads.set()
            time.sleep(0.5)  # before it writes
        return standing

    with claim(place, SHORT):
        monkeypatch.setattr(claims._Lease, "_read", read_slowly)
        assert reads.wait(10)
        claims.give_back_leases()
        time.sleep(1)
        assert list_directory(place) == []


@pytest.mark.parametrize(("ahead_s", "is_free"), [(2, False), (1e9, True)])
def test_a_lease_from_the_far_future_does_not_stand_for_ever(s3, ahead_s, is_free):
    place = f"{s3.new_bucket()}/a"
    terms = {"owner": "0", "host": "elsewhere", "pid": 1, "renewed_s": time.time() + ahead_s, "expires_s": 60}
    publish_bytes(f"{place}/{LEASE}", json.dumps(terms).encode())
    if is_free:
        with claim(place, SHORT):
            assert read_lease(place)["pid"] == os.getpid()
    else:
        with pytest.raises(ShardError, match=r"if it was killed, 6[12] s until"), claim(place, SHORT):
            raise AssertionError


def test_a_lease_ends_with_a_block_that_raises(s3):
    place = f"{s3.new_bucket()}/a"
    with pytest.raises(ZeroDivisionError), claim(place, SHORT):
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), claim(place, SHORT):
        raise KeyboardInterrupt
    assert list_directory(place) == []


def test_a_killed_run_holds_its_lease_until_it_expires(store):
    place = f"{store.new_bucket()}/a"
    program = f"""
import signal
from parti_data.claim import LeaseTimes, claim
with claim({place!r}, LeaseTimes(*{tuple(SHORT)})):
    print("claimed", flush=True)
    signal.pause()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=store.environment()
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == b"claimed\n"
        other.kill()
        other.wait()
        with (
            pytest.raises(ShardError, match=rf"found process {other.pid} on .* if it was killed, [12] s"),
            claim(place),
        ):
            raise AssertionError
        time.sleep(SHORT.expires_s)
        with claim(place, SHORT):
            assert read_lease(place)["pid"] == os.getpid()
    assert list_directory(place) == []


@pytest.mark.parametrize("is_stale", [False, True])
def test_of_runs_that_come_at_once_one_is_inside_at_a_time(store, is_stale):
    place, inside, most, refused = f"{store.new_bucket()}/a", set(), [], []
    if is_stale:
        expired = {"owner": "0", "host": "elsewhere", "pid": 1, "renewed_s": 0, "expires_s": 60}
        publish_bytes(f"{place}/{LEASE}", json.dumps(expired).encode())

    def enter(number: int) -> None:
        try:
            with claim(place, LeaseTimes(10, 0.2, 1)):
                inside.add(number)
                most.append(len(inside))
                time.sleep(1)
                inside.remove(number)
        except ShardError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(refused) == 4 - len(most)
    assert all("expected no other run in the directory, found process" in message for message in refused), refused


def take_over(place: str) -> None:
    terms = read_lease(place) | {"owner": "f" * 32, "pid": 1, "host": "elsewhere"}
    publish_bytes(f"{place}/{LEASE}", json.dumps(terms).encode())


LOST = r"/a/lease.json: expected this run's lease, found process 1 on elsewhere \(run ffffffff\); see that no other"


def test_a_lost_lease_interrupts_the_run_and_is_left_to_the_other(store):
    place = f"{store.new_bucket()}/a"
    started = time.monotonic()
    with pytest.raises(ShardError, match=LOST), claim(place, SHORT):
        take_over(place)
        time.sleep(30)
    assert time.monotonic() - started < 10
    assert read_lease(place)["pid"] == 1


def test_after_a_lost_lease_no_thread_publishes_in_the_directory(s3):
    bucket = s3.new_bucket()
    refused = []

    def work() -> None:
        with pytest.raises(ShardError, match=LOST), claim(f"{bucket}/a", SHORT):
            take_over(f"{bucket}/a")
            time.sleep(0.5)
            publish_bytes(f"{bucket}/ab", b"x")
            try:
                publish_bytes(f"{bucket}/a/b/c", b"x")
            except ShardError as error:
                refused.append(error)
        publish_bytes(f"{bucket}/a/after", b"x")

    thread = threading.Thread(target=work)  # one that cannot be interrupted
    thread.start()
    thread.join()
    assert len(refused) == 1
    assert list_directory(f"{bucket}/a") == ["after", LEASE]


def test_a_lease_that_cannot_be_renewed_is_lost_only_when_it_expires(s3):
    place = f"{s3.new_bucket()}/a"
    with claim(place, SHORT):
        s3.fault = lambda request: "403 Access Denied" if request.startswith("PUT") else None
        time.sleep(0.5)
        s3.fault = lambda request: None
        time.sleep(0.5)
    expected = r"expected this run's lease, could not renew it \(.*found PermissionError.*\); see that no other run"
    with pytest.raises(ShardError, match=expected), claim(place, SHORT):
        s3.fault = lambda request: "403 Access Denied" if request.startswith("PUT") else None
        time.sleep(30)


def test_a_lease_that_cannot_be_written_is_told(s3):
    bucket = s3.new_bucket()
    s3.fault = lambda request: "403 Access Denied" if request.startswith("PUT") else None
    expected = r"/a/lease.json: expected to write it, found PermissionError \(.*\); give credentials that may"
    with pytest.raises(StorageError, match=expected), claim(f"{bucket}/a", SHORT):
        raise AssertionError


def test_something_else_under_the_name_of_the_lease_is_refused(s3):
    bucket = s3.new_bucket()
    publish_bytes(f"{bucket}/a/{LEASE}", b"{}")
    expected = r"/a/lease.json: expected a lease, found something else; remove it if no run is in the directory"
    with pytest.raises(ShardError, match=expected), claim(f"{bucket}/a", SHORT):
        raise AssertionError
