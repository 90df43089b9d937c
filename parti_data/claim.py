"""One run at a time in a directory: a lock on a local disk, a lease on an object store.

The lock ends with its process. The lease is an object, `lease.json`, that a thread renews while the run lives; a killed
run's lease expires and is taken over, so that run can start again some minutes later. It is no part of a finished
directory. A run that stood still for seconds between reading and writing the lease could enter beside another, which
then stops at its next renewal; both write the same bytes.
"""

import errno
import fcntl
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ValidationError

from parti_data.errors import PartiError, ShardError, StorageError
from parti_data.object_stores import writing
from parti_data.storage import (
    go_on_publishing,
    is_disk,
    join,
    not_writable,
    open_filesystem,
    read_range,
    remove,
    stop_publishing,
)  # fmt: skip

LEASE = "lease.json"
_LOCK_TRIES = 100
_MAX_LEASE_BYTES = 1 << 16
_INTERRUPT = signal.SIGUSR1
"""Not SIGINT, which a shell has its background jobs ignore."""
_NO_LOCKS = (errno.EBADF, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


class LeaseTimes(NamedTuple):
    """Seconds; the clocks of two machines may differ by less than what lies between renewing and expiring."""

    expires_s: float = 180.0
    """How long after its last renewal a lease stands."""
    renew_every_s: float = 30.0
    settle_s: float = 1.0
    """After writing a lease, before reading it back: some stores do not know "write only where nothing is"."""


@contextmanager
def claim(directory: str, times: LeaseTimes | None = None) -> Iterator[None]:
    """Keep other runs out of a directory while the block runs; raises ShardError where one is in it.

    On an object store the block is interrupted, and nothing more is published, once another run has taken the lease.
    Some shared disks have neither locks nor a lease: two runs there do the same work twice and publish the same bytes.
    """
    filesystem, name = open_filesystem(directory)
    with _lock(directory, name) if is_disk(filesystem) else _hold_lease(directory, times or LeaseTimes()):
        yield


@contextmanager
def _lock(directory: str, name: str) -> Iterator[None]:
    tries = (_try_lock(directory, name) for _ in range(_LOCK_TRIES))
    lock = next((lock for lock in tries if lock is not None), None)
    if lock is None:
        raise ShardError(
            f"{directory}: expected a directory that stays, found another under its name {_LOCK_TRIES} times; see what "
            "removes it or choose another output"
        )
    try:
        yield
    finally:
        with suppress(OSError):
            Path(name).rmdir()  # only where the block left it empty
        os.close(lock)


def _try_lock(directory: str, name: str) -> int | None:
    """Return the open and locked directory, None where the run before it has removed it meanwhile."""
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
        lock = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise not_writable(directory, error) from None
    with ExitStack() as closing:
        closing.callback(os.close, lock)
        _flock(directory, lock)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(name)):
                closing.pop_all()
                return lock
    return None


