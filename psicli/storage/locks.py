"""Locks on session ports of this machine, with a record of who holds them.

A lock is a flock on a file that is never unlinked. The kernel releases it when its holder ends, however that happens,
so no lock is ever stale. The content of the file is only for people (whose lock, since when, how far) and is read as
untrusted text. The listener locks its port; the dialer locks its party together with the address that it dials. Only
the bind decides who gets the port; the lock fails earlier and can name the holder.

A run needs this module in its first second, so it imports neither grpc nor pyarrow.
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
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from psicli.core import errors, failpoints, signals
from psicli.core.errors import PsicliError, shown_name

logger = logging.getLogger(__name__)

SHARED_FOLDER = Path("/run/lock")
# `psicli status` tests a lock by holding it for a moment; a run that starts then waits this long for it [s].
GLANCE = 0.25
# The pause between two attempts of a run that waits for a lock or port [s].
RETRY_INTERVAL = 0.1
WAITING_LINE_INTERVAL = 60.0
# The most that is read from a lock file [bytes].
MAX_RECORD_BYTES = 4096
# Records are padded to this size, so that a short record never leaves the end of a longer one readable [bytes].
RECORD_BYTES = 1024


@dataclass(frozen=True)
class Holder:
    """The holder of a lock, as it describes itself."""

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
    """A lock on one file, released on exit; raises CannotCreateError if the file cannot be created."""

    def __init__(self, path: Path) -> None:
        self._holder: Holder | None = None
        # Every thread of a run may update the record.
        self._writing = threading.Lock()
        self._file = _open(path)

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Acquire the lock if it is free, and return whether it was; shared: only test whether it is free."""
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, holder: Holder) -> None:
        """Write the record of the holder; if this user may not write the file, the lock holds without a record."""
        record = json.dumps(vars(holder)).encode().ljust(RECORD_BYTES)
        with self._writing, suppress(OSError):
            self._holder = holder
            os.pwrite(self._file, record, 0)
            os.ftruncate(self._file, len(record))

    def update(self, task: str, phase: str, percent: int) -> None:
        """Update the holder's progress in the record, if it has changed."""
        if self._holder is None:
            return
        holder = replace(self._holder, task=task, phase=phase, percent=percent)
        if holder != self._holder:
            self.write(holder)

    def read(self) -> Holder | None:
        """Return the holder that the record names, or None if the record is not readable."""
        # The first attempt may read a half-written record.
        attempts = (_parse(os.pread(self._file, MAX_RECORD_BYTES, 0)) for _ in range(2))
        return next((holder for holder in attempts if holder), None)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        self._file = -1


def lock_folder() -> Path:
    """Return the folder for locks, shared by all users of this machine."""
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
    """Hold the lock of a listener's port, once the port can also be bound.

    Waits up to `timeout` [s] for both; raises LockHeldError, PortBusyError (75), BindError (78).
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    deadline = time.monotonic() + timeout
    with PortLock(port_lock_path(port)) as lock:
        _acquire(lock, f"port {port}", deadline)
        # 0.0.0.0 is no address that anybody could dial.
        lock.write(_own_record(job, party, f"port {port}" if ip_address(host).is_unspecified else where))
        _wait_for(lambda: _bind_failure(host, port, where), deadline)
        yield lock


@contextmanager
def hold_dial(job: str, party: str, address: str, timeout: float) -> Iterator[PortLock]:
    """Hold the lock of a party and the address it dials; raises LockHeldError after `timeout` [s]."""
    deadline = time.monotonic() + timeout
    with PortLock(dial_lock_path(party, address)) as lock:
        _acquire(lock, f"the connection from {party} to {address}", deadline)
        lock.write(_own_record(job, party, f"to {address}"))
        yield lock


def holders() -> list[Holder]:
    """Return the holders of all locks on this machine, of all users, oldest first."""
    found = []
    for path in lock_folder().glob("psicli-*.lock"):
        with suppress(PsicliError), PortLock(path) as lock:
            # A shared lock, so that two readers do not mistake each other for the holder that the file still names.
            if not lock.try_acquire(shared=True) and (holder := lock.read()):
                found.append(holder)
    return sorted(found, key=lambda holder: holder.since)


def _acquire(lock: PortLock, what: str, deadline: float) -> None:
    def failure() -> PsicliError | None:
        if lock.try_acquire():
            return None
        who = "an unknown job"
        if holder := lock.read():
            who = f"job {holder.job} of {holder.party} (pid {holder.pid}, {holder.user}, since {holder.since})"
        return errors.LockHeldError(what=what, holder=who)

    _wait_for(failure, max(deadline, time.monotonic() + GLANCE))
    failpoints.hit("lock.acquired")


def _wait_for(failure: Callable[[], PsicliError | None], deadline: float) -> None:
    """Retry until there is no failure; raises the last one at the deadline, BindError immediately."""
    next_line = time.monotonic() + 1.0
    while (error := failure()) is not None:
        if time.monotonic() >= deadline or isinstance(error, errors.BindError):
            raise error
        if time.monotonic() >= next_line:
            logger.info("waiting: %s", error)
            next_line += WAITING_LINE_INTERVAL
        signals.pause(RETRY_INTERVAL)


def _bind_failure(host: str, port: int, where: str) -> PsicliError | None:
    """Bind the port and release it; return why that failed. The real bind later finds a program that came between."""
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


def _own_record(job: str, party: str, where: str) -> Holder:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return Holder(job, party, where, os.getpid(), user, now)


def _open(path: Path) -> int:
    """Open a lock file, creating it if necessary.

    An existing file is opened without O_CREAT, which sticky folders refuse for other users' files. If this user may not
    write it, it is opened read-only, which is enough to lock it.
    """
    # Non-blocking: opening a FIFO that somebody put there could block forever.
    safe = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with errors.creating(path):
        for flags in (os.O_RDWR, os.O_RDONLY):
            with suppress(FileNotFoundError, PermissionError):
                return _regular(os.open(path, flags | safe), path)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | safe, 0o666)
            # Let every user of the machine lock it, regardless of umask.
            os.fchmod(descriptor, 0o666)
            return descriptor
        return _regular(os.open(path, os.O_RDWR | safe), path)


def _regular(descriptor: int, path: Path) -> int:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise errors.CannotCreateError(path=path, reason="it is not a regular file")


def _parse(record: bytes) -> Holder | None:
    """Parse a record, which any user may have written; return None if it is not valid."""
    try:
        values = json.loads(record)
        known: dict[str, Any] = {field.name: values[field.name] for field in fields(Holder)}
        numbers: dict[str, Any] = {name: int(known.pop(name)) for name in ("pid", "percent")}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    texts: dict[str, Any] = {name: shown_name(str(value)).strip("'") for name, value in known.items()}
    return Holder(**texts, **numbers)
