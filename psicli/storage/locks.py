"""Who may use a session port on this machine, and the record of who does.

A lock is a flock on a file that is never unlinked: the kernel frees it with its holder, however that ends, so no lock
is ever stale. What stands in the file is for people only (whose lock, since when, how far) and is read as untrusted
text. The listener locks its port, the dialer its party and the address it dials. The bind is the authority; the lock
says early, and with a name, what the bind could only refuse.

This module is there in the first second of a run: it imports neither grpc nor pyarrow.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import hashlib
import json
import logging
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psicli.core import errors, failpoints, signals
from psicli.core.errors import PsicliError, shown

logger = logging.getLogger(__name__)

SHARED_FOLDER = Path("/run/lock")
# `psicli status` looks at a lock by taking it for a moment; nobody is turned away for that [s].
GLANCE = 0.25
# Between two tries of a run that waits for its turn [s].
RETRY_INTERVAL = 0.1
WAITING_LINE_INTERVAL = 60.0
# What a lock file may hold at most, and what a record is filled up to, so that a shorter one never leaves the end of a
# longer one for somebody to read [bytes].
MAX_RECORD_BYTES = 4096
RECORD_BYTES = 1024


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as it says itself."""

    job: str
    party: str
    where: str
    pid: int
    user: str
    since: str
    task: str = ""
    phase: str = "starting"
    percent: int = 0


class PortLock(AbstractContextManager["PortLock"]):
    """A lock on one file, ours until it is left; raises CannotCreateError when the file cannot be made."""

    def __init__(self, path: Path) -> None:
        self._holder: Holder | None = None
        # Every thread of a run may say how far it is.
        self._writing = threading.Lock()
        self._file = _open(path)

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free; shared: only to see whether it is."""
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, holder: Holder) -> None:
        """Say who holds the lock; without the right to write, the lock holds all the same."""
        record = json.dumps(vars(holder)).encode().ljust(RECORD_BYTES)
        with self._writing, suppress(OSError):
            self._holder = holder
            os.pwrite(self._file, record, 0)
            os.ftruncate(self._file, len(record))

    def update(self, task: str, phase: str, percent: int) -> None:
        """Say how far the holder is; does nothing when that is said already."""
        if self._holder is None:
            return
        holder = replace(self._holder, task=task, phase=phase, percent=percent)
        if holder != self._holder:
            self.write(holder)

    def read(self) -> Holder | None:
        """Return who says to hold the lock; None when the file says nothing sensible."""
        # The first look may meet a record that is half written.
        looks = (_parse(os.pread(self._file, MAX_RECORD_BYTES, 0)) for _ in range(2))
        return next((holder for holder in looks if holder), None)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        self._file = -1


def lock_folder() -> Path:
    """Return the folder all users of the machine share for locks."""
    with suppress(OSError):
        if SHARED_FOLDER.stat().st_mode & 0o1777 == 0o1777:
            return SHARED_FOLDER
    return Path(tempfile.gettempdir())


def port_lock_path(port: int) -> Path:
    return lock_folder() / f"psicli-port-{port}.lock"


def dial_lock_path(party: str, address: str) -> Path:
    return lock_folder() / f"psicli-dial-{party}-{hashlib.sha256(address.encode()).hexdigest()[:16]}.lock"


@contextmanager
def hold_port(job: str, party: str, host: str, port: int, timeout: float) -> Iterator[PortLock]:
    """Hold the lock of a port that can be bound, as its listener.

    Waits up to timeout [s] for both; raises LockHeldError, PortBusyError (75), BindError (78).
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    deadline = time.monotonic() + timeout
    with PortLock(port_lock_path(port)) as lock:
        _acquire(lock, f"port {port}", deadline)
        lock.write(_ourselves(job, party, where))
        _wait_for(lambda: _bind_failure(host, port, where), deadline)
        yield lock


@contextmanager
def hold_dial(job: str, party: str, address: str, timeout: float) -> Iterator[PortLock]:
    """Hold the lock of a party and the address it dials; raises LockHeldError after timeout [s]."""
    deadline = time.monotonic() + timeout
    with PortLock(dial_lock_path(party, address)) as lock:
        _acquire(lock, f"the connection from {party} to {address}", deadline)
        lock.write(_ourselves(job, party, f"to {address}"))
        yield lock


def holders() -> list[Holder]:
    """Return who runs here, of all users; oldest first."""
    found = []
    for path in lock_folder().glob("psicli-*.lock"):
        with suppress(PsicliError), PortLock(path) as lock:
            # Shared: two that look must not take each other for the holder who stands in the file.
            if not lock.try_acquire(shared=True) and (holder := lock.read()):
                found.append(holder)
    return sorted(found, key=lambda holder: holder.since)


def _acquire(lock: PortLock, what: str, deadline: float) -> None:
    def failure() -> PsicliError | None:
        if lock.try_acquire():
            return None
        who = "a job that does not say which"
        if holder := lock.read():
            who = f"job {holder.job} of {holder.party} (pid {holder.pid}, {holder.user}, since {holder.since})"
        return errors.LockHeldError(what=what, holder=who)

    _wait_for(failure, max(deadline, time.monotonic() + GLANCE))
    failpoints.passage("lock.acquired")


def _wait_for(failure: Callable[[], PsicliError | None], deadline: float) -> None:
    """Try until there is no failure; raises the last one at the deadline, BindError at once."""
    next_line = time.monotonic() + 1.0
    while (error := failure()) is not None:
        if time.monotonic() >= deadline or isinstance(error, errors.BindError):
            raise error
        if time.monotonic() >= next_line:
            logger.info("waiting: %s", error)
            next_line += WAITING_LINE_INTERVAL
        signals.pause(RETRY_INTERVAL)


def _bind_failure(host: str, port: int, where: str) -> PsicliError | None:
    """Try the bind, and let go; another program in between is found by the real one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                return errors.PortBusyError(where=where)
            return errors.BindError(where=where, reason=errors.reason(exc))
    return None


def _ourselves(job: str, party: str, where: str) -> Holder:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return Holder(job, party, where, os.getpid(), user, now)


def _open(path: Path) -> int:
    """Open a lock file, making it if there is none.

    An existing one is opened without O_CREAT, which sticky folders refuse for other users' files, and read-only where
    it may not be written: a read-only descriptor locks as well.
    """
    # Not blocking: a FIFO that somebody put there would keep us for ever.
    safe = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with errors.creating(path):
        for flags in (os.O_RDWR, os.O_RDONLY):
            with suppress(FileNotFoundError, PermissionError):
                return _regular(os.open(path, flags | safe), path)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | safe, 0o666)
            # Every user of the machine may lock it, whatever our umask.
            os.fchmod(descriptor, 0o666)
            return descriptor
        return _regular(os.open(path, os.O_RDWR | safe), path)


def _regular(descriptor: int, path: Path) -> int:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise errors.CannotCreateError(path=path, reason="it is not a regular file")


def _parse(record: bytes) -> Holder | None:
    """Read a record that anybody may have written."""
    try:
        values = json.loads(record)
        known: dict[str, Any] = {field.name: values[field.name] for field in fields(Holder)}
        numbers: dict[str, Any] = {name: int(known.pop(name)) for name in ("pid", "percent")}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    texts: dict[str, Any] = {name: shown(str(value)).strip("'") for name, value in known.items()}
    return Holder(**texts, **numbers)