def _flock(directory: str, lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ShardError(
            f"{directory}: expected no other run in the directory, found one at work; wait for its end or choose "
            "another output"
        ) from None
    except OSError as error:  # some shared disks lock no directory
        if error.errno not in _NO_LOCKS:
            raise


class _Terms(BaseModel):
    """What `lease.json` holds."""

    owner: str
    host: str
    pid: int
    renewed_s: float
    """Since 1970."""
    expires_s: float

    def left_s(self) -> float:
        """Return the seconds until it expires; none where its clock is further ahead than a lease stands."""
        left_s = self.renewed_s + self.expires_s - time.time()
        return left_s if left_s <= 2 * self.expires_s else 0.0

    def describe(self) -> str:
        """Return which run holds it."""
        return f"process {self.pid} on {self.host} (run {self.owner[:8]})"


_HELD: "list[_Lease]" = []


@contextmanager
def _hold_lease(directory: str, times: LeaseTimes) -> Iterator[None]:
    lease = _Lease(directory, times)
    try:
        with lease.held():
            yield
    except KeyboardInterrupt:
        if lease.lost:  # it was the lease that interrupted
            raise lease.lost from None
        raise
    finally:
        go_on_publishing(directory)
    if lease.lost:
        raise lease.lost


def give_back_leases(within_s: float = 5.0) -> None:
    """Remove the leases of this process, which ends at once; what takes longer is left to expire."""
    for lease in _HELD:
        thread = threading.Thread(target=lease.give_back, daemon=True)
        thread.start()
        thread.join(within_s)


class _Lease:
    """A run's hold on a directory of an object store."""

    def __init__(self, directory: str, times: LeaseTimes):
        self._directory, self._path, self._times = directory, join(directory, LEASE), times
        self._owner, self._ended = uuid.uuid4().hex, threading.Event()
        self._changing = threading.Lock()
        main = threading.main_thread()
        self._main = main.ident if threading.current_thread() is main else None
        self.lost: ShardError | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Take the lease, renew it while the block runs, and give it back."""
        keeper = threading.Thread(target=self._keep, daemon=True)
        before = signal.signal(_INTERRUPT, signal.default_int_handler) if self._main is not None else None
        try:
            self._take()
            _HELD.append(self)
            keeper.start()
            yield
        finally:
            self._ended.set()
            if self in _HELD:
                _HELD.remove(self)
            if keeper.ident:
                keeper.join()
            if self._main is not None:
                signal.signal(_INTERRUPT, before)
            self.give_back()

    def _take(self) -> None:
        """Write the lease where there is none or an expired one; raises ShardError where another run holds it."""
        standing = self._read()
        if standing and standing.left_s() > 0:
            raise self._occupied(standing)
        failure = None
        try:
            self._write("overwrite" if standing else "create")
        except StorageError as error:  # most likely another run was faster
            failure = error
        time.sleep(self._times.settle_s)
        standing = self._read()
        if standing is None:
            raise failure or ShardError(f"{self._path}: expected the lease just written, found none; start again")
        if standing.owner != self._owner:
            raise self._occupied(standing)

    def _keep(self) -> None:
        """Renew the lease until the run ends; where it is lost, stop the run."""
        renewed = time.monotonic()
        while self.lost is None and not self._ended.wait(self._times.renew_every_s):
            try:
                with self._changing:
                    self._renew()
                renewed = time.monotonic()
            except PartiError as error:
                if time.monotonic() - renewed > self._times.expires_s:
                    self._lose(f"could not renew it ({error})")

    def _renew(self) -> None:
        """Write the lease anew, unless it is given back; where it is another's, stop the run."""
        if self._ended.is_set():
            return
        standing = self._read()
        if standing is None or standing.owner != self._owner:
            self._lose(f"found {standing.describe() if standing else 'none'}")
        else:
            self._write("overwrite")

    def _lose(self, found: str) -> None:
        self.lost = ShardError(
            f"{self._path}: expected this run's lease, {found}; see that no other run is in the directory and start "
            "again, what is finished is kept"
        )
        stop_publishing(self._directory, self.lost)
        if self._main is not None:
            signal.pthread_kill(self._main, _INTERRUPT)

    def give_back(self) -> None:
        """Remove the lease, where it is still this run's; one that cannot be removed now expires by itself."""
        self._ended.set()
        with self._changing, suppress(PartiError):
            standing = self._read()
            if standing and standing.owner == self._owner:
                remove(self._path)

    def _read(self) -> _Terms | None:
        try:  # in one request, between two of which it could be renewed
            return _Terms.model_validate_json(read_range(self._path, 0, _MAX_LEASE_BYTES))
        except FileNotFoundError:
            return None
        except ValidationError:
            raise ShardError(
                f"{self._path}: expected a lease, found something else; remove it if no run is in the directory"
            ) from None

    def _write(self, mode: str) -> None:
        filesystem, name = open_filesystem(self._path)
        terms = _Terms(
            owner=self._owner, host=socket.gethostname(), pid=os.getpid(), renewed_s=time.time(),
            expires_s=self._times.expires_s,
        )  # fmt: skip
        with writing(self._path):
            filesystem.pipe_file(name, terms.model_dump_json(indent=1).encode(), mode=mode)

    def _occupied(self, standing: _Terms) -> ShardError:
        return ShardError(
            f"{self._directory}: expected no other run in the directory, found {standing.describe()}; wait for its "
            f"end, or, if it was killed, {max(standing.left_s(), 0):.0f} s until its {LEASE} expires"
        )
